"""Score models: one denoiser D(z; rho) for every process, exact models, and joint models of named parts.

With z = x_t / m and rho = sigma / m, E[x_0 | x_t] = D(z; rho) whatever the process, and

    C score = (m D - x_t) / sigma^2        (C the covariance of the noise, the identity unless told otherwise).
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.processes import NoiseProcess, Time, as_time, check_process
from fokker.rng import Key
from fokker.states import Cond, Moments, Processes, State, as_cond, column, kept_entries, over_parts

RHO_RANGE = (0.002, 20.0)  # levels that models cover, in standard deviations of the data


class ScoreModel(ABC):
    """What samplers, guidance and likelihoods need: a denoiser in the coordinates of a process, and where it holds.

    `process` is one process, or a dict of them for a state of named parts.
    """

    process: Processes
    data_std: float | dict[str, float]  # of what is diffused, root mean square over its entries
    dtype: torch.dtype
    device: torch.device

    @property
    def data_mean(self) -> Any:
        """The mean of what is diffused, None where it is zero or not known; by part."""
        return over_parts(lambda process: None, self.process)

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

    @cached_property
    def data_mean(self) -> Tensor | None:
        """That of the moments; a model made for one's own first draw may do without."""
        mean = self.moments.mean if hasattr(self, "moments") else torch.zeros(())
        return mean if bool(mean.any()) else None

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
        check_process(process)
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

    def given(self, z: Tensor, rho: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The law of x_0 given z = x_0 + rho noise, a mixture: log weights (B, K), means (B, K, d), factors (K, d, d).

        A component is N(mean, L L^T) with L L^T = rho^2 C_k (C_k + rho^2 C)^-1 C; rho is a scalar.
        """
        u, variance, log = self._components(z, rho.to(z.device))
        values = self._values.to(z)
        means = torch.einsum("kij,bkj->bki", self._from_eigen.to(z), values / variance * u) + self.means.to(z)
        spread = (values * rho.to(z) ** 2 / variance[0]).sqrt()
        return log.log_softmax(1), means, self._from_eigen.to(z) * spread[:, None]

    def log_prob(self, x_t: Tensor, t: Time) -> Tensor:
        """log p_t(x_t) of x_t (B, d) -> (B,)."""
        t = as_time(t)
        m = self.process.scale(t)
        *_, log = self._components(x_t / column(m, x_t), self.process.noise_to_signal(t))
        log_det = torch.linalg.slogdet(self._whitener)[1]
        return torch.logsumexp(log, 1) - (log_det + x_t.shape[-1] * m.log()).to(x_t)

    def on(self, process: NoiseProcess) -> MixtureScore:
        """The same mixture on another process; an exact model takes any noise."""
        check_process(process)
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
    def data_mean(self) -> dict[str, Tensor | None]:
        """That of each part."""
        return {name: model.data_mean for name, model in self.models.items()}

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
