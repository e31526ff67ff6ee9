"""How far apart the outputs at two noisy copies of one input are, as a term of a training loss."""

from __future__ import annotations

from torch import Tensor

# In which outputs may be compared: a norm of the difference for each, the square for "mse".
CONSISTENCY_DISTANCES = ("tv", "l1", "mse")


def consistency(first: Tensor, second: Tensor, *, distance: str) -> Tensor:
    """Return the mean distance between paired outputs, divided by the numbers that one output holds.

    The certified output radius is a quantile of the distances between the center and the outputs at noisy copies. The
    center is not known in training, but two independent outputs are at most the sum of their distances to it apart.
    Both are differentiated: with a constant on one side, or with the mean of the two in place of the other, the
    expected gradient would be the same but for a factor, which is the weight's.

    Args:
        first: outputs (N, *out).
        second: outputs (N, *out) at other noisy copies of the same inputs.
        distance: "tv", the sum of the absolute differences between neighbouring pixels of first - second, of images
            (N, C, H, W) or (N, H, W); "l1", the sum of its absolute values; "mse", that of its squares.

    Returns:
        The term, a scalar.

    Raises:
        ValueError: for another distance, and for "tv" between outputs that are no images.

    Example:
        >>> import torch
        >>> a, b = torch.zeros(1, 1, 2, 2), torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])
        >>> [consistency(a, b, distance=distance).item() for distance in ("tv", "l1", "mse")]
        [0.5, 0.5, 0.5]
    """
    difference = first - second
    if distance == "tv":
        if difference.ndim not in (3, 4):
            raise ValueError(
                "consistency_distance must be l1 or mse for outputs that are no images (N, C, H, W) or (N, H, W), got "
                f"'tv' and outputs of shape {tuple(first.shape)}"
            )
        below, right = difference.diff(dim=-2), difference.diff(dim=-1)
        return (below.abs().sum() + right.abs().sum()) / difference.numel()
    if distance == "l1":
        return difference.abs().mean()
    if distance == "mse":
        return difference.square().mean()
    raise ValueError(f"consistency_distance must be one of {', '.join(CONSISTENCY_DISTANCES)}, got {distance!r}")
