"""A checkpoint and images that certify in a moment, in a form that other processes can load."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from tempfile import gettempdir

import lightning
import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image

import certify
from command_line import errors
from lightning_modules import NoisyAutoencoder

_SIZE = 8
_RELIABILITY = Path(certify.__file__).parent / "docs" / "reliability.md"
_WRITES = os.environ.get("CENTER_SMOOTHING_WRITE_DOCS") == "1"


@pytest.fixture
def told(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str, str], None]:
    """Checks that docs/reliability.md tells what the user sees; with CENTER_SMOOTHING_WRITE_DOCS=1 it is written there.

    Called with the section, the fault, and the line on the terminal.
    """
    base = str(tmp_path_factory.getbasetemp())

    def check(section: str, fault: str, seen: str) -> None:
        with FileLock(Path(gettempdir(), "reliability.lock")) if _WRITES else nullcontext():
            line = _without_places(seen, base)
            row = f"| {fault} | `` {line} `` |" if "`" in line else f"| {fault} | `{line}` |"
            page = _RELIABILITY.read_text()
            before, _, after = page.partition(f"\n## {section}\n")
            assert after, f"docs/reliability.md must have a section {section!r}"
            rows, end, rest = after.partition("\n## ")
            if _WRITES:
                others = [line for line in rows.rstrip().splitlines() if not line.startswith(f"| {fault} |")]
                _RELIABILITY.write_text(f"{before}\n## {section}\n" + "\n".join([*others, row]) + f"\n{end}{rest}")
            else:
                assert row in rows.splitlines()

    return check


def _without_places(line: str, base: str) -> str:
    """A line without what is another thing on each machine: folders of the tests, ids, and measured shares."""
    line = re.sub(rf"{re.escape(base)}/[^\s;:,'\"`]*/", ".../", line)
    line = re.sub(r"(0\.25-)[0-9a-f]{8}\b", r"\1ID", line)
    line = re.sub(r"\(pid\(s\) \d+\)", "(pid(s) N)", line)
    line = re.sub(r"\d+(\.\d+)?(e[+-]\d+)?%", "N%", line)
    line = re.sub(r"(test image|around examples) [\d, .]+", r"\1 N", line)
    return line.replace("|", "\\|")


@pytest.fixture
def _stands_for_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails here is a disk, and not the code of a user."""
    monkeypatch.setattr(errors, "_OURS", errors._OURS | {__name__.split(".")[0]})


@pytest.fixture(autouse=True, scope="session")
def _no_account() -> Iterator[None]:
    """W&B writes nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        patch.setenv("MPLBACKEND", "Agg")
        yield


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An autoencoder of 8x8 grey images, and a folder with some beside it."""
    folder, rng = tmp_path_factory.mktemp("tiny"), np.random.default_rng(0)
    (folder / "images").mkdir()
    for number in range(60):
        pixels = rng.integers(0, 256, (_SIZE, _SIZE), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{number:02}.png")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = NoisyAutoencoder(0.25, image_shape=(1, _SIZE, _SIZE), latent_dim=4, channels=(4, 8, 16))
    data = {"root": str(folder / "images"), "image_size": [_SIZE, _SIZE], "mode": "grey", "test_fraction": 0.6}
    content = {
        "state_dict": model.state_dict(),
        "hyper_parameters": dict(model.hparams),
        "pytorch-lightning_version": lightning.__version__,
        "base_model": "NoisyAutoencoder",
        "data": {"class": "ImageFolder", "init_args": data},
    }
    torch.save(content, folder / "tiny.ckpt")
    return folder / "tiny.ckpt"


@pytest.fixture(scope="session")
def tiny_command(tiny_checkpoint: Path) -> list[str]:
    """Arguments of certify.py for twelve examples, all but --out."""
    return [
        f"--ckpt={tiny_checkpoint}", "--n=100", "--m=400", "--k=8", "--num-examples=12", "--batch-size=64",
        "--accelerator=cpu", "--h", "0.5", "1",
    ]  # fmt: skip


@pytest.fixture(scope="session")
def uninterrupted(tiny_command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the certification that is interrupted elsewhere."""
    out = tmp_path_factory.mktemp("uninterrupted") / "out"
    certify.main([*tiny_command, f"--out={out}"])
    return out


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, bytes]]:
    """Gives the files of a folder by name, without times, command and pixels; W&B's and the lock are left out."""
    return _contents


def _contents(folder: Path) -> dict[str, bytes]:
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not name.startswith("wandb/") and path.name != ".lock":
            content = path.read_bytes()
            if name == "certificates.csv":
                content = re.sub(rb",[^,\n]*\n", b"\n", content)
            elif path.suffix == ".png":
                content = content[:8]  # figures are blank in this process
            elif path.suffix in (".json", ".html"):
                content = re.sub(rb"(samples_per_second\D{1,30})[\d.e+-]+", rb"\1", content)
                content = re.sub(rb'"origin": {.*?}|<dl class="origin">.*?</dl>', b"", content, flags=re.DOTALL)
            found[name] = content
    return found
