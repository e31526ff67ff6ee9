"""Draws docs/pictures/certificate.png from a certificate of a function from the plane to the plane.

PYTHONPATH=. python docs/pictures/certificate.py
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from torch import Tensor

from center_smoothing import CenterSmoother, Certificate, Lp, SmoothedOutput, SmoothingBudget

SIGMA, EPS_IN = 0.25, 0.25
X = torch.tensor([0.4, 0.2])
BUDGET = SmoothingBudget(n=1_000, m=2_000)
# Input radii of the curve, and directions in which an attacker is tried.
CURVE = [0.05 * step for step in range(11)]
DIRECTIONS = 16


def base_function(x: Tensor) -> Tensor:
    """Map points to a bent plane: (N, 2) -> (N, 2)."""
    first, second = x.unbind(dim=1)
    return torch.stack([first + 0.3 * torch.sin(3.0 * second), 0.8 * second + 0.4 * first**2], dim=1)


def smoother(seed: int) -> CenterSmoother:
    """Return the smoothed function, with noise of its own for each seed."""
    return CenterSmoother(base_function, Lp(2.0), sigma=SIGMA, budget=BUDGET, seed=seed)


def attacked(eps_in: float) -> list[tuple[Tensor, SmoothedOutput]]:
    """Return inputs at distance eps_in from X in some directions, with the smoothed outputs there."""
    angles = [2.0 * math.pi * step / DIRECTIONS for step in range(DIRECTIONS)]
    inputs = [X + eps_in * torch.tensor([math.cos(angle), math.sin(angle)]) for angle in angles]
    return [(x, smoother(seed=1).smooth(x, example=number)) for number, x in enumerate(inputs)]


def farthest(certificate: Certificate, eps_in: float) -> tuple[Tensor, SmoothedOutput]:
    """Return the one of them whose smoothed output moves most."""
    return max(attacked(eps_in), key=lambda pair: float((pair[1].center - certificate.center).norm()))


def draw_balls(axes: Axes, certificate: Certificate) -> None:
    """Draw the outputs around X and around x', their balls, and what is certified."""
    x_attacked, there = farthest(certificate, EPS_IN)
    eps_out = certificate.eps_out(EPS_IN)
    radius = float(certificate.distances[BUDGET.ranks(EPS_IN / SIGMA).distances - 1])  # R of theory T5
    for x, center, ball, color, name, label in (
        (X, certificate.center, radius, "tab:blue", "x", "R"),
        (x_attacked, there.center, there.radius, "tab:red", "x'", "r'"),
    ):
        noise = SIGMA * torch.randn(400, 2, generator=torch.Generator().manual_seed(2))
        outputs = base_function(x + noise)
        axes.scatter(*outputs.T, s=4, color=color, alpha=0.35, linewidths=0)
        axes.add_patch(Circle(tuple(center.tolist()), ball, fill=False, color=color))
        axes.plot(*center, "o", color=color, label=f"smoothed output at {name}, ball of radius {label} = {ball:.2f}")
    axes.add_patch(Circle(tuple(certificate.center.tolist()), eps_out, fill=False, color="black", linestyle="--"))
    axes.plot([], [], "--", color="black", label=f"certified radius eps_out = {eps_out:.2f}")
    axes.set_aspect("equal")
    axes.set_xlim(float(certificate.center[0]) - 1.1 * eps_out, float(certificate.center[0]) + 1.1 * eps_out)
    axes.set_ylim(float(certificate.center[1]) - 1.1 * eps_out, float(certificate.center[1]) + 1.1 * eps_out)
    axes.set_title(f"Outputs, ||x - x'|| = eps_in = {EPS_IN} = sigma")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False)


def draw_curve(axes: Axes, certificate: Certificate) -> None:
    """Draw eps_out of eps_in, and how far the smoothed output was seen to move."""
    axes.plot(CURVE, certificate.eps_out(CURVE), color="black", label="certified: eps_out(eps_in)")
    moved = [float((farthest(certificate, eps_in)[1].center - certificate.center).norm()) for eps_in in CURVE]
    axes.plot(CURVE, moved, ".", color="tab:red", label=f"seen: the farthest of {DIRECTIONS} x'")
    axes.plot(EPS_IN, certificate.eps_out(EPS_IN), "o", color="black")
    axes.annotate("left picture", (EPS_IN, certificate.eps_out(EPS_IN)), (8, -12), textcoords="offset points")
    axes.set_xlabel("eps_in (h = eps_in / sigma from 0 to 2)")
    axes.set_ylabel("distance between smoothed outputs")
    axes.set_xlim(0.0, CURVE[-1])
    axes.set_ylim(bottom=0.0)
    axes.set_box_aspect(1)
    axes.set_title("The same samples at every eps_in")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False)


def main(args: Sequence[str] | None = None) -> Path:
    """Draw, and return the picture's path; the first argument may name another one."""
    words = list(sys.argv[1:] if args is None else args)
    path = Path(words[0]) if words else Path(__file__).with_suffix(".png")
    mpl.use("Agg")
    certificate = smoother(seed=0).certify(X)
    figure = Figure(figsize=(8.8, 5.7), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_balls(left, certificate)
    draw_curve(right, certificate)
    figure.savefig(path, dpi=140, bbox_inches="tight")
    return path


if __name__ == "__main__":
    main()
