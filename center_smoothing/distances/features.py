"""Distances between features of outputs, among them the perceptual distance."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from center_smoothing.base_functions import as_outputs
from center_smoothing.distances.base import Distance, to_float64
from center_smoothing.distances.lp import SquaredL2
from center_smoothing.distances.named import as_distance
from center_smoothing.distances.naming import name_of, owner_of
from center_smoothing.scalars import plain

# Added to squared lengths before the root: where there are hardly any features, their direction says little.
_MIN_SQUARE = 1e-8


class FeatureDistance(Distance):
    """d(phi(a), phi(b)) for a map phi in front of a distance d; it keeps the gamma of d.

    d(phi(a), phi(c)) <= gamma (d(phi(a), phi(b)) + d(phi(b), phi(c))) is the inequality of d, whatever phi is. Outputs
    whose features are NaN or infinite count as not finite. Features are held in float64, 8 bytes each.

    Of a module, or the module of a bound method, a copy is made: in eval mode, not affected by later training. It moves
    to the device of the outputs. phi is called without mixed precision, with gradients only where outputs require them,
    and always on ``batch_size`` outputs, filled up with zeros: equal outputs have equal features in whatever batches.

    Args:
        phi: callable (N, *out) -> (N, *features), each row a function of its own output alone.
        distance: between features, or a function of paired features.
        averages: whether means and medians of *outputs* are outputs too: they are averaged before phi sees them.
        affine: a promise of yours that phi is an affine map. Then the distance is convex in the output where d is:
            phi(s a + t b) = s phi(a) + t phi(b) for s + t = 1. Otherwise a mean of outputs may have features far from
            theirs, and means are not certified.
        dtype: of what phi is given, and of a module's weights; default: float32, and float64 for an affine phi. Outputs
            that overflow it count as not finite.
        batch_size: outputs for each call of phi.

    Raises:
        ValueError: for arguments of another kind, for batch norm without running statistics, for weights that overflow
            dtype, and later for features of another shape.

    Example:
        >>> from center_smoothing import Lp
        >>> lengths = FeatureDistance(lambda z: z.norm(dim=1, keepdim=True), Lp(1))
        >>> lengths(torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0]]))
        tensor([3.], dtype=torch.float64)
    """

    def __init__(
        self,
        phi: Callable[[Tensor], Tensor],
        distance: Distance | Callable[[Tensor, Tensor], Tensor],
        *,
        averages: bool = True,
        affine: bool = False,
        dtype: torch.dtype | None = None,
        batch_size: int = 32,
    ) -> None:
        if not callable(phi):
            raise ValueError(f"phi must be a callable (N, *out) -> (N, *features), got {phi!r}")
        distance = as_distance(distance)
        batch_size = plain(batch_size)
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
        self.dtype = dtype or (torch.float64 if affine else torch.float32)
        if not self.dtype.is_floating_point:
            raise ValueError(f"dtype must be a floating-point type, got {dtype}")
        self.distance = distance
        self.relaxation = distance.relaxation
        self.averages = averages
        self.convex = affine and distance.convex
        self.degree = distance.degree if self.convex else 1.0
        self.batch_size = batch_size
        self.phi = phi if owner_of(phi) is None else _frozen(phi, self.dtype)

    def features(self, outputs: Tensor) -> Tensor:
        """Return phi of each output: (N, *out) -> (N, *features). NaN for outputs not finite in what phi is given.

        ValueError if phi returns another shape.
        """
        outputs = to_float64(outputs).to(self.dtype)
        finite = torch.isfinite(outputs.flatten(1)).all(dim=1)
        outputs = outputs.masked_fill(~finite.reshape(-1, *[1] * (outputs.ndim - 1)), 0.0)
        filling = -len(outputs) % self.batch_size or self.batch_size * (len(outputs) == 0)
        filled = torch.cat([outputs, outputs.new_zeros((filling, *outputs.shape[1:]))])
        kind, owner = outputs.device.type, owner_of(self.phi)
        mixes = torch.amp.is_autocast_available(kind)
        exactly = torch.autocast(kind, enabled=False) if mixes else nullcontext()
        with torch.set_grad_enabled(outputs.requires_grad), exactly:
            if owner is not None:
                owner.to(outputs.device)
            blocks = [block.clone() for block in torch.split(filled, self.batch_size)]
            # what is returned may be a buffer that phi fills again
            found = [as_outputs(self.phi(block), block, "phi").clone() for block in blocks]
        features = torch.cat(found)[: len(outputs)]
        features = features if features.is_floating_point() else to_float64(features)
        return features.masked_fill_(~finite.reshape(-1, *[1] * (features.ndim - 1)), torch.nan)

    def _embed(self, z: Tensor) -> Tensor:
        return self.distance.embed(self.features(z))

    def _compare(self, a: Tensor, b: Tensor) -> Tensor:
        return self.distance.compare(a, b)

    def _compare_paired(self, a: Tensor, b: Tensor) -> Tensor:
        return self.distance.paired(a, b)

    @cached_property
    def _name(self) -> str:
        return name_of(self.phi.backbone if isinstance(self.phi, NormalisedLayers) else self.phi)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(phi={self._name}, distance={self.distance!r})"


class Perceptual(FeatureDistance):
    """The squared l2 distance of normalised deep features; gamma = 2.

    At each position of each layer the channels are scaled to length 1; squared differences are summed over channels,
    averaged over positions, and summed over layers: |Phi(a) - Phi(b)|^2 of all normalised features in one vector, the
    distance of :class:`SquaredL2`. eps_out is at most 10 R, and not 3 R. LPIPS is this with a learned
    weight for each channel. A backbone is copied and called as the phi of a :class:`FeatureDistance`.

    Args:
        backbone: any module that takes outputs (N, *out).
        layers: names of its submodules, as in ``backbone.named_modules()``, whose outputs (N, channels, ...) count;
            default: what the module returns. A layer that is called twice counts twice.
        averages: as for :class:`FeatureDistance`; true for images.
        dtype: likewise.
        batch_size: likewise.

    Raises:
        ValueError: for a layer that the backbone does not have, or does not call.

    Example:
        >>> channels = Perceptual(torch.nn.Flatten(), batch_size=1)
        >>> channels(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]]))
        tensor([2.0000], dtype=torch.float64)
    """

    def __init__(
        self,
        backbone: nn.Module,
        layers: Sequence[str] | None = None,
        *,
        averages: bool = True,
        dtype: torch.dtype = torch.float32,
        batch_size: int = 32,
    ) -> None:
        phi = NormalisedLayers(backbone, [""] if layers is None else layers)
        super().__init__(phi, SquaredL2(), averages=averages, dtype=dtype, batch_size=batch_size)
        self.layers = phi.layers

    def __repr__(self) -> str:
        return f"Perceptual(backbone={self._name}, layers={list(self.layers)!r})"


class NormalisedLayers(nn.Module):
    """Outputs of submodules of a network, "" for itself, normalised, in one vector: (N, *in) -> (N, features)."""

    def __init__(self, backbone: nn.Module, layers: Sequence[str]) -> None:
        super().__init__()
        if not isinstance(backbone, nn.Module):
            raise ValueError(f"backbone must be a torch.nn.Module, got {type(backbone).__name__}")
        if isinstance(layers, str) or len(layers) == 0 or len(set(layers)) < len(layers):
            raise ValueError(f"layers must be a list of different names of submodules, got {layers!r}")
        known = [name for name, _ in backbone.named_modules()]
        for name in layers:
            if name not in known:
                near = difflib.get_close_matches(str(name), known, n=5, cutoff=0.0)
                raise ValueError(f"layers must be names of submodules such as {', '.join(near)}, got {name!r}")
        self.backbone = backbone
        self.layers = tuple(layers)

    def forward(self, x: Tensor) -> Tensor:
        """Return features: (N, *in) -> (N, features)."""
        found: dict[str, list[Tensor]] = {name: [] for name in self.layers}

        def keep(name: str, module: nn.Module, inputs: object, output: object) -> None:
            if not isinstance(output, Tensor) or output.ndim < 2 or len(output) != len(x) or output.numel() == 0:
                got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
                raise ValueError(
                    f"layers must have outputs ({len(x)}, channels, ...), got {got} of {name or 'the backbone'!r}"
                )
            # at once: the next layer may work in place, on what a gradient needs too
            found[name].append(normalised(output.clone() if output.requires_grad else output))

        with ExitStack() as hooks:
            for name in self.layers:
                handle = self.backbone.get_submodule(name).register_forward_hook(partial(keep, name))
                hooks.callback(handle.remove)
            self.backbone(x)
        missing = [name for name, features in found.items() if not features]
        if missing:
            raise ValueError(f"layers must be called by the backbone, got {missing[0]!r}, which is not")
        return torch.cat([each for features in found.values() for each in features], dim=1)


def normalised(features: Tensor, weights: Tensor | None = None) -> Tensor:
    """Scale channels at each position to length 1: (N, channels, *positions) -> (N, channels * positions).

    The squared l2 distance of two of these sums, and averages over positions, weights times squared differences. The
    weights (channels,), at least 0, are 1 by default. A position where all channels are zero stays zero.

    Example:
        >>> normalised(torch.tensor([[3.0, 4.0]]))
        tensor([[0.6000, 0.8000]])
    """
    features = features.flatten(2) if features.ndim > 2 else features.unsqueeze(2)
    # no square may overflow, which would make zeros of large features, and float16 has no such small number
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    largest = features.abs().amax(dim=1, keepdim=True).clamp_min(1.0)
    features = features / largest
    lengths = (features.square().sum(dim=1, keepdim=True) + _MIN_SQUARE / largest.square()).sqrt()
    scaled: Tensor = features / lengths / features.shape[2] ** 0.5
    if weights is not None:
        scaled = scaled * weights.sqrt()[None, :, None]
    return scaled.flatten(1)


def _frozen(phi: Callable[[Tensor], Tensor], dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Copy a model, in eval mode; of a bound method, its module."""
    phi = copy.deepcopy(phi)
    owner = owner_of(phi)
    assert owner is not None  # the caller has asked
    weights = [tensor for tensor in (*owner.parameters(), *owner.buffers()) if tensor.is_floating_point()]
    if any(bool((torch.isfinite(tensor) & ~torch.isfinite(tensor.to(dtype))).any()) for tensor in weights):
        raise ValueError(f"dtype must hold the weights of phi, got {dtype}, in which some are infinite")
    owner.eval().requires_grad_(False).to(dtype)
    for name, module in owner.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise ValueError(
                "phi must not look at its batch, got batch norm without running statistics in "
                f"{name or 'phi itself'!r}; track_running_stats=True gives it some"
            )
    return phi
