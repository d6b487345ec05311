"""What samples of a guided posterior tell of themselves: that they fit neither y nor the prior.

Both tests rest on one fact: where y comes from the model, an exact posterior sample x and y have the joint law of the
true x and y. So a p-value that holds for the truth holds for every sample, whatever the prior, the operator and the
number of samples; and that at least half of the samples of a measurement have p <= a has a chance of at most 2 a
(Markov's inequality). Methods are biased, so what is told may also be the method's.

Data: the misfit (y - forward(x))^T R^-1 (y - forward(x)) is chi-square of m for the truth, with Gaussian noise R. For
other laws it is -log p(y given x), compared with that of data drawn from the samples. The mean misfit of the posterior
is at most that of the prior, as the posterior weighs with exp(-misfit / 2): where it is larger, the sampler has failed.

Prior: with z = x + rho eps, E[eps_i given z] = (z - D(z; rho))_i / rho is a conditional mean of a standard normal
variable, hence by Jensen's inequality exceeds u in size with a chance of at most 2 exp(-u^2 / 2), whatever the prior,
heavy tails and far modes included. For a Gaussian prior at its own rho it is half the distance in deviations.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from scipy.stats import chi2
from torch import Tensor

from fokker.errors import InputError
from fokker.likelihoods import Gaussian
from fokker.posterior.problem import MEASURED, Problem
from fokker.processes import NoiseProcess
from fokker.rng import Key, Rows
from fokker.samplers.loop import CHUNK, ENTRIES
from fokker.score import Denoiser
from fokker.states import Cond, column

RATE = 1e-6  # of the misfit for the truth: a false alarm in a measurement has a chance of at most twice that
LARGE = 2.0  # times m that the misfit reaches before it counts: less is what methods leave with many data
SPREADS = 15.0  # of other laws' own draws; an exponential tail reaches that with a chance of e^-16
FAR = 12.0  # standard deviations of the prior from its mean, nearer than which no sample is looked at
CHANCE = 1e-9  # that one sample of the prior is called implausible
THINNEST = 0.05  # of the deviation of the data, the least that counts as that of an entry
JUDGED = 64  # samples of a measurement whose misfit is found
DRAWS = 256  # of data, at least, to compare with


class Doubt(UserWarning):
    """Samples that fit neither y nor the prior: in which measurements, and what is seen in the first of them."""

    def __init__(self, measurements: list[int], text: str):
        super().__init__(measurements, text)
        self.measurements, self.text = measurements, text

    def __str__(self) -> str:
        more = f" (and {len(self.measurements) - 1} more)" if len(self.measurements) > 1 else ""
        return f"measurement {self.measurements[0]}{more}: {self.text}"


@contextmanager
def collected() -> Iterator[list[Doubt]]:
    """The doubts of what is drawn inside, which are then not warned of; other warnings are."""
    found: list[Doubt] = []
    with warnings.catch_warnings():
        warnings.simplefilter("always", Doubt)
        show = warnings.showwarning

        def keep(message: Warning | str, *where: Any, **more: Any) -> None:
            if isinstance(message, Doubt):
                found.append(message)
            else:
                show(message, *where, **more)

        warnings.showwarning = keep
        yield found


@torch.no_grad()
def tell(problem: Problem, x_0: Tensor, cond: Cond, first: int, remedy: str) -> None:
    """A Doubt for each kind of failure of what was drawn, x_0 (M, n, *x_shape) in the coordinates that are diffused.

    cond: the conditions of each measurement. The misfit is that of up to 64 samples a measurement: one evaluation of
    the operator. The denoiser is evaluated for samples beyond 12 standard deviations of the prior alone. remedy: what
    to try where samples are astray.
    """
    n, misfit = x_0.shape[1], _misfit(problem, x_0, cond)
    causes = f"y contradicts the prior, its noise is stated too small, or the method fails here ({remedy})"
    unfit = misfit.found > misfit.most
    worse = unfit.clone()
    if bool(unfit.any()):
        worse[unfit] = misfit.found[unfit] > _of_prior(problem, {name: v[unfit] for name, v in cond.items()})

    def apart(k: int) -> str:
        if misfit.found[k] == math.inf:
            return "y has no probability at the samples"
        return f"the samples' misfit is {misfit.found[k]:.3g} where about {misfit.expected[k]:.3g} is expected"

    _warn(unfit & ~worse, first, lambda k: f"{apart(k)}: {causes}")
    _warn(worse, first, lambda k: f"{apart(k)} and draws of the prior have less: they went astray ({remedy})")
    strange, far, lonely = _implausible(problem, x_0, cond)
    most = 2 * strange.sum(1) >= n

    def outside(k: int, which: Tensor) -> str:
        reached = f"up to {float(far[k][which].max()):.3g} standard deviations from its mean"
        return f"{int(which.sum())} of {n} samples lie where the prior has no mass, {reached}"

    _warn(most & ~unfit, first, lambda k: f"{outside(k, strange[k])}: {causes}")
    few = (strange & lonely).any(1) & ~most & ~unfit
    _warn(few, first, lambda k: f"{outside(k, strange[k] & lonely[k])}: they went astray ({remedy})")


def _warn(which: Tensor, first: int, text: Callable[[int], str]) -> None:
    """One Doubt for the measurements (M,) concerned, with what is seen in the first of them."""
    found = which.nonzero().flatten().tolist()
    if found:
        warnings.warn(Doubt([first + k for k in found], text(found[0])), stacklevel=5)  # where `sample` was called


class _Misfit(NamedTuple):
    """The median over the samples of each measurement, the most that it may be, and what is expected, (M,)."""

    found: Tensor
    most: Tensor
    expected: Tensor


def _misfit(problem: Problem, x_0: Tensor, cond: Cond) -> _Misfit:
    """That of up to 64 samples of each measurement; found is 0 where there is no law to compare it with."""
    (many, n), m, law = x_0.shape[:2], math.prod(problem.y_shape), problem.likelihood
    none = _Misfit(*torch.zeros(3, many, dtype=torch.float64))
    if m == 0 or (isinstance(law, Gaussian) and law.variance is not None and bool((law.variance == 0).any())):
        return none
    count = min(n, JUDGED)
    draws = 0 if isinstance(law, Gaussian) else max(4, -(-DRAWS // count))
    try:
        each, drawn = _misfits(problem, x_0[:, torch.arange(count) * n // count], cond, draws)
    except InputError:  # a density of one's own that cannot be drawn from
        return none
    found = each.median(1).values
    if isinstance(law, Gaussian):
        most = max(float(chi2.isf(RATE, m)), LARGE * m)
        return _Misfit(found, torch.full_like(found, most), torch.full_like(found, m))
    mean, spread = drawn.mean(1), drawn.std(1)
    return _Misfit(found, torch.where(spread.isfinite(), mean + SPREADS * spread, math.inf), mean)


def _misfits(problem: Problem, x_0: Tensor, cond: Cond, draws: int) -> tuple[Tensor, Tensor]:
    """The misfit of each sample (M, k), infinite where it is no number, and that of data drawn from it (M, k draws)."""
    (many, k), law, generator = x_0.shape[:2], problem.likelihood, torch.Generator().manual_seed(0)
    rows, each = x_0.flatten(0, 1), {name: value.repeat_interleave(k, 0) for name, value in cond.items()}
    size = max(1, min(CHUNK, ENTRIES // max(math.prod(problem.y_shape), rows[0].numel())))
    parts = []
    for low in range(0, len(rows), size):
        own = {name: value[low : low + size] for name, value in each.items()}
        clean, y = problem.called(problem.to_x(rows[low : low + size], own)), own[MEASURED]
        if isinstance(law, Gaussian):
            r = _beyond_rounding(y.to(clean), clean)
            found = [(r.double() * law.solve(r).double()).flatten(1).sum(1)]
        else:
            data = (y, *(law.sample(clean, generator) for _ in range(draws)))
            found = [-law.log_prob(one, clean).double() for one in data]
        parts.append(torch.stack(found, 1))
    values = torch.cat(parts).cpu().nan_to_num(nan=math.inf, posinf=math.inf).reshape(many, k, -1)
    return values[..., 0], values[..., 1:].flatten(1)


def _beyond_rounding(y: Tensor, clean: Tensor) -> Tensor:
    """y - clean, less what the digits of their numbers cannot tell: noise may be as small as that."""
    residual, digits = y - clean, 8 * torch.finfo(clean.dtype).eps * torch.maximum(y.abs(), clean.abs())
    return residual.sign() * (residual.abs() - digits).clamp(min=0)


def _of_prior(problem: Problem, cond: Cond) -> Tensor:
    """The mean misfit of draws with the mean and twice the variance of the prior, (M,)."""
    many = len(cond[MEASURED])
    if not isinstance(problem.model, Denoiser):
        return torch.full((many,), math.inf, dtype=torch.float64)
    x = problem.rough_draws(JUDGED)
    return _misfits(problem, x.expand(many, *x.shape), cond, 0)[0].mean(1)


def _implausible(problem: Problem, x_0: Tensor, cond: Cond) -> tuple[Tensor, Tensor, Tensor]:
    """Which samples the prior cannot have given, how far they are, and which are far from the median too: (M, n)."""
    model, (many, n) = problem.model, x_0.shape[:2]
    flat = x_0.flatten(0, 1)
    far, where = torch.zeros(len(flat)).to(flat), torch.zeros(len(flat), dtype=torch.long, device=flat.device)
    strange, lonely = torch.zeros(2, len(flat), dtype=torch.bool)
    if isinstance(model, Denoiser) and isinstance(model.process, NoiseProcess):
        mean, std = model.moments.mean.to(x_0), model.moments.std.to(x_0).clamp(min=THINNEST * model.data_std)
        spread, size = std.expand(x_0.shape[2:]).flatten(), max(1, min(CHUNK, ENTRIES // max(1, flat[0].numel())))
        for low in range(0, len(flat), size):
            part = slice(low, low + size)
            far[part], where[part] = ((flat[part] - mean) / std).abs().flatten(1).max(1)
        suspects = (far > FAR).nonzero().flatten().cpu()
        for k in (suspects // n).unique().tolist():
            for rows in suspects[suspects // n == k].split(size):
                entry = where[rows]
                columns, which = entry.unique(return_inverse=True)
                middle = x_0[k].flatten(1)[:, columns].median(0).values[which]
                value = flat[rows].flatten(1).gather(1, entry[:, None])[:, 0]
                lonely[rows] = ((value - middle).abs() > FAR * spread[entry]).cpu()
                own = {name: v[k : k + 1].expand(len(rows), *v.shape[1:]) for name, v in cond.items()}
                strange[rows] = _unlike_prior(model, flat[rows], entry, spread[entry], own).cpu()
    return strange.reshape(many, n), far.cpu().reshape(many, n), lonely.reshape(many, n)


def _unlike_prior(model: Denoiser, x: Tensor, entry: Tensor, std: Tensor, cond: Cond) -> Tensor:
    """Whether |E[eps given x + rho eps]| exceeds its limit in this entry of each row, rho the entry's deviation."""
    process, d = model.process, x[0].numel()
    low, high = (float(process.noise_to_signal(t)) for t in model.time_range)
    t = process.time_of(std.double().clamp(low, high))
    rho = process.noise_to_signal(t)  # its own, where times are discrete
    cond = model.prepare(cond)
    points = cond.get("points")
    z = x + column(rho, x) * process.noise.sample(x, Key(0, Rows.grid(1, len(x))).at(part="doubts"), points)
    eps = (z - model.denoise(column(process.scale(t), x) * z, t, cond)) / column(rho, x)
    one = torch.zeros_like(x.flatten(1)).scatter_(1, entry[:, None], 1.0)
    variance = (process.noise.apply(one.reshape(x.shape), points).flatten(1) * one).sum(1)
    size = (eps.flatten(1) * one).sum(1).abs() / variance.sqrt()
    return ~(size <= math.sqrt(2 * math.log(2 * d / CHANCE)))
