"""What a run of the digits measures: coverage pixel by pixel, ranks of the truth, errors, beside no network at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fokker.diagnostics.coverage import coverage_per_case
from fokker.diagnostics.sbc import p_value, ranks
from fokker.diagnostics.scores import crps
from fokker.posterior.prior import Prior
from fokker.problems.density_metrics import load, path_of
from fokker.problems.digits import CASES, Case
from fokker.problems.digits_settings import KINDS, LABELS, REAL, SIMULATED, DigitsRun
from fokker.storage import read_json
from fokker.training import validation_levels

NO_NETWORK = "no_network"
COVERED = (0.5, 0.8, 0.95)
LOSS_LEVELS = (0.02, 0.1, 0.3, 1.0, 3.0, 10.0)  # those of `validation_levels`


def scores(case: Case, samples: NDArray, truth: NDArray, y: Tensor) -> dict[str, NDArray]:
    """Measures of samples (M, n, 8, 8) for truths (M, 8, 8) and their data y.

    coverage (3, M, 8, 8) of central intervals; crps and error of the mean (M, 8, 8); mean and std (M, 8, 8); ranks
    (M, 66): of every pixel, of the sum of all and of log p(y given x), which tells draws of the prior from others.
    """
    x = samples.astype(np.float64)
    likely = torch.stack([case.likelihood.log_prob(y, case.forward(torch.from_numpy(v))) for v in x.swapaxes(0, 1)], 1)
    truly = case.likelihood.log_prob(y, case.forward(torch.from_numpy(truth)))
    lowest = -1e300  # counts where the rate is zero
    among = [x.reshape(*x.shape[:2], -1), x.sum((2, 3))[..., None], likely.clamp(min=lowest)[..., None].numpy()]
    true = [truth.reshape(len(truth), -1), truth.sum((1, 2))[:, None], truly.clamp(min=lowest)[:, None].numpy()]
    return {
        "coverage": coverage_per_case(x, truth, COVERED),
        "crps": crps(x, truth),
        "mean": x.mean(1),
        "std": x.std(1, ddof=1),
        "error": x.mean(1) - truth,
        "draws": np.array(x.shape[1]),
        "ranks": ranks(np.concatenate(among, 2), np.concatenate(true, 1)),
    }


def losses(prior: Prior, train: NDArray, test: NDArray, seed: int) -> dict[str, NDArray]:
    """Score loss at `LOSS_LEVELS` on images that the prior has not seen: its own, and a Gaussian's (6,) each.

    The Gaussian has the mean and covariance of the training images, and its loss is known in closed form.
    """
    x = torch.from_numpy(test).to(prior.dtype)
    own = validation_levels(prior, prior.network, (x, {"features": torch.zeros(len(x), 0)}), seed)
    images = torch.from_numpy(train).flatten(1)
    gap, c, d2 = torch.from_numpy(test).flatten(1) - images.mean(0), images.T.cov(), prior.data_std**2
    gaussian, eye = [], torch.eye(len(c), dtype=c.dtype)
    for level in LOSS_LEVELS:
        rho2 = level**2 * d2
        gain = torch.linalg.solve(c + rho2 * eye, c)
        error = (gap @ (gain - eye)).square().mean() + rho2 * gain.square().sum() / len(c)
        gaussian.append(float(error) * (rho2 + d2) / (rho2 * d2))
    return {"loss.prior": np.array([own[f"{level:g}"] for level in LOSS_LEVELS]), "loss.gaussian": np.array(gaussian)}


def hidden(case: Case) -> NDArray:
    """Pixels (8, 8) of which the data say nothing by themselves."""
    return (case.forward.matrix().square().sum(0) == 0).reshape(8, 8).numpy()


def measure(run: DigitsRun, out: Path) -> dict[str, float]:
    """All numbers of the run, by name.

    digits.CASE.METHOD.KIND.METRIC, KIND `real` for images that the prior has not seen and `simulated` for draws of the
    prior itself: coverage50, 80 and 95 over all pixels and images, with _se the standard error; the same of hidden
    pixels where there are any; crps; rmse of the posterior mean; p_ranks, the least p-value of 66 tests of the ranks
    times 66, and p_likelihood, that of log p(y given x) alone; nfe; ess of twisted SMC (median); failed where the
    method diverged. METHOD no_network is the Gaussian
    prior with the mean and covariance of the training images, pseudo_inverse the data alone. digits.prior.loss and
    digits.prior.gaussian_loss are score losses on unseen images.
    """
    truths, metrics, drawn = load(path_of(out, "truths", "samples")), dict[str, float](), 0.0
    for name in run.cases:
        unseen = hidden(CASES[name]())
        for method in [NO_NETWORK, *(method.name for method in run.methods(name))]:
            for kind in KINDS:
                key = f"{name}.{method}.{kind}"
                samples = load(path_of(out, key, "samples"))
                if "failed" in samples:
                    metrics[f"digits.{key}.failed"] = 1
                    continue
                found = load(path_of(out, key, "scores"))
                metrics |= {f"digits.{key}.{k}": v for k, v in _numbers(found, unseen).items()}
                if method == NO_NETWORK:
                    gap = found["pseudo_inverse"] - truths[kind]
                    metrics[f"digits.{name}.pseudo_inverse.{kind}.rmse"] = float(np.sqrt(np.square(gap).mean()))
                    continue
                metrics[f"digits.{key}.nfe"] = int(samples["nfe"])
                metrics[f"digits.{key}.seconds"] = float(samples["seconds"])
                drawn += float(samples["seconds"])
                if "ess" in samples:
                    metrics[f"digits.{key}.ess"] = float(np.median(samples["ess"]))
    training = read_json(out / "models" / "prior" / "training.json")
    metrics["digits.prior.loss"] = float(truths["loss.prior"].mean())
    metrics["digits.prior.gaussian_loss"] = float(truths["loss.gaussian"].mean())
    metrics["digits.prior.train.steps"] = training["records"][-1]["step"]
    metrics["digits.prior.train.seconds"] = training["seconds"]
    return {**metrics, "train.seconds": training["seconds"], "sample.seconds": drawn}


def _numbers(found: Mapping[str, NDArray], unseen: NDArray) -> dict[str, float]:
    coverage = found["coverage"]
    out = {
        "rmse": float(np.sqrt(np.square(found["error"]).mean())),
        "crps": float(found["crps"].mean()),
        "p_ranks": p_ranks(found),
        "p_likelihood": float(p_value(found["ranks"][:, -1], int(found["draws"]))),
    }
    for head, pixels in (("", np.ones_like(unseen)), ("hidden.", unseen)):
        if not pixels.any():
            continue
        for level, values in zip(COVERED, coverage):
            each = values[:, pixels].mean(1)
            out[f"{head}coverage{100 * level:.0f}"] = float(each.mean())
            out[f"{head}coverage{100 * level:.0f}_se"] = float(each.std(ddof=1) / np.sqrt(len(each)))
    return out


def p_ranks(found: Mapping[str, NDArray]) -> float:
    """The least p-value of all ranks, times their number (Bonferroni)."""
    rank, n = found["ranks"], int(found["draws"])
    return float(min(1.0, rank.shape[1] * np.min(p_value(rank, n))))


def summary_lines(run: DigitsRun, metrics: Mapping[str, float]) -> list[str]:
    """The answer in a few lines: error and coverage of the methods on unseen images, beside no network."""
    lines = []
    for case in run.cases:
        lines.append(f"{case}: {run.images} unseen images; error of the mean, coverage of 95 % intervals")
        for name in (*(method.name for method in run.methods(case)), NO_NETWORK):
            head, label = f"digits.{case}.{name}", LABELS.get(name, "no network")
            if f"{head}.{REAL}.rmse" not in metrics:
                lines.append(f"  {label:16s}  diverged")
                continue
            text = f"  {label:16s}  {metrics[f'{head}.{REAL}.rmse']:.4f}  {metrics[f'{head}.{REAL}.coverage95']:.3f}"
            drawn = f"{head}.{SIMULATED}.coverage95"
            lines.append(text + (f"  (truths of the prior: {metrics[drawn]:.3f})" if drawn in metrics else ""))
    return lines
