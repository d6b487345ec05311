"""Langevin dynamics on one density, and the plain score ascent that is not sampling.

    x <- x + (step / 2) s(x) + sqrt(step) xi,        s = grad log p,

wanders over p itself as step -> 0; for N(0, 1) its stationary variance is 1 / (1 - step/4). Without the noise the same
iteration climbs to the modes of p and stays there: the points it returns have lost the spread of p.

Sources: Welling and Teh 2011; Song & Ermon 2019, section 2.2; Roberts and Tweedie 1996 (the bias in the step).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.processes import NoiseProcess, VarianceExploding, check_positive
from fokker.rng import Key, Rows
from fokker.samplers.checks import check_finite, check_state
from fokker.samplers.loop import SampleResult, rows_of_cond, stack, step_noise
from fokker.score import ScoreModel
from fokker.states import Cond, State, column, over_parts


@torch.no_grad()
def langevin(
    model: ScoreModel | Callable[[Tensor], Tensor],
    x: State,
    t: float | None = None,
    *,
    step: float,
    steps: int,
    seed: int = 0,
    noise: bool = True,
    cond: Tensor | Cond | None = None,
    trajectory: bool = False,
) -> SampleResult:
    """`steps` Langevin steps from x (B, *shape): SGLD on p_t of a score model at its time t, or on a score's density.

    model: a score model, with t in its time range and cond as in `sample`; or a function x -> grad log p(x), without
    both, called under no_grad (a function that differentiates enables gradients itself). step: in the square of the
    units of x; a Gaussian direction of variance v diverges above 4 v. noise=False: plain score ascent. A model whose
    noise is correlated, N(0, C), is followed with C s and noise N(0, C), which have the same stationary law.

    Raises InputError naming the argument, FloatingPointError (step and sample) as soon as a state is not finite.
    """
    check_positive("step", step)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError(f"steps: got {steps!r}, an integer of at least 1 is accepted")
    x = check_state("x", x, model if isinstance(model, ScoreModel) else None)
    rows = Rows.grid(1, len(next(iter(x.values())) if isinstance(x, dict) else x))
    if isinstance(model, ScoreModel):
        local = rows_of_cond(model.prepare(cond), rows, slice(None), len(rows), False)
        drift, process = _of_model(model, t, local), model.process
    else:
        if t is not None or cond is not None:
            raise InputError("t, cond: got one beside a score function, they are accepted with a score model")
        local, drift, process = {}, _of_function(model), VarianceExploding()  # of which only the white noise is used
    path, key, started = [x], Key(seed, rows), time.perf_counter()
    for index in range(1, steps + 1):
        x = over_parts(lambda x, slope: x + step / 2 * slope, x, drift(x))
        if noise:
            xi = step_noise(process, x, key.at(step=index), local)()
            x = over_parts(lambda x, xi: x + math.sqrt(step) * xi, x, xi)
        check_finite(x, index, key)
        if trajectory:
            path.append(x)
    return SampleResult(
        samples=x,
        nfe=steps,
        seconds=time.perf_counter() - started,
        settings={
            "sampler": {"name": "langevin", "step": float(step), "steps": steps, "noise": bool(noise)},
            "process": over_parts(lambda p: p.settings(), process) if isinstance(model, ScoreModel) else None,
            "time": t,
            "seed": seed,
        },
        trajectory=stack(path) if trajectory else None,
    )


def _of_model(model: ScoreModel, t: float | None, cond: Cond) -> Callable[[State], State]:
    """C grad log p_t = (m D - x) / sigma^2."""
    low, high = model.time_range
    if isinstance(t, bool) or not isinstance(t, int | float) or not low <= t <= high:
        raise InputError(f"t: got {t!r}, a time from {low:.6g} to {high:.6g} is accepted with this model")

    def part(process: NoiseProcess, x: Tensor, d: Tensor) -> Tensor:
        return (column(process.scale(t), x) * d - x) / column(process.sigma(t) ** 2, x)

    return lambda x: over_parts(part, model.process, x, model.denoise(x, t, cond))


def _of_function(score: Callable[[Tensor], Tensor]) -> Callable[[State], State]:
    def drift(x: State) -> State:
        assert isinstance(x, Tensor)
        slope = score(x)
        if slope.shape != x.shape:
            raise InputError(f"model: its score has the shape {tuple(slope.shape)}, {tuple(x.shape)} is accepted")
        return slope

    return drift
