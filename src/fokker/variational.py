"""The variational bound of DDPM on -log p(x_0), and the variance that is learned by it.

The chain falls over levels t_K > ... > t_1 and from there to data, by Gaussian steps with the mean of DDPM's posterior
at the denoised value D and a variance S (see `Ancestral`). In z = x / m, with r = rho_s / rho_t for a step from t to s,

    -log p(x_0) <= KL(q(z_K | x_0) || start) + sum KL(q(z_s | z_t, x_0) || N(D + r^2 (z_t - D), S)) - log p(x_0 | z_1),
    each KL = sum over entries of (1/2) [log(S / beta_tilde) + (beta_tilde + (1 - r^2)^2 (x_0 - D)^2) / S - 1],

in expectation over z_t = x_0 + rho_t noise. The model it bounds is `Ancestral` on these levels from the first draw that
`sample` makes, with a last step from the decoder p(x_0 | z_1) = N(D, S_1) where `sample` returns its mean; there S_1 is
beta_1, or for beta_tilde_1, which is zero, beta_1 (1 - r^2) of the step before, DDPM's beta_tilde_2.

Sources: Ho et al. 2020 (the bound, the decoders); Nichol & Dhariwal 2021 (the learned variance).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.networks.variance_head import VarianceHead
from fokker.processes import NoiseProcess
from fokker.rng import Key, Rows, torch_generator
from fokker.samplers.ancestral import Variance, check_variance, log_variance, step_variances
from fokker.score import Denoiser, ScoreModel
from fokker.states import Cond, column
from fokker.time_grid import DDPMIndices, Grid, check_times

EVALUATIONS = 4096  # rows of the model at a time


@dataclass(frozen=True)
class VariationalBound:
    """Nats for each row of x by term: prior (B,), steps (B, K - 1) from the highest level down, decoder (B,)."""

    prior: Tensor
    steps: Tensor
    decoder: Tensor
    size: int  # entries of a row
    settings: dict[str, Any]

    @property
    def total(self) -> Tensor:
        """The bound on -log p(x_0) (B,) in nats, from one draw for each step: its mean over rows is unbiased."""
        return self.prior + self.steps.sum(1) + self.decoder

    @property
    def bits_per_dim(self) -> Tensor:
        """total / (d log 2) (B,)."""
        return self.total / (self.size * math.log(2))


class _Chain(NamedTuple):
    """The steps of a chain, the last one the decoder: each costs (1/2) [log S + constant + (own + gain e^2) / S]."""

    rho: Tensor  # (K,) falling
    log_beta: Tensor
    log_beta_tilde: Tensor
    own: Tensor
    gain: Tensor
    constant: Tensor

    @classmethod
    def of(cls, rho: Tensor) -> _Chain:
        zero, one = rho.new_zeros(1), rho.new_ones(1)
        log_beta, log_tilde = step_variances(rho[:-1], rho[1:])
        left = -torch.expm1(2 * (rho[1:] / rho[:-1]).log())  # 1 - r^2
        last = 2 * rho[-1:].log() - torch.log1p(rho[-1:] ** 2)  # beta_1 of DDPM
        return cls(
            rho,
            torch.cat([log_beta, last]),
            torch.cat([log_tilde, last + left[-1:].log() if len(left) else last]),
            torch.cat([log_tilde.exp(), zero]),
            torch.cat([left**2, one]),
            torch.cat([-log_tilde - 1, zero + math.log(2 * math.pi)]),
        )

    def log_std2(self, variance: Variance, step: Tensor, z: Tensor, x_0_hat: Tensor) -> Tensor:
        """log S of step (B,) of each row, in float64, (B, *shape) or (B, 1, ...)."""
        value = log_variance(variance, self.log_beta[step], self.log_beta_tilde[step], z, self.rho[step], x_0_hat)
        return value.double() if callable(variance) else column(value, z.double())

    def cost(self, variance: Variance, step: Tensor, x_0: Tensor, z: Tensor, x_0_hat: Tensor) -> Tensor:
        """The term of each row, (B,) in nats and float64."""
        log = self.log_std2(variance, step, z, x_0_hat)
        error = (x_0 - x_0_hat).double()
        own, gain, constant = (column(v[step], error) for v in (self.own, self.gain, self.constant))
        return 0.5 * (log + constant + (own + gain * error**2) * torch.exp(-log)).flatten(1).sum(1)


@torch.no_grad()
def variational_bound(
    model: ScoreModel,
    x: Tensor,
    variance: Variance = "posterior",
    *,
    grid: Grid | Tensor | None = None,
    steps: int | None = None,
    cond: Tensor | Cond | None = None,
    bins: int | Tensor | None = None,
    seed: int = 0,
) -> VariationalBound:
    """The bound for every row of x (B, *shape), with one draw for each step.

    x is what is diffused, in the model's coordinates. variance: as in `Ancestral`. grid and steps: as in `sample`; by
    default every index that the model knows of its DDPM process. cond: one row for all or one for each of x.
    bins: the levels of data on a grid (rising, or their number if they lie evenly on [-1, 1]); the decoder then gives
    the probability of the cell around a level, cells at the ends being open, instead of a density.
    A row's draws depend on the seed and its number alone. Raises InputError for x of a wrong shape, with entries that
    are not finite or not levels, for a model of named parts and for correlated noise.
    """
    check_variance(variance)
    denoiser, process, x_0 = _checked(model, x)
    times = _times(denoiser, process, grid, steps)
    chain = _Chain.of(process.noise_to_signal(times))
    levels = None if bins is None else _levels(bins, x_0)
    conditions = denoiser.prepare(cond)
    count = min(len(x_0), EVALUATIONS)
    group = max(1, EVALUATIONS // count)
    parts = []
    for start in range(0, len(x_0), count):
        where = torch.arange(start, min(start + count, len(x_0)), device=x_0.device)
        rows, key = x_0[where], Key(seed, Rows.grid(1, len(x_0))[start : start + count])
        columns = []
        for which in torch.arange(len(times)).split(group):
            noise = torch.cat([key.at(step=int(k), part="bound").normal(tuple(rows.shape[1:])) for k in which])
            step = which.repeat_interleave(len(rows))
            each = rows.repeat(len(which), *[1] * (rows.ndim - 1))
            z = each + column(chain.rho[step], each) * noise.to(each)
            here = _conditions_of(conditions, where.repeat(len(which)), len(x_0))
            x_0_hat = denoiser.denoised(z, chain.rho[step], here)
            cost = chain.cost(variance, step, each, z, x_0_hat)
            if levels is not None and int(which[-1]) == len(times) - 1:
                last = slice(-len(rows), None)
                log = chain.log_std2(variance, step[last], z[last], x_0_hat[last])
                cost[last] = -_cell(rows, x_0_hat[last], log, levels)
            columns.append(cost.reshape(len(which), len(rows)))
        parts.append(torch.cat(columns).T)
    terms = torch.cat(parts)
    return VariationalBound(
        prior=_prior(denoiser, x_0, float(chain.rho[0])),
        steps=terms[:, :-1],
        decoder=terms[:, -1],
        size=x_0[0].numel(),
        settings={
            "process": process.settings(),
            "variance": variance if isinstance(variance, str) else type(variance).__name__,
            "times": times.tolist(),
            "seed": seed,
        },
    )


def fit_variance(
    model: ScoreModel,
    x: Tensor,
    *,
    grid: Grid | Tensor | None = None,
    steps: int | None = None,
    cond: Tensor | Cond | None = None,
    seed: int = 0,
    iterations: int = 1000,
    batch_size: int = 512,
) -> VarianceHead:
    """The variance of reverse steps, learned after the denoiser: a head for `Ancestral` and `variational_bound`.

    x, grid, steps, cond as in `variational_bound`. The mean of the steps stays as it is; the head minimises the very
    terms of the bound on these levels, for which alone it is made. The best variance of an entry is
    beta_tilde + (1 - r^2)^2 E[(x_0 - D)^2 | z] in z. Raises InputError as `variational_bound` does.
    """
    denoiser, process, x_0 = _checked(model, x)
    chain = _Chain.of(process.noise_to_signal(_times(denoiser, process, grid, steps)))
    with torch.no_grad():
        conditions = denoiser.prepare(cond)
    generator = torch_generator(seed, "fit_variance")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())
        head = VarianceHead(tuple(x_0.shape[1:]), denoiser.moments.mean, denoiser.data_std).to(x_0.device)
    optimiser = torch.optim.Adam(head.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, iterations)
    for _ in range(iterations):
        index = torch.randint(len(x_0), (batch_size,), generator=generator)
        # one level from each of batch_size equal parts of the chain
        place = (torch.arange(batch_size) + torch.rand(batch_size, generator=generator)) / batch_size
        step = (place * len(chain.rho)).long().clamp(max=len(chain.rho) - 1)
        rows = x_0[index.to(x_0.device)]
        noise = torch.randn(rows.shape, generator=generator, dtype=torch.float32).to(rows)
        z = rows + column(chain.rho[step], rows) * noise
        with torch.no_grad():
            here = _conditions_of(conditions, index.to(x_0.device), len(x_0))
            x_0_hat = denoiser.denoised(z, chain.rho[step], here)
        loss = chain.cost(head, step, rows, z, x_0_hat).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return head.requires_grad_(False)


def _checked(model: ScoreModel, x: Tensor) -> tuple[Denoiser, NoiseProcess, Tensor]:
    if not isinstance(model, Denoiser):
        raise InputError(
            f"model: got {type(model).__name__}, a denoiser of one part with moments of its own is accepted"
        )
    if not model.process.noise.white:
        raise InputError("process: got correlated noise, the bound is for white noise")
    if not isinstance(x, Tensor) or x.ndim < 1 or len(x) < 1:
        raise InputError("x: a tensor (B, *shape) with at least one row is accepted")
    if not bool(x.isfinite().all()):
        raise InputError("x: got entries that are not finite")
    return model, model.process, x.to(model.device, model.dtype)


def _times(model: Denoiser, process: NoiseProcess, grid: Grid | Tensor | None, steps: int | None) -> Tensor:
    """The levels of the chain, falling, without the last time 0."""
    low, high = model.time_range
    if grid is not None and not callable(grid):
        times = check_times(grid, low, high)
        return times[:-1] if times[-1] == 0 else times
    indices = DDPMIndices()
    if grid is None and steps is None:
        steps = len(indices.known(process, low, high))
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError(f"steps: got {steps!r}, an integer of at least 1 is accepted")
    return (grid or indices)(process, steps, low, high)


def _conditions_of(cond: Cond, rows: Tensor, count: int) -> Cond:
    """Each condition for the given rows of x."""
    out = {}
    for name, value in cond.items():
        if len(value) not in (1, count):
            raise InputError(f"cond {name!r}: got {len(value)} rows, 1 or {count} are accepted")
        out[name] = value.expand(len(rows), *value.shape[1:]) if len(value) == 1 else value[rows.to(value.device)]
    return out


def _prior(model: Denoiser, x_0: Tensor, rho: float) -> Tensor:
    """KL of N(x_0, rho^2 I) from the start law N(mean, Cov + rho^2 I), for each row in float64."""
    mean, factor = (v.to(x_0.device, torch.float64) for v in (model.moments.mean, model.moments.factor))
    offset = x_0.double() - mean
    if factor.ndim == 2 and mean.ndim == 1:
        values, vectors = torch.linalg.eigh(factor @ factor.T)
        values, offset = values.clamp(min=0), offset @ vectors
    else:
        values = factor.square().expand_as(offset[0])
    total = values + rho**2
    return 0.5 * ((rho**2 + offset**2) / total - 1 + torch.log1p(values / rho**2)).flatten(1).sum(1)


def _levels(bins: int | Tensor, x_0: Tensor) -> Tensor:
    """The levels of data on a grid; InputError unless x_0 lies on them."""
    if isinstance(bins, int) and not isinstance(bins, bool) and bins >= 2:
        levels = torch.linspace(-1, 1, bins, dtype=torch.float64, device=x_0.device)
    elif isinstance(bins, Tensor) and bins.ndim == 1 and len(bins) >= 2 and bool((bins.diff() > 0).all()):
        levels = bins.to(x_0.device, torch.float64)
    else:
        raise InputError(f"bins: got {bins!r}, a number of at least 2 or a rising tensor of levels is accepted")
    nearest = torch.bucketize(x_0.double().contiguous(), (levels[1:] + levels[:-1]) / 2)
    away = (x_0.double() - levels[nearest]).abs().max()
    if float(away) > 1e-3 * float(levels.diff().min()):
        raise InputError(f"x: an entry is {float(away):.3g} away from the nearest of the levels of bins")
    return levels


def _cell(x_0: Tensor, x_0_hat: Tensor, log: Tensor, levels: Tensor) -> Tensor:
    """log of the probability of N(x_0_hat, S) in the cells of x_0, summed over entries, (B,)."""
    infinite = levels.new_full((1,), math.inf)
    borders = torch.cat([-infinite, (levels[1:] + levels[:-1]) / 2, infinite])
    index = torch.bucketize(x_0.double().contiguous(), borders[1:-1])
    low, high = ((borders[k] - x_0_hat.double()) * torch.exp(-log / 2) for k in (index, index + 1))
    # The cell's mirror image where it lies above the mean: there both distribution functions are near 1.
    swap = low > 0
    low, high = torch.where(swap, -high, low), torch.where(swap, -low, high)
    a, b = torch.special.log_ndtr(low), torch.special.log_ndtr(high)
    return (b + torch.log(-torch.expm1(a - b))).flatten(1).sum(1)
