"""Where centers come from: candidates, and the one that is closest to half of fresh outputs (theory T1 and T2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from center_smoothing.budget import SmoothingBudget
from center_smoothing.certification_sample import averaged_sizes, tuples_of
from center_smoothing.distances.base import Distance
from center_smoothing.noise import Stage
from center_smoothing.sampling import NoisyOutputs

# Candidates of paper mode that are compared with all n outputs at a time.
_CANDIDATES_AT_ONCE = 64


def select(
    outputs: NoisyOutputs, distance: Distance, budget: SmoothingBudget, x: Tensor, example: int
) -> tuple[Tensor, float]:
    """Return the candidate (*out) with the least ceil(n/2)-th smallest distance, and that distance (T1.1, T1.2).

    The radius is inf, and the center zeros, where not one of the candidates is an output.
    """
    rank = _rank_all_pairs if budget.method == "paper" else _rank_pilot
    candidates, radii = rank(outputs, distance, budget, x, example)
    if len(candidates) == 0:  # there is no center, and the check abstains
        return candidates.new_zeros(candidates.shape[1:]), math.inf
    radius, best = radii.min(dim=0)
    return candidates[int(best)], float(radius)


def _rank_pilot(
    outputs: NoisyOutputs, distance: Distance, budget: SmoothingBudget, x: Tensor, example: int
) -> tuple[Tensor, Tensor]:
    """Return candidates (K, *out) from k pilot outputs, and their radii (K,) from n fresh ones."""
    pilot = torch.cat(list(outputs.draw(x, example=example, stage=Stage.PILOT, count=budget.k)))
    candidates = candidates_from(pilot, distance, budget)
    embedded = distance.embed(candidates)
    distances, drawn = embedded.new_zeros((len(candidates), budget.n)), 0
    for batch in outputs.draw(x, example=example, stage=Stage.RANKING, count=budget.n):
        compared = distance.compare(distance.embed(batch), embedded)
        distances[:, drawn : drawn + len(batch)] = compared.T
        drawn += len(batch)
    return candidates, _half_radii(distances, budget)


def candidates_from(pilot: Tensor, distance: Distance, budget: SmoothingBudget) -> Tensor:
    """Return pilot outputs, averages of tuples (T7), and what the distance makes of all (T2): mean, median."""
    kept = _outputs_among(pilot, distance)
    if len(kept) == 0:
        return kept
    sizes = sorted({1, *averaged_sizes(budget, pilot)})
    tuples = [tuples_of(pilot, size, budget.tuples(size), distance) for size in sizes if size <= budget.k]
    return _outputs_among(torch.cat([*tuples, distance.averages_of(kept)]), distance)


def _rank_all_pairs(
    outputs: NoisyOutputs, distance: Distance, budget: SmoothingBudget, x: Tensor, example: int
) -> tuple[Tensor, Tensor]:
    """Return the n ranked outputs of paper mode as candidates, each at distance 0 from itself, and their radii (n,)."""
    ranking = torch.cat(list(outputs.draw(x, example=example, stage=Stage.RANKING, count=budget.n)))
    candidates, step = _outputs_among(ranking, distance), _CANDIDATES_AT_ONCE
    embedded, centers = distance.embed(ranking), distance.embed(candidates)
    blocks = [centers[start : start + step] for start in range(0, max(1, len(centers)), step)]
    return candidates, torch.cat([_half_radii(distance.compare(embedded, block).T, budget) for block in blocks])


def _outputs_among(outputs: Tensor, distance: Distance) -> Tensor:
    """Return the rows of (N, *out) that are outputs (T9)."""
    return outputs[distance.are_outputs(outputs).to(outputs.device)]


def _half_radii(distances: Tensor, budget: SmoothingBudget) -> Tensor:
    """Return the ceil(n/2)-th smallest distance of each candidate, (K, n) -> (K,)."""
    radii = [row.kthvalue(budget.half).values for row in distances]
    return torch.stack(radii) if radii else distances.new_empty(0)
