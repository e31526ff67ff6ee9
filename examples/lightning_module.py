"""The CenterSmoothing callback in a LightningModule that knows nothing of certificates, and the three metrics.

An autoencoder of digits, trained with noise of sigma = 0.2 on their pixels, by a plain Trainer. After each epoch the
callback certifies eight validation digits with few samples; afterwards the test digits are certified with more, and the
metrics of torchmetrics say how the model does. The distance is l2 between images of 784 pixels in [0, 1].
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).parent.parent))

from center_smoothing import CenterSmoother, Certificate
from center_smoothing.lightning import CenterSmoothing
from center_smoothing.metrics import AbstentionRate, MedianCertifiedRadius, MedianSmoothingLoss
from command_line.errors import user_errors
from examples import common

SIGMA = 0.2  # of the noise, in units of pixels
EPOCHS = 4


class Autoencoder(LightningModule):
    """(N, 1, 28, 28) -> (N, 1, 28, 28), through (N, 32)."""

    def __init__(self) -> None:
        super().__init__()
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 32))
        decoder = nn.Sequential(nn.Linear(32, 256), nn.ReLU(), nn.Linear(256, 784), nn.Sigmoid())
        self.network = nn.Sequential(encoder, decoder, nn.Unflatten(1, (1, 28, 28)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the reconstruction."""
        return self.network(x)

    def training_step(self, batch: Sequence[Tensor]) -> Tensor:
        """Return the error of the reconstruction of noisy digits."""
        x, _ = batch
        return functional.mse_loss(self(x + SIGMA * torch.randn_like(x)), x)

    def validation_step(self, batch: Sequence[Tensor]) -> None:
        """Log the error of the reconstruction of clean digits."""
        x, _ = batch
        self.log("val/loss", functional.mse_loss(self(x), x))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def main(args: Sequence[str] | None = None) -> common.Summary:
    """Train, certify, print."""
    with user_errors():
        settings = common.settings(args, __doc__)
        digits = common.digits()
        chosen = settings.chosen(len(digits.test))

    train = TensorDataset(digits.train, digits.train_labels)
    validation = TensorDataset(digits.test, digits.test_labels)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Autoencoder()
        trainer = Trainer(
            max_epochs=EPOCHS,
            callbacks=[CenterSmoothing(sigma=SIGMA, distance="l2")],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, DataLoader(train, batch_size=64, shuffle=True), DataLoader(validation, batch_size=256))
    module.cpu()

    smoother = CenterSmoother(module, "l2", sigma=SIGMA, budget=settings.budget, seed=settings.seed)
    certificates = common.certify(smoother, digits.test, chosen)
    radius, loss, rate = MedianCertifiedRadius(), MedianSmoothingLoss(), AbstentionRate()
    for index, certificate in zip(chosen, certificates, strict=True):
        radius.update([certificate.eps_out(SIGMA)], [index])
        loss.update([certificate.smoothing_loss], [index])
        rate.update([certificate.abstained], [index])
    quality = {type(metric).__name__: float(metric.compute()) for metric in (radius, loss, rate)}
    quality["median distance between two test digits"] = float(torch.pdist(digits.test.flatten(1)).median())
    summary = common.summarise(certificates, quality)
    if settings.out is not None:
        draw(certificates, settings.out)
    return summary


def draw(certificates: Sequence[Certificate], out: Path) -> None:
    """Draw the certified radius of each digit against the size of a change of its pixels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for certificate in certificates:
        certificate.plot(axes)
    axes.set_title("How far reconstructions can move (l2) if the pixels change by eps_in (l2)")
    common.save(figure, out)


if __name__ == "__main__":
    main()
