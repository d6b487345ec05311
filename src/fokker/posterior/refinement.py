"""Steps doubled until the answer stops moving: how many a guided posterior needs, judged by its own chance."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import torch
from scipy.stats import t as student
from torch import Tensor

from fokker.errors import Diverges, InputError
from fokker.posterior.doubts import Doubt
from fokker.posterior.guided import GuidedPosterior
from fokker.posterior.samples import PosteriorSamples, check_count
from fokker.posterior.smc import TwistedSMC

GROUPS = 8  # independent populations, or groups of samples, whose scatter is the chance
LEAST = 64  # samples of a group, at least
RATE = 0.01  # at which chance alone is taken for a move, for all moments of a measurement together


def refined(
    posterior: GuidedPosterior, y: Any, n: int, seed: int = 0, *, steps: int = 16, most: int = 512, **given: Any
) -> PosteriorSamples:
    """n samples for y (*y_shape), or for each of (M, *y_shape), with as many steps as the answer needs.

    Runs eight independent populations of `TwistedSMC`, or groups of samples of another method, with `steps`, twice as
    many and so on, until no posterior mean of an entry of x or of its square, and no log evidence, differs from that of
    the run before by more than chance (Student's t over the groups, at a joint false-alarm rate of 1 % for each
    measurement). given: as for `sample`, but for steps.

    checks["moved"] is the largest change in units of what chance allows, at most 1 where the answer stands, () or (M,);
    settings["refined"] lists steps and changes, and "diverged" for a run that did: it counts as one that moved. A
    UserWarning says where it still moves at `most` steps. What all populations miss, as a small and distant mode, no
    such test can see.

    InputError for steps that are not below `most`, and for what `sample` refuses; `errors.Diverges` where the run with
    the most steps does.
    """
    check_count(n)
    if not isinstance(posterior, GuidedPosterior):
        got = type(posterior).__name__
        raise InputError(f"posterior: got {got}, one that fokker.guided(prior, forward, likelihood) gives is accepted")
    if not 1 <= steps < most:
        raise InputError(f"steps and most: got {steps} and {most}, 1 <= steps < most is accepted")
    measured, batched = posterior.problem.measurements(y)
    each = posterior.particles if isinstance(posterior, TwistedSMC) else max(LEAST, -(-n // GROUPS))
    before: Tensor | None = None
    moved = torch.full((len(measured),), math.inf, dtype=torch.float64)
    history: list[dict[str, float]] = []
    repeated, run = measured.repeat_interleave(GROUPS, 0), 0
    while True:
        moved, now = torch.full_like(moved, math.inf), None
        try:
            found, doubts = _sampled(posterior, repeated, each, seed + run, steps=steps, **given)
            now = _moments(found)
            if before is not None:
                moved = _moved(now - before)
            history.append({"steps": steps, "moved": float(moved.max())})
        except Diverges:
            if 2 * steps > most:
                raise
            history.append({"steps": steps, "moved": math.inf, "diverged": True})
        if bool((moved <= 1).all()) or 2 * steps > most:
            break
        before, steps, run = now, 2 * steps, run + 1
    for doubt in doubts:
        several = sorted({k // GROUPS for k in doubt.measurements})
        warnings.warn(Doubt(several, doubt.text), stacklevel=2)
    if not bool((moved <= 1).all()):
        still = [int(i) for i in (moved > 1).nonzero().flatten()]
        warnings.warn(f"measurements {still} still move between {steps // 2} and {steps} steps", stacklevel=2)
    return _joined(found, measured, batched, n, moved, history)


def _sampled(posterior: GuidedPosterior, *asked: Any, **given: Any) -> tuple[PosteriorSamples, list[Doubt]]:
    """A run, and the doubts that its samples leave: those of the last run count."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = posterior.sample(*asked, **given)
    for one in told:
        if not isinstance(one.message, Doubt):
            warnings.warn(one.message, stacklevel=3)
    return found, [one.message for one in told if isinstance(one.message, Doubt)]


def _moments(found: PosteriorSamples) -> Tensor:
    """Means over each group of x and of its square, and its log evidence if there is one: (M, GROUPS, F)."""
    x = found.samples.double().flatten(2)
    parts = [x.mean(1), x.square().mean(1)]
    if found.log_evidence is not None:
        parts.append(found.log_evidence.double()[:, None])
    return torch.cat(parts, 1).unflatten(0, (-1, GROUPS))


def _moved(change: Tensor) -> Tensor:
    """The largest |t| of changes (M, GROUPS, F) for each measurement, over what chance allows."""
    error = change.std(1) / math.sqrt(GROUPS)
    score = change.mean(1).abs() / error.clamp(min=1e-12 * float(change.abs().max()) + 1e-300)
    return score.amax(1) / float(student.isf(RATE / 2 / change.shape[2], GROUPS - 1))


def _joined(
    found: PosteriorSamples, y: Tensor, batched: bool, n: int, moved: Tensor, history: list[dict[str, float]]
) -> PosteriorSamples:
    """The groups of each measurement as one, n samples taken evenly."""
    x = found.samples.unflatten(0, (-1, GROUPS)).flatten(1, 2)
    x = x[:, torch.arange(n) * x.shape[1] // n]
    checks = {name: value.unflatten(0, (-1, GROUPS)).amin(1) for name, value in found.checks.items()}
    checks["moved"] = moved
    evidence = found.log_evidence
    if evidence is not None:
        evidence = evidence.unflatten(0, (-1, GROUPS)).logsumexp(1) - math.log(GROUPS)
    lead = (lambda v: v) if batched else (lambda v: v[0])
    return replace(
        found,
        samples=lead(x),
        y=lead(y),
        batched=batched,
        settings={**found.settings, "refined": history},
        log_evidence=None if evidence is None else lead(evidence),
        info={},
        checks={name: lead(value) for name, value in checks.items()},
    )
