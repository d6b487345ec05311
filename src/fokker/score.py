"""Score models: one denoiser D(z; rho) for every process, exact models, and joint models of named parts.

With z = x_t / m and rho = sigma / m, E[x_0 | x_t] = D(z; rho) whatever the process, and

    C score = (m D - x_t) / sigma^2        (C the covariance of the noise, the identity unless told otherwise).

A state is a tensor (B, *shape) or a flat dict of named tensors; `over_parts` applies a function to either.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.noise import Noise
from fokker.processes import NoiseProcess, Time, as_time
from fokker.rng import Key

State = Tensor | dict[str, Tensor]
Processes = NoiseProcess | dict[str, NoiseProcess]
Cond = dict[str, Tensor]

RHO_RANGE = (0.002, 20.0)  # levels that models cover, in standard deviations of the data
PARAMETRISATIONS = ("x0", "eps", "score", "v", "flow")


def over_parts(function: Callable[..., Any], first: Any, *rest: Any) -> Any:
    """function(first, *rest) for a single part, the dict of its values for named parts."""
    if isinstance(first, dict):
        return {name: function(first[name], *(r[name] for r in rest)) for name in first}
    return function(first, *rest)


def as_cond(cond: Tensor | Cond | None) -> Cond:
    """Conditions as a dict: a single tensor is shorthand for {"y": tensor}."""
    if cond is None:
        return {}
    if isinstance(cond, Tensor):
        return {"y": cond}
    if not isinstance(cond, dict) or not all(isinstance(v, Tensor) for v in cond.values()):
        raise InputError(f"cond: got {type(cond).__name__}, a tensor or a dict of named tensors is accepted")
    return cond


def column(value: Tensor, like: Tensor) -> Tensor:
    """A scalar or (B,) float64 value in the dtype and device of `like` (B, ...), ready to multiply it."""
    value = value.to(like)
    return value if value.ndim == 0 else value.reshape(-1, *[1] * (like.ndim - 1))


def row_mean(value: Tensor, cond: Cond) -> Tensor:
    """Mean over the entries of each row (B, *shape) -> (B,); where cond["mask"] (B, P) is zero they are padding."""
    flat = value.reshape(len(value), -1)
    if "mask" not in cond:
        return flat.mean(1)
    kept = kept_entries(value, cond).reshape(flat.shape)
    return (flat * kept).sum(1) / kept.sum(1).clamp(min=1)


def kept_entries(value: Tensor, cond: Cond) -> Tensor:
    """1 at the entries of each row that count, 0 at its padding, of the shape and dtype of `value`."""
    if "mask" not in cond:
        return torch.ones_like(value)
    mask = cond["mask"].to(value)
    return mask.reshape(*mask.shape, *[1] * (value.ndim - mask.ndim)).expand_as(value)


@dataclass(frozen=True)
class Moments:
    """Mean and covariance of what is diffused, for the first draw N(m mean, m^2 Cov + sigma^2 C).

    `factor` is the standard deviation (a tensor of the shape of the mean, or a scalar) or a matrix L (d, d) with
    L L^T = Cov on flattened states.
    """

    mean: Tensor
    factor: Tensor

    def draw(self, like: Tensor, key: Key) -> Tensor:
        """N(mean, Cov) for each row of `like`."""
        xi = key.normal(tuple(like.shape[1:])).to(like)
        mean, factor = self.mean.to(like), self.factor.to(like)
        if factor.ndim == 2 and mean.ndim == 1:
            return mean + xi @ factor.T
        return mean + factor * xi

    def log_prob(self, z: Tensor, rho: float, noise: Noise, cond: Cond) -> Tensor:
        """log density (B,) of N(mean, Cov + rho^2 C) at z (B, *shape), in float64; padding is not counted.

        InputError for another shape, and where that covariance is singular.
        """
        mean, factor = self.mean.to(z.device).double(), self.factor.to(z.device).double()
        full = factor.ndim == 2 and mean.ndim == 1
        if z.ndim < 2 or (mean.ndim > 0 and z.shape[1:] != mean.shape):
            wanted = f"(B, {', '.join(map(str, mean.shape))})" if mean.ndim else "(B, *shape)"
            raise InputError(f"x: got shape {tuple(z.shape)}, {wanted} is accepted")
        kept = kept_entries(z.double(), cond)
        offset, kept = ((z - mean) * kept).flatten(1), kept.flatten(1)
        if noise.white and not full:
            variance = (factor**2 + rho**2).expand(z.shape[1:]).flatten()
            return -0.5 * (offset**2 / variance + kept * (2 * math.pi * variance).log()).sum(1)
        own = factor @ factor.T if full else torch.diag((factor**2).expand(z.shape[1:]).flatten())
        out = torch.empty_like(offset[:, 0])
        rows = max(1, 2**24 // offset.shape[1] ** 2)  # whose covariances are held at a time
        for start in range(0, len(z), rows):
            part = slice(start, start + rows)
            points = cond["points"][part] if "points" in cond else None
            covariance = own + rho**2 * _matrix_of(noise, z[part].double(), points)
            out[part] = _normal(offset[part], covariance, kept[part] > 0)
        return out


def _matrix_of(noise: Noise, like: Tensor, points: Tensor | None) -> Tensor:
    """C on flattened states: (d, d), or (B, d, d) where the rows of `like` have points of their own."""
    size = like[0].numel()
    eye = torch.eye(size, dtype=like.dtype, device=like.device).reshape(size, *like.shape[1:])
    if points is None or bool((points == points[:1]).all()):
        shared = None if points is None else points[:1].expand(size, *points.shape[1:])
        return noise.apply(eye, shared).reshape(size, size)
    return torch.stack([noise.apply(unit.expand_as(like), points).flatten(1) for unit in eye], -1)


def _normal(offset: Tensor, covariance: Tensor, kept: Tensor) -> Tensor:
    """log N(offset; 0, covariance) over the kept entries of each row (B, d); covariance is (d, d) or (B, d, d)."""
    if not bool(kept.all()):
        both = kept[:, :, None] & kept[:, None]
        covariance = torch.where(both, covariance, torch.eye(kept.shape[1]).to(covariance))
    root, info = torch.linalg.cholesky_ex(covariance)
    # Each pivot is a variance given the entries before it: by rounding alone it may come out above zero.
    pivots, variances = (v.diagonal(dim1=-2, dim2=-1) for v in (root, covariance))
    if bool(info.any()) or bool((pivots**2 <= 1e-14 * root.shape[-1] * variances).any()):
        raise InputError(
            "density: the law of the first draw is singular; distinct points and noise in every direction are accepted"
        )
    if root.ndim == 2:
        white = torch.linalg.solve_triangular(root, offset.T, upper=False).T
    else:
        white = torch.linalg.solve_triangular(root, offset[..., None], upper=False)[..., 0]
    return -0.5 * (white.square().sum(1) + kept.sum(1) * math.log(2 * math.pi)) - pivots.log().sum(-1)


class ScoreModel(ABC):
    """What samplers, guidance and likelihoods need: a denoiser in the coordinates of a process, and where it holds.

    `process` is one process, or a dict of them for a state of named parts.
    """

    process: Processes
    data_std: float | dict[str, float]  # of what is diffused, root mean square over its entries
    dtype: torch.dtype
    device: torch.device

    @property
    @abstractmethod
    def time_range(self) -> tuple[float, float]:
        """(t_min, t_max) between which the denoiser may be called."""

    @abstractmethod
    def denoise(self, x_t: State, t: Time, cond: Tensor | Cond | None = None) -> State:
        """E[x_0 | x_t] for x_t (B, *shape) and t a scalar or (B,)."""

    @abstractmethod
    def on(self, process: NoiseProcess) -> ScoreModel:
        """The same denoiser in the coordinates of another process (with the same law of noise)."""

    @abstractmethod
    def start(self, shape: Any, t: float, key: Key, cond: Cond) -> State:
        """The first draw at time t: the Gaussian with the mean and covariance of the data at that level."""

    def start_log_prob(self, x_t: Tensor, t: float, cond: Cond) -> Tensor:
        """log density (B,) of the law that `start` draws from, in float64; InputError where it is not known."""
        raise InputError(f"model: {type(self).__name__} does not tell the density of its first draw (start_log_prob)")

    def prepare(self, cond: Tensor | Cond | None) -> Cond:
        """Conditions with whatever is computed from them once and used at every step (one row per measurement)."""
        return as_cond(cond)

    def score(self, x_t: State, t: Time, cond: Tensor | Cond | None = None) -> State:
        """grad log p_t(x_t) = C^-1 (m x_0_hat - x_t) / sigma^2, by Tweedie's formula."""
        points = as_cond(cond).get("points")

        def part(process: NoiseProcess, x: Tensor, x_0_hat: Tensor) -> Tensor:
            m, sigma = column(process.scale(t), x), column(process.sigma(t), x)
            return process.noise.solve((m * x_0_hat - x) / sigma**2, points)

        return over_parts(part, self.process, x_t, self.denoise(x_t, t, cond))


class Denoiser(ScoreModel):
    """A score model of one part, given by `denoised(z, rho, cond)` in the coordinates all processes share."""

    process: NoiseProcess
    moments: Moments
    data_std: float
    rho_range: tuple[float, float]

    @abstractmethod
    def denoised(self, z: Tensor, rho: Tensor, cond: Cond) -> Tensor:
        """D(z; rho) = E[x_0 | x_0 + rho noise = z] for z (B, *shape), rho a float64 scalar or (B,)."""

    @property
    def time_range(self) -> tuple[float, float]:
        """Where rho lies in rho_range, cut at the end of the process."""
        end = float(self.process.noise_to_signal(1.0))
        low, high = self.rho_range
        if low >= end:
            raise InputError(f"process: its noise-to-signal ends at {end:.6g}, this model starts at {low:.6g}")
        return float(self.process.time_of(low)), float(self.process.time_of(min(high, end)))

    def denoise(self, x_t: State, t: Time, cond: Tensor | Cond | None = None) -> Tensor:
        """D(x_t / m; rho)."""
        if not isinstance(x_t, Tensor):
            raise InputError(f"x_t: got {type(x_t).__name__}, this model takes one tensor")
        t = as_time(t)
        m = self.process.scale(t)
        z = x_t if m.ndim == 0 and float(m) == 1 else x_t / column(m, x_t)
        return self.denoised(z, self.process.noise_to_signal(t), as_cond(cond))

    def on(self, process: NoiseProcess) -> Denoiser:
        """A shallow copy on `process`; InputError where the noise differs, as a denoiser belongs to its noise."""
        if process.noise != self.process.noise:
            raise InputError("process: its noise has another law than the one this denoiser was made for")
        other = copy.copy(self)
        other.process = process
        return other

    def start(self, shape: Any, t: float, key: Key, cond: Cond) -> Tensor:
        """m (mean + L xi) + sigma noise."""
        like = torch.empty(shape, dtype=self.dtype, device=self.device)
        noise = self.process.noise.sample(like, key.at(part="noise"), cond.get("points"))
        data = self.moments.draw(like, key.at(part="data"))
        return column(self.process.scale(t), like) * data + column(self.process.sigma(t), like) * noise

    def start_log_prob(self, x_t: Tensor, t: float, cond: Cond) -> Tensor:
        """log N(m mean, m^2 Cov + sigma^2 C)."""
        m, rho = self.process.scale(t), float(self.process.noise_to_signal(t))
        log = self.moments.log_prob(x_t / column(m, x_t), rho, self.process.noise, cond)
        return log - kept_entries(x_t, cond).flatten(1).sum(1) * m.log().to(log)


class MixtureScore(Denoiser):
    """Exact model of x_0 ~ sum_k w_k N(mu_k, C_k): p_t is the mixture of N(m mu_k, m^2 C_k + sigma^2 C).

    weights (K,), means (K, d), covariances (K, d, d), positive semi-definite. Tensors of floating dtype keep it,
    anything else becomes float32. Correlated noise needs its points at construction.
    """

    def __init__(self, process: NoiseProcess, weights: Any, means: Any, covariances: Any):
        given = [v.dtype for v in (weights, means, covariances) if isinstance(v, Tensor) and v.is_floating_point()]
        self.dtype = max(given, key=lambda dtype: torch.finfo(dtype).bits) if given else torch.float32
        w, mu, cov = (torch.as_tensor(v, dtype=torch.float64) for v in (weights, means, covariances))
        if mu.ndim != 2 or w.shape != mu.shape[:1] or cov.shape != (*mu.shape, mu.shape[1]):
            raise InputError(
                f"mixture: got weights {tuple(w.shape)}, means {tuple(mu.shape)}, covariances {tuple(cov.shape)}; "
                "(K,), (K, d), (K, d, d) are accepted"
            )
        if not bool((w >= 0).all()) or not bool(w.sum() > 0) or not all(bool(v.isfinite().all()) for v in (mu, cov)):
            raise InputError("mixture: weights >= 0 with a positive sum and finite means and covariances are accepted")
        self.process, self.device = process, mu.device
        self.weights, self.means, self.covariances = w / w.sum(), mu, (cov + cov.mT) / 2
        # In coordinates where the noise is white, all that varies with rho is diagonal in the eigenbasis of C_k.
        eye = torch.eye(mu.shape[1], dtype=torch.float64, device=mu.device)
        self._whitener = eye if process.noise.white else torch.linalg.cholesky(process.noise.apply(eye))
        unwhiten = torch.linalg.inv(self._whitener)
        values, vectors = torch.linalg.eigh(unwhiten @ self.covariances @ unwhiten.T)
        if float(values.min()) < -1e-9 * max(1.0, float(values.max())):
            raise InputError(f"covariances: got an eigenvalue {float(values.min()):.3g}, none below 0 is accepted")
        self._values = values.clamp(min=0)
        self._to_eigen = vectors.mT @ unwhiten  # (K, d, d)
        self._from_eigen = self._whitener @ vectors
        self.moments = self._overall()
        self.data_std = float((self.moments.factor**2).sum().div(mu.shape[1]).sqrt())
        self.rho_range = (RHO_RANGE[0] * self.data_std, RHO_RANGE[1] * self.data_std)

    def _overall(self) -> Moments:
        mean = self.weights @ self.means
        offset = self.means - mean
        covariance = torch.einsum("k,kij->ij", self.weights, self.covariances)
        covariance = covariance + torch.einsum("k,ki,kj->ij", self.weights, offset, offset)
        values, vectors = torch.linalg.eigh(covariance)
        return Moments(mean, vectors * values.clamp(min=0).sqrt())

    def _components(self, z: Tensor, rho: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Eigen-coordinates (B, K, d), their variances (B or 1, K, d) and log w_k N_k (B, K), up to -log det C / 2."""
        u = torch.einsum("kij,bkj->bki", self._to_eigen.to(z), z[:, None] - self.means.to(z))
        variance = self._values + rho.reshape(-1, 1, 1) ** 2
        log = self.weights.log() - 0.5 * (variance.log().sum(-1) + z.shape[-1] * math.log(2 * math.pi))
        variance = variance.to(z)
        return u, variance, log.to(z) - 0.5 * (u**2 / variance).sum(-1)

    def denoised(self, z: Tensor, rho: Tensor, cond: Cond) -> Tensor:
        """sum_k w_k(z) [mu_k + C_k (C_k + rho^2 C)^-1 (z - mu_k)]."""
        u, variance, log = self._components(z, rho.to(z.device))
        each = torch.einsum("kij,bkj->bki", self._from_eigen.to(z), self._values.to(z) / variance * u)
        return torch.einsum("bk,bki->bi", log.softmax(1), each + self.means.to(z))

    def log_prob(self, x_t: Tensor, t: Time) -> Tensor:
        """log p_t(x_t) of x_t (B, d) -> (B,)."""
        t = as_time(t)
        m = self.process.scale(t)
        *_, log = self._components(x_t / column(m, x_t), self.process.noise_to_signal(t))
        log_det = torch.linalg.slogdet(self._whitener)[1]
        return torch.logsumexp(log, 1) - (log_det + x_t.shape[-1] * m.log()).to(x_t)

    def on(self, process: NoiseProcess) -> MixtureScore:
        """The same mixture on another process; an exact model takes any noise."""
        other = MixtureScore(process, self.weights, self.means, self.covariances)
        other.dtype, other.rho_range = self.dtype, self.rho_range
        return other


class GaussianScore(MixtureScore):
    """Exact model of x_0 ~ N(mean, covariance): mean (d,), covariance (d, d)."""

    def __init__(self, process: NoiseProcess, mean: Any, covariance: Any):
        mean, covariance = (v if isinstance(v, Tensor) else np.asarray(v, float) for v in (mean, covariance))
        super().__init__(process, [1.0], mean[None], covariance[None])


class Joint(ScoreModel):
    """Independent models of named parts as one model of a dict state: Joint(x=prior_x, k=prior_k)."""

    process: dict[str, NoiseProcess]

    def __init__(self, **models: Denoiser):
        if not models:
            raise InputError("Joint: got no part, at least one named model is accepted")
        self.models = models
        self.process = {name: model.process for name, model in models.items()}
        self.data_std = {name: model.data_std for name, model in models.items()}
        first = next(iter(models.values()))
        self.dtype, self.device = first.dtype, first.device

    @property
    def time_range(self) -> tuple[float, float]:
        """The times at which every part's denoiser may be called."""
        ranges = [model.time_range for model in self.models.values()]
        return max(low for low, _ in ranges), min(high for _, high in ranges)

    def denoise(self, x_t: State, t: Time, cond: Tensor | Cond | None = None) -> dict[str, Tensor]:
        """Each part by its own model."""
        if not isinstance(x_t, dict) or x_t.keys() != self.models.keys():
            raise InputError(f"x_t: this model takes a dict with the parts {', '.join(self.models)}")
        return {name: model.denoise(x_t[name], t, cond) for name, model in self.models.items()}

    def on(self, process: NoiseProcess) -> Joint:
        """Every part on the same other process."""
        return Joint(**{name: model.on(process) for name, model in self.models.items()})

    def start(self, shape: dict[str, Any], t: float, key: Key, cond: Cond) -> dict[str, Tensor]:
        """Each part by its own model, with its own noise."""
        return {n: model.start(shape[n], t, key.at(part=n), cond) for n, model in self.models.items()}


def skip_and_out(name: str, process: NoiseProcess, rho: Tensor, t: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """skip and out of D = skip x_t / m + out F (white noise), the one place where parametrisations are converted.

    F is "x0", D itself; "eps", the noise; "score" = -eps / sigma; "v" = m eps - sigma x_0 (Salimans and Ho 2022);
    "flow" = m' x_0 + sigma' eps = f x_t - g^2 score / 2, the velocity of the probability-flow ODE (Lipman et al. 2023),
    where rho' / rho = g^2 / (2 sigma^2). At level rho, or at the time t where that is known already; float64.
    """
    one = torch.ones_like(rho)
    match name:
        case "x0":
            return 0 * one, one
        case "eps":
            return one, -rho
    if name not in PARAMETRISATIONS:
        raise InputError(f"parametrisation: got {name!r}, one of {', '.join(PARAMETRISATIONS)} is accepted")
    t = process.time_of(rho) if t is None else t
    m = process.scale(t)
    match name:
        case "score":
            return one, rho**2 * m
        case "v":
            return 1 / (1 + rho**2), -rho / (m * (1 + rho**2))
    rate = process.diffusion_squared(t) / (2 * (rho * m) ** 2)
    return 1 + process.drift(t) / rate, -1 / (rate * m)


def to_x0(x_t: Tensor, t: Time, process: NoiseProcess, **given: Tensor) -> Tensor:
    """x_0_hat from one of x0=, eps=, score=, v=, flow= (white noise); see `skip_and_out`.

    x_0 = (x_t + sigma^2 score)/m = (x_t - sigma eps)/m = (m x_t - sigma v)/(m^2 + sigma^2)
        = (sigma' x_t - sigma u)/(m sigma' - sigma m').
    """
    if len(given) != 1:
        raise InputError(f"parametrisation: got {len(given)}, exactly one of {', '.join(PARAMETRISATIONS)} is accepted")
    ((name, value),) = given.items()
    t = as_time(t)
    skip, out = skip_and_out(name, process, process.noise_to_signal(t), t)
    return column(skip / process.scale(t), x_t) * x_t + column(out, x_t) * value


def from_x0(x_t: Tensor, t: Time, process: NoiseProcess, x_0_hat: Tensor) -> dict[str, Tensor]:
    """Every parametrisation (white noise) that belongs to a denoised x_0_hat. Near t = 0 digits are lost as 1 / rho."""
    t, values = as_time(t), {}
    for name in PARAMETRISATIONS:
        skip, out = skip_and_out(name, process, process.noise_to_signal(t), t)
        values[name] = (x_0_hat - column(skip / process.scale(t), x_t) * x_t) / column(out, x_t)
    return values
