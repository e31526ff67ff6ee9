"""The arguments of certify.py as data, and what of them a budget depends on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from center_smoothing import Budget, Distance
from center_smoothing.attack import AttackBudget
from center_smoothing.budget import Coverage
from center_smoothing.margins import METHODS
from center_smoothing.noise import NoisyInputs
from center_smoothing.planner import Demand, suited_group
from center_smoothing.stopping import with_looks
from certification.sigma_map import SigmaMap
from command_line import named

if TYPE_CHECKING:
    from datamodules import ImageDataModule
    from lightning_modules import BaseModel, LoadedCheckpoint
    from lightning_modules.compiled import CompileMode


@dataclass(frozen=True)
class Computing:
    """On what to compute: arguments of lightning.pytorch.Trainer."""

    accelerator: str = "auto"
    devices: str = "1"
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"


@dataclass(frozen=True)
class Arguments:
    """The arguments of certify.py, each as its help says, and what follows from them.

    Attributes:
        trained: the model that --model.weights has given, with its checkpoint.
        denoiser: name or file of what stands in front of the model, and the arguments of its class; None for nothing.
        trust: whether files may lead to code of whoever wrote them.
        folders: of --from; none for a certification.
        m: several to compare with --plan, else one at most.
        grid: of discrete noise; None for any other.
        noise: the kind of noise, one of ``NOISES``.
        threat: of --threat; None for the norm of the noise.
        attack: what an attack may try; None where there is none.
        command: as it was typed.
    """

    # what is certified
    ckpt: str | None
    model: BaseModel | None
    trained: LoadedCheckpoint | None
    denoiser: tuple[str, dict[str, Any]] | None
    trust: bool
    data: ImageDataModule | None
    num_examples: int | str
    seed: int
    distance: str
    # how
    smoother: str
    clip_norm: float | str | None
    output_bound: float | None
    sigma: float | None
    grid: int | None
    noise: str
    threat: str | None
    sigma_map: SigmaMap | None
    budget: str
    n: int | None
    m: list[int] | None
    k: int | None
    group: int | str | None
    delta: float | None
    alpha1: float | None
    alpha2: float | None
    method: str | None
    rtol: float | None
    eps_out_at_most: float | None
    attack: AttackBudget | None
    audit: bool
    # what is asked, and where it goes
    folders: list[str]
    eps_in: list[float] | None
    h: list[float] | None
    eps_out: list[float] | None
    coverage: Coverage
    plan: bool
    time_limit: float | None
    out: str | None
    # on what
    batch_size: int | str
    computing: Computing
    fold_batch_norm: bool
    channels_last: bool
    compile: Literal["off"] | CompileMode
    command: str

    @property
    def budget_flags(self) -> dict[str, Any]:
        """What flags say of the budget of centers, but for m and the group."""
        flags = {"n": self.n, "k": self.k, "delta": self.delta, "alpha1": self.alpha1, "alpha2": self.alpha2}
        return {**flags, "method": self.method, "noise": None if self.noise == "gaussian" else self.noise}

    @property
    def noise_settings(self) -> dict[str, Any]:
        """What noisy inputs are made with besides sigma and seed, as :class:`NoisyInputs` takes it."""
        sigma_map = None if self.sigma_map is None else self.sigma_map.values
        return {"grid": self.grid, "noise": self.noise, "sigma_map": sigma_map, "threat": self.threat}

    @property
    def inputs(self) -> NoisyInputs:
        """Noisy inputs of this threat at a sigma of 1, not on the grid: to prepare one takes seconds."""
        return NoisyInputs(sigma=1.0, **{**self.noise_settings, "grid": None})

    @property
    def norm(self) -> str:
        """That eps_in is measured in, one of ``NORMS``."""
        return self.inputs.threat.norm

    @property
    def stops(self) -> bool:
        """Whether there is a rule for when to stop sampling an example early."""
        return self.rtol is not None or self.eps_out_at_most is not None


def conversion_at(options: Arguments, point: Tensor) -> float:
    """Return how many times larger changes of a point (*in) may be in the norm of the noise than in that of the threat.

    Raises:
        ValueError: for a map that does not fit it.
    """
    try:
        return options.inputs.conversion(point)
    except ValueError as error:
        raise ValueError(f"--sigma-map must fit the inputs: {error}") from error


@dataclass(frozen=True)
class Request:
    """What of the arguments a budget depends on.

    Attributes:
        options: of certify.py.
        levels: the eps_in that are answered at each sigma, in units of x.
        conversion: h is conversion * eps_in / sigma (theory T15), at most.
    """

    options: Arguments
    levels: Mapping[float, Sequence[float]]
    conversion: float = 1.0

    @property
    def distance(self) -> Distance:
        """Of --distance."""
        return named.distance_by_name(self.options.distance)

    @property
    def ratios(self) -> list[float]:
        """The h that are asked, ascending; of those that nine digits do not tell apart the largest."""
        ratios = sorted(self.conversion * radius / sigma for sigma, radii in self.levels.items() for radius in radii)
        return list({f"{h:.9g}": h for h in ratios}.values())

    @property
    def answers(self) -> int:
        """How many eps_in are answered at a noise level, at most: each level is certified by itself."""
        return max(map(len, self.levels.values()))

    @property
    def fixed(self) -> dict[str, Any]:
        """What of the budget --time-limit does not choose, under the names of :class:`SmoothingBudget`."""
        flags = {**self.options.budget_flags, "group": self.group}
        values = {"method": METHODS[0], **named.budget_values(self.options.budget, **flags), "n": self.options.n}
        return {name: value for name, value in values.items() if name != "m" and value is not None}

    @property
    def demand(self) -> Demand:
        """What --time-limit chooses a budget for."""
        return Demand(
            h=tuple(self.ratios),
            averages=self.distance.averages,
            coverage=self.options.coverage,
            answers=self.answers,
            stops=self.options.stops,
            fixed=self.fixed,
        )

    @cached_property
    def group(self) -> int | None:
        """Of --group; of auto what suits the smallest h, and the largest m of several."""
        group, m = self.options.group, max(self.options.m or [0]) or None
        if group != "auto":
            return None if group is None else int(group)
        return suited_group(lambda each: self._named_budget(m=m, group=each), self.ratios, self.options.noise)

    def budget(self, m: int | None) -> Budget:
        """Return the one of --budget and the flags, at this m or the file's.

        Raises:
            ValueError: as :class:`SmoothingBudget` does, and where sampling could never stop early.
        """
        budget = self._named_budget(m=m, group=self.group)
        budget = budget if self.distance.averages else budget.without_averages()
        return with_looks(budget, self.ratios[-1]) if self.options.stops else budget

    def _named_budget(self, *, m: int | None, group: int | None) -> Any:  # noqa: ANN401  # of the smoother's type
        flags = {**self.options.budget_flags, "m": m, "group": group}
        return named.budget(self.options.budget, self.options.smoother, **flags)
