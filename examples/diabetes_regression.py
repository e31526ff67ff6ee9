"""Certified regression with two outputs, by an estimator of scikit-learn that has no gradients: extremely random trees.

From age, body mass index, blood pressure and five blood values of 442 patients the trees predict how far their diabetes
had progressed a year later, and the logarithm of their triglycerides (s5). All columns are standardised: one unit is
one standard deviation among the training patients. So sigma = 0.1 is noise of a tenth of a standard deviation in every
input, and eps_in = h sigma is the l2 norm of all changes of a patient's inputs together, in standard deviations. The
distance is l2 between pairs of predictions, in standard deviations of the two targets; a norm of a difference is a
metric (gamma = 1).

Read a certificate so: for one error of measurement of size eps_in, fixed beforehand, the smoothed pair of predictions
moves by at most eps_out; with eps_out = 0.5 no prediction moves by more than half a standard deviation of its target.
The smoothing loss is the distance from the trees' own prediction. R2 is the share of a target's variance among test
patients that the trees explain, at most 1.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_diabetes
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.metrics import r2_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

sys.path.insert(0, str(Path(__file__).parent.parent))

from center_smoothing import CenterSmoother, Certificate, Estimator, Lp
from command_line.errors import user_errors
from examples import common

SIGMA = 0.1  # of the noise, in standard deviations of the inputs
FEATURES = ("age", "bmi", "bp", "s1", "s2", "s3", "s4", "s6")  # not the sex, which is no number that has errors
TARGETS = ("progression", "s5")


def main(args: Sequence[str] | None = None) -> common.Summary:
    """Train, certify, print."""
    with user_errors():
        settings = common.settings(args, __doc__)
        table = load_diabetes(scaled=False)
        columns = dict(zip(table.feature_names, table.data.T, strict=True)) | {"progression": table.target}
        inputs, targets = (np.stack([columns[name] for name in names], axis=1) for names in (FEATURES, TARGETS))
        train, test, train_targets, test_targets = train_test_split(inputs, targets, test_size=0.25, random_state=0)
        chosen = settings.chosen(len(test))

    scaler, target_scaler = StandardScaler().fit(train), StandardScaler().fit(train_targets)
    trees = ExtraTreesRegressor(n_estimators=50, min_samples_leaf=5, random_state=0)
    trees.fit(scaler.transform(train), target_scaler.transform(train_targets))

    patients = torch.from_numpy(scaler.transform(test))
    wanted = target_scaler.transform(test_targets)
    explained = r2_score(wanted, trees.predict(patients.numpy()), multioutput="raw_values")
    quality = {f"R2 of {name}": float(value) for name, value in zip(TARGETS, explained, strict=True)}
    quality["median distance between the targets of two test patients"] = float(
        torch.pdist(torch.from_numpy(wanted)).median()
    )

    smoother = CenterSmoother(Estimator(trees), Lp(2), sigma=SIGMA, budget=settings.budget, seed=settings.seed)
    summary = common.summarise(certificates := common.certify(smoother, patients, chosen), quality)
    if settings.out is not None:
        draw(wanted, certificates, settings.out)
    return summary


def draw(wanted: np.ndarray, certificates: Sequence[Certificate], out: Path) -> None:
    """Draw what was measured of all test patients, and the discs that hold smoothed predictions under attack."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle

    figure = Figure(figsize=(8, 6), layout="constrained")
    axes = figure.subplots()
    axes.scatter(wanted[:, 0], wanted[:, 1], s=10, color="lightgrey", label="measured, all test patients")
    held = [certificate for certificate in certificates if not certificate.abstained]
    centers = np.array([certificate.center.tolist() for certificate in held]).reshape(-1, 2)
    axes.scatter(centers[:, 0], centers[:, 1], s=14, color="C0", label="smoothed prediction")
    for h, color in zip(common.H, ("C0", "C1"), strict=True):
        for certificate, center in zip(held, centers, strict=True):
            radius = certificate.eps_out(h * SIGMA)
            axes.add_patch(Circle(center, radius, fill=False, color=color, alpha=0.7))
        axes.plot([], [], color=color, label=f"where it stays for inputs within {h * SIGMA:g} (h = {h:g})")
    axes.set(xlabel="progression, in standard deviations", ylabel="log of triglycerides, in standard deviations")
    axes.set_aspect("equal")
    axes.legend(fontsize="small")
    common.save(figure, out)


if __name__ == "__main__":
    main()
