"""Denoising diffusion restoration: the data are put in, singular vector by singular vector, at their own noise level.

Source: Kawar et al. 2022 (DDRM, arXiv 2201.11793).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from fokker.composition import Composed
from fokker.errors import InputError
from fokker.likelihoods import Gaussian
from fokker.operators.base import SpectralOperator
from fokker.posterior.guided import GuidedPosterior
from fokker.posterior.problem import MEASURED, Problem
from fokker.processes import NoiseProcess, Time
from fokker.rng import Key
from fokker.samplers.base import Carried, Sampler, StepNoise
from fokker.score import ScoreModel
from fokker.states import Cond, State, column


class DDRM(GuidedPosterior):
    """Linear operators A = U S V^T with Gaussian noise of one standard deviation sigma_y.

    With z = x_t / m, D = D(z), u = V^T z, v = V^T D, b = S^-1 U^T y, from level rho_t to r = rho_s, for each singular
    value s a Gaussian of

        s = 0:              mean v + sqrt(1 - eta^2) r (u - v) / rho_t,       variance eta^2 r^2
        r < sigma_y / s:    mean v + sqrt(1 - eta^2) r (b - v) s / sigma_y,   variance eta^2 r^2
        r >= sigma_y / s:   mean (1 - eta_b) v + eta_b b,                     variance r^2 - eta_b^2 sigma_y^2 / s^2.

    One evaluation per step, no derivative. The variance of its samples shrinks with the number of steps, even with a
    perfect score: 20 is the published number and the default.

    Raises InputError for other operators and likelihoods, for an operator without any singular value above its cut, for
    eta and eta_b outside [0, 1], and correlated diffusing noise.
    """

    steps = 20

    def __init__(self, prior: Any, *, forward: Any, likelihood: Any, eta: float = 0.85, eta_b: float = 1.0):
        for name, value in (("eta", eta), ("eta_b", eta_b)):
            if not isinstance(value, int | float) or not 0 <= value <= 1:
                raise InputError(f"{name}: got {value!r}, a number from 0 to 1 is accepted")
        self.eta, self.eta_b = float(eta), float(eta_b)
        super().__init__(prior, forward=forward, likelihood=likelihood)

    def check(self) -> None:
        """What the method cannot do without."""
        operator, likelihood = self.problem.linear, self.problem.likelihood
        if not isinstance(operator, SpectralOperator):
            raise InputError(
                "forward: DDRM needs an operator with a known singular value decomposition (operators.Matrix, "
                "Inpainting, SuperResolution); PiGDM and MomentMatching take any"
            )
        if len(operator.singular_values) == 0:
            raise InputError("forward: is singular in every direction, DDRM needs a singular value above zero")
        if not isinstance(likelihood, Gaussian) or likelihood.variance is None or likelihood.variance.ndim > 0:
            raise InputError(
                f"likelihood: got {likelihood!r}, DDRM needs fokker.Gaussian(std) with one number; PiGDM and "
                "MomentMatching take other Gaussian noise, DPS and DAPS any"
            )
        if not isinstance(self.problem.model.process, NoiseProcess) or not self.problem.model.process.noise.white:
            raise InputError("prior: diffuses with correlated noise, DDRM needs white noise; MomentMatching takes any")

    def model(self) -> ScoreModel:
        """The prior, started at the data."""
        return _StartedAtData(self.problem)

    def run_by(self, sampler: Sampler, count: int) -> Sampler:
        """Its own steps."""
        return Spectral(self.problem, self.eta, self.eta_b)

    def settings(self) -> dict[str, Any]:
        """Those of the base, eta and eta_b."""
        return {**super().settings(), "eta": self.eta, "eta_b": self.eta_b}


class _StartedAtData(Composed):
    """The prior with the first draw N(b, rho^2 - sigma_y^2 / s^2) where s rho > sigma_y, its own elsewhere."""

    def __init__(self, problem: Problem, prior: ScoreModel | None = None):
        super().__init__(problem.model if prior is None else prior)
        self.problem = problem

    def on(self, process: NoiseProcess) -> _StartedAtData:
        """The same on another process."""
        return _StartedAtData(self.problem, self._first.on(process))

    def prepare(self, cond: Tensor | Cond | None) -> Cond:
        """As the prior."""
        return self._first.prepare(cond)

    def denoise(self, x_t: State, t: Time, cond: Tensor | Cond | None = None) -> State:
        """As the prior."""
        return self._first.denoise(x_t, t, cond)

    def start(self, shape: Any, t: float, key: Key, cond: Cond) -> Tensor:
        """See the class."""
        x = self._first.start(shape, t, key, cond)
        assert isinstance(x, Tensor) and isinstance(self.process, NoiseProcess)
        operator = self.problem.linear
        assert isinstance(operator, SpectralOperator)
        m, rho = column(self.process.scale(t), x), float(self.process.noise_to_signal(t))
        known, spread, b = _data(self.problem, cond, x)
        spectrum = operator.to_spectrum(x / m)
        seen = slice(0, known)
        xi = operator.to_spectrum(self.process.noise.sample(x, key.at(part="data")))[:, seen]
        fixed = b + (rho**2 - spread**2).clamp(min=0).sqrt() * xi
        spectrum = torch.cat([torch.where(spread < rho, fixed, spectrum[:, seen]), spectrum[:, known:]], 1)
        return m * operator.from_spectrum(spectrum).reshape(x.shape)


@dataclass(frozen=True)
class Spectral:
    """The step described in `DDRM`."""

    problem: Problem
    eta: float
    eta_b: float
    adaptive: ClassVar[bool] = False

    def init(self, model: ScoreModel, x: State) -> Carried:
        """Nothing remembered."""
        return Carried(x)

    def step(
        self, model: ScoreModel, state: Carried, t: float, s: float, noise: StepNoise, cond: Cond
    ) -> tuple[Carried, dict[str, Any]]:
        """One evaluation; at s = 0 the denoised value, and the data themselves where they have no noise."""
        process, operator, x = model.process, self.problem.linear, state.x
        assert isinstance(process, NoiseProcess) and isinstance(operator, SpectralOperator) and isinstance(x, Tensor)
        d = model.denoise(x, t, cond)
        assert isinstance(d, Tensor)
        rho_t, r = float(process.noise_to_signal(t)), float(process.noise_to_signal(s)) if s > 0 else 0.0
        known, spread, b = _data(self.problem, cond, x)
        u, v = operator.to_spectrum(x / column(process.scale(t), x)), operator.to_spectrum(d)
        keep = math.sqrt(1 - self.eta**2) * r
        mean = v + keep / rho_t * (u - v)
        std = torch.full_like(v[0], self.eta * r)
        inner = v[:, :known]
        noisy = inner + keep * (b - inner) / torch.where(spread > 0, spread, 1.0)
        clear = (1 - self.eta_b) * inner + self.eta_b * b
        below = r < spread
        mean = torch.cat([torch.where(below, noisy, clear), mean[:, known:]], 1)
        std[:known] = torch.where(below, self.eta * r, (r**2 - self.eta_b**2 * spread**2).clamp(min=0).sqrt())
        if s > 0:
            xi = noise()
            assert isinstance(xi, Tensor)
            mean = mean + std * operator.to_spectrum(xi)
        return Carried(column(process.scale(s), x) * operator.from_spectrum(mean).reshape(x.shape)), {}

    def settings(self) -> dict[str, Any]:
        """Name and parameters."""
        return {"name": "spectral", "eta": self.eta, "eta_b": self.eta_b}


def _data(problem: Problem, cond: Cond, like: Tensor) -> tuple[int, Tensor, Tensor]:
    """The number of singular values, sigma_y / s for each (r,), and b = S^-1 U^T y (B, r)."""
    operator = problem.linear
    assert isinstance(operator, SpectralOperator)
    values = operator.singular_values.to(like)
    return (
        len(values),
        problem.likelihood.variance.sqrt().to(like) / values,
        operator.data_to_spectrum(cond[MEASURED]) / values,
    )
