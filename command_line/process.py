"""The process of a script: its signals, its memory, its folders, and where Weights & Biases writes."""

from __future__ import annotations

import ctypes
import logging
import netrc
import os
import shlex
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from command_line.errors import OTHER_PROCESS, RunState, describe_error, printable

# Seconds that a server of W&B has to answer.
_WANDB_PATIENCE = 4.0
# Seconds in which a process finds out by itself that another one has ended.
_PATIENCE = 15.0


def wandb_offline() -> str | None:
    """Return why Weights & Biases has to run offline, silently then; None where it need not.

    Ask the server for the account of a known key, and wait a few seconds for it; never ask for a key.
    """
    reason = _why_offline()
    if reason is not None:
        os.environ.setdefault("WANDB_SILENT", "true")
    return reason


def wandb_refusal(begin: Callable[[], object]) -> str | None:
    """Return why the server of W&B does not let a run begin; None if ``begin`` could begin it."""
    try:
        begin()
    except Exception as error:  # W&B has several families of them; what is wrong here, a run offline meets again
        import wandb  # slow

        wandb.teardown()  # its process holds the run's id
        os.environ.setdefault("WANDB_SILENT", "true")
        return describe_error(error)
    return None


def _why_offline() -> str | None:
    mode = os.environ.get("WANDB_MODE")
    if mode in ("offline", "dryrun"):
        return f"WANDB_MODE={mode}"
    if mode == "disabled":
        return None
    server = os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"
    key = os.environ.get("WANDB_API_KEY") or _netrc_key(urlparse(server).netloc)
    return _why_unreachable(server.rstrip("/"), key) if key else "no API key"


def _netrc_key(host: str) -> str | None:
    try:
        login = netrc.netrc(os.environ.get("NETRC") or None).authenticators(host)
    except (OSError, netrc.NetrcParseError):
        return None
    return login[2] if login is not None else None


def _why_unreachable(server: str, key: str) -> str | None:
    """Return why runs cannot go to a server of W&B with a key; None if they can."""
    import requests  # W&B's own client comes with it

    try:
        answer = requests.post(
            f"{server}/graphql",
            json={"query": "query Viewer { viewer { id } }"},
            auth=("api", key),
            timeout=_WANDB_PATIENCE,
            headers={"Connection": "close"},
        )
        known = answer.ok and bool((answer.json().get("data") or {}).get("viewer"))
    except (OSError, ValueError, AttributeError) as error:  # no connection; no JSON; JSON of something else
        return f"no connection to {server}: {type(error).__name__}"
    if known:
        # what is left on the disk when they run out is uploaded with `wandb sync`
        os.environ.setdefault("WANDB_INIT_TIMEOUT", "20")
        os.environ.setdefault("WANDB_FINISH_TIMEOUT", "60")
        return None
    refused = answer.ok or answer.status_code in (401, 403)
    return f"{server} does not know the API key" if refused else f"{server} answers {answer.status_code}"


def say_offline(folder: Path, reason: str) -> None:
    """Print one line: why W&B ran offline, where the run is, how to view and to upload it."""
    runs = sorted(folder.glob("wandb/offline-run-*"))
    view = f"view with `wandb leet {shlex.quote(str(from_here(runs[-1] if runs else folder / 'wandb')))}`"
    print(printable(f"W&B ran offline ({reason}): {view}, upload with `wandb sync` of the same"))


def from_here(path: Path) -> Path:
    """Return a path as seen from the current folder, where that is shorter."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def make_writable(folder: Path, name: str) -> None:
    """Create a folder, or raise ValueError naming the argument if it cannot be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".writable-{os.getpid()}.partial"  # several processes may try at once
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ValueError(f"{name} must be a folder that can be written to, got {folder}: {reason}") from error


@contextmanager
def interruptible() -> Iterator[None]:
    """End on Ctrl-C with one line and exit code 1, and on SIGTERM, which cluster managers send before they kill.

    Lightning's own handler waits for the end of a prediction; it leaves one alone that is there already.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler) if in_main_thread else None
    try:
        yield
    except KeyboardInterrupt:
        print("interrupted; nothing that was finished is lost", file=sys.stderr, flush=True)
        raise SystemExit(1) from None
    finally:
        if in_main_thread:
            signal.signal(signal.SIGTERM, before)


def die_with_parent() -> None:
    """Let the kernel end a process that Lightning has launched when the process that launched it ends, however.

    Orphans would go on in a folder that nobody holds locked any more. Elsewhere than on Linux nothing happens.
    """
    if "LOCAL_RANK" not in os.environ or os.environ["LOCAL_RANK"] == "0":
        return
    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError, TypeError):
        return
    pr_set_pdeathsig = 1  # from linux/prctl.h
    prctl(pr_set_pdeathsig, int(signal.SIGKILL))


def end_with_children(state: RunState) -> None:
    """Let a process whose launched processes have failed end with one line and code 2.

    Lightning looks after them every few seconds, and would kill it without a word.
    """
    from lightning.fabric.strategies.launchers import subprocess_script

    def terminate(observer: Any) -> None:  # noqa: ANN401  # of a private class
        time.sleep(_PATIENCE)
        print(f"error: {'; '.join([OTHER_PROCESS, *state.describe_kept()])}", file=sys.stderr, flush=True)
        for process in observer._child_processes:
            process.kill()
        os._exit(2)

    logging.getLogger(subprocess_script.__name__).setLevel(logging.WARNING)
    subprocess_script._ChildProcessObserver._terminate_all = terminate  # type: ignore[method-assign, assignment]


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next forward pass instead of returning it to the kernel after each.

    On a CPU, getting the activations' pages back can cost a third of a forward pass; benchmarks/throughput.py
    shows the ratio. Without glibc nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    m_trim_threshold, m_mmap_max = -1, -4  # from glibc's malloc.h
    mallopt(m_mmap_max, 0)
    mallopt(m_trim_threshold, 2**31 - 1)


def quiet_libraries() -> None:
    """Keep the terminal for what the user asked for: no hints and advertisements of libraries."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric.utilities.seed").setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.accelerators").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric.utilities.distributed").setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.trainer.connectors.signal_connector").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*Experiment logs directory .* exists.*")  # config.yaml is there already
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists.*")  # a run that goes on
    warnings.filterwarnings("ignore", message=".*sync_dist=True.*")  # metrics sync
    warnings.filterwarnings("ignore", message=".*LightningCLI's args parameter.*")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
