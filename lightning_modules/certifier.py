"""Certification as a prediction, so that Lightning's Trainer runs it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from lightning.pytorch import LightningModule
from torch import Tensor

from center_smoothing import CertificateBase, ObjectDistance, Smoother
from center_smoothing.attack import Attack, AttackBudget, attack
from center_smoothing.smoother_base import StoppingRule
from lightning_modules.base import BaseModel, Batch, point_of

# Characters of an object's description that are kept.
_MAX_WORDS = 100_000


@dataclass(frozen=True, eq=False)
class CertifiedExample:
    """What the certification of one example gave."""

    index: int  # of the example in its data set
    image: Tensor  # (C, H, W)
    base_output: Tensor  # f(x), (*out), of the function that was smoothed: clipped where its outputs are
    certificate: CertificateBase  # with the smoothed output
    seconds: float  # it took, without attacks
    attacks: Sequence[Attack] = ()  # on the certificate, one for each eps_in; none where it was not attacked
    point: Tensor | None = None  # (*in), what was smoothed; None where it was not attacked
    described: tuple[str, str] | None = None  # base output and center in words, where outputs are no tensors

    def to(self, device: object, **_: object) -> CertifiedExample:
        """Return itself: Lightning calls it on predictions, instead of looking into a frozen dataclass."""
        return self


class Certifier(LightningModule):
    """Predicts a :class:`CertifiedExample` for each example of a batch.

    Args:
        model: the base model, moved to the Trainer's device with this module.
        smoother: smooths that model.
        stop: when to stop sampling an example, at one of the looks of the budget of a center.
        attack: what attacks on each certificate may try; default: there are none.
        eps_in: input radii of the attacks.
    """

    def __init__(
        self,
        model: BaseModel,
        smoother: Smoother,
        stop: StoppingRule | None = None,
        *,
        attack: AttackBudget | None = None,
        eps_in: Sequence[float] = (),
    ) -> None:
        super().__init__()
        self.model = model
        self.smoother = smoother
        self.stop = stop
        self.attack = attack
        self.eps_in = list(eps_in)

    def predict_step(self, batch: Batch, batch_idx: int) -> list[CertifiedExample]:
        """Certify each example of the batch."""
        examples, distance = [], self.smoother.distance
        for image, index in zip(batch["image"], batch["index"].tolist(), strict=True):
            began = time.perf_counter()
            if isinstance(distance, ObjectDistance):
                distance.forget()  # numbers of objects depend on the example alone
            x = point_of(self.model, image)
            certificate = self.smoother.certify(x, example=index, stop=self.stop)
            base_output = self.smoother.outputs.base_output(x)
            seconds = time.perf_counter() - began
            described = None
            if isinstance(distance, ObjectDistance):
                base, center = (repr(distance.decode(number)) for number in (base_output, certificate.center))
                described = base[:_MAX_WORDS], center[:_MAX_WORDS]
            budget, eps_in = self.attack, () if self.attack is None else self.eps_in
            attacks = [attack(self.smoother, x, certificate, eps_in=e, budget=budget, example=index) for e in eps_in]
            known = image.cpu(), base_output.cpu(), certificate, seconds, attacks, x.cpu() if attacks else None
            examples.append(CertifiedExample(index, *known, described))
        return examples
