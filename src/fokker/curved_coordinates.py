"""Posterior coordinates whose mean bends and whose width changes along the linear predictor of every entry of x."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from fokker.posterior_coordinates import Posterior
from fokker.states import Cond

_ITERATIONS = 20  # of Newton's method
_TERMS = 4  # 1, u, u^2 - 1, u^3 - 3 u


class Curved(Posterior):
    """xi = R^-1 ((x - m(y)) / s(y)): the mean m_i = mu_i + e_i . c_i and the scale s_i = exp(e_i . d_i) of every entry
    bend with e_i = (1, u_i, u_i^2 - 1, u_i^3 - 3 u_i), where u_i = (mu_i(y) - centre_i) / width_i is the linear
    predictor of `Posterior`, standardised and not followed beyond the training pairs.

    R is the symmetric root of the correlation of what is left. A parameter with bounds and a variance that grows with
    the mean are of this kind: without it a network has to learn from few pairs what some numbers describe.

    curves (4 + 2 * 4, d_x): rows centre, width, least and largest u, then c and d. correlation (d_x, d_x). For complete
    y only.
    """

    name: ClassVar[str] = "curved"

    def __init__(
        self, mean_x: Tensor, mean_y: Tensor, covariance: Tensor, curves: Tensor, correlation: Tensor,
        squares: Tensor | None = None,
    ):  # fmt: skip
        super().__init__(mean_x, mean_y, covariance, squares)
        self.curves, self.correlation = curves, correlation
        values, vectors = torch.linalg.eigh(correlation)
        self._root = (vectors * values.sqrt()) @ vectors.T
        self._inverse_root = (vectors * values**-0.5) @ vectors.T
        self._log_det = values.log().sum() / 2

    @classmethod
    def estimate(cls, x: Tensor, y: Tensor) -> Posterior:
        """From training pairs; `Posterior` where y has gaps, where x given y has directions without variance, where the
        curves do not lower the Bayesian information criterion, and where what they leave is further from Gaussian (by
        the mean size of the excess kurtosis): a shape with several modes is the network's to learn, and scaling it by a
        law of its variance stands in the way. c by least squares and d by maximum likelihood, each given the other, in
        turn.
        """
        plain = Posterior.estimate(x, y)
        n = x[0].numel()
        if bool(y.isnan().any()) or plain.rank({"y": y[:1]})[0] < n:
            return plain
        shape, x, mu = x.shape, x.double().flatten(1), plain.mean({"y": y}).flatten(1)
        centre, width = mu.mean(0), mu.std(0)
        width = torch.where(width > 1e-6 * x.std(0), width, math.inf)
        u = (mu - centre) / width
        curves = torch.zeros(4 + 2 * _TERMS, n, dtype=torch.float64)
        curves[:4] = torch.stack([centre, width, u.amin(0), u.amax(0)])
        basis = _basis(mu, curves)
        rest, bent = x - mu, torch.zeros(_TERMS, n, dtype=torch.float64)
        scale = _log_scales(basis, rest)
        for _ in range(2):
            weight = (-2 * torch.einsum("knd,kd->nd", basis, scale)).exp()
            left = torch.einsum("knd,nd,lnd->dkl", basis, weight, basis)
            right = torch.einsum("knd,nd,nd->dk", basis, weight, rest)
            bent = torch.linalg.lstsq(left, right[..., None]).solution[..., 0].T
            scale = _log_scales(basis, rest - torch.einsum("knd,kd->nd", basis, bent))
        curves[4:] = torch.cat([bent, scale])
        log_scale = torch.einsum("knd,kd->nd", basis, scale)
        white = (rest - torch.einsum("knd,kd->nd", basis, bent)) * (-log_scale).exp()
        correlation = white.T @ white / len(white)
        found = cls(plain.mean_x, plain.mean_y, plain.covariance, curves, correlation, plain.squares)
        before = float(plain.log_det({"y": y[:1]})[0]) * len(x)
        gain = 2 * (before - float(log_scale.sum()) - float(found._log_det) * len(x))
        lowers = gain > 2 * (_TERMS - 1) * n * math.log(len(x))
        return (
            found
            if lowers and _excess(white) <= _excess(plain.forward(x.reshape(shape), {"y": y}).flatten(1))
            else plain
        )

    def forward(self, x: Tensor, cond: Cond) -> Tensor:
        """R^-1 ((x - m(y)) / s(y))."""
        mean, log_scale = self._bent(cond)
        white = (x.double().flatten(1) - mean) * (-log_scale).exp()
        return (white @ self._inverse_root.T).reshape(x.shape).to(x)

    def inverse(self, xi: Tensor, cond: Cond) -> Tensor:
        """m(y) + s(y) R xi."""
        mean, log_scale = self._bent(cond)
        return (mean + log_scale.exp() * (xi.double().flatten(1) @ self._root.T)).reshape(xi.shape).to(xi)

    def log_det(self, cond: Cond) -> Tensor:
        """log det R + sum of log s(y), (B,)."""
        return self._log_det + self._bent(cond)[1].sum(1)

    def rank(self, cond: Cond) -> list[int]:
        """All directions of x vary."""
        return [self.mean_x.numel()]

    def mean(self, cond: Cond) -> Tensor:
        """m(y) (B, *x_shape) in float64."""
        return self._bent(cond)[0].reshape(-1, *self.mean_x.shape)

    def std(self, cond: Cond) -> Tensor:
        """Standard deviation (B, *x_shape) of every entry of x given y: s(y) times the root of the diagonal of R^2."""
        return (self._bent(cond)[1].exp() * self.correlation.diagonal().sqrt()).reshape(-1, *self.mean_x.shape)

    def tensors(self) -> dict[str, Tensor]:
        """Those of `Posterior`, curves and correlation."""
        return {**super().tensors(), "curves": self.curves, "correlation": self.correlation}

    def _bent(self, cond: Cond) -> tuple[Tensor, Tensor]:
        """m(y) and log s(y), both (B, d_x)."""
        mu = self._means(cond)
        basis = _basis(mu, self.curves)
        bent, scale = self.curves[4 : 4 + _TERMS], self.curves[4 + _TERMS :]
        return mu + torch.einsum("knd,kd->nd", basis, bent), torch.einsum("knd,kd->nd", basis, scale)


def _basis(mu: Tensor, curves: Tensor) -> Tensor:
    """(4, B, d_x): Hermite polynomials of the predictor, held where it leaves the training pairs."""
    centre, width, low, high = curves[:4]
    u = ((mu - centre) / width).clamp(low, high)
    return torch.stack([torch.ones_like(u), u, u.square() - 1, u**3 - 3 * u])


def _log_scales(basis: Tensor, rest: Tensor) -> Tensor:
    """d (4, d_x) that maximises the likelihood of rest ~ N(0, exp(2 e . d)), entry by entry: convex, by Newton's method
    with its steps bounded.
    """
    terms, count, size = basis.shape
    found = torch.zeros(terms, size, dtype=torch.float64)
    found[0] = rest.square().mean(0).log() / 2
    for _ in range(_ITERATIONS):
        ratio = rest.square() * (-2 * torch.einsum("knd,kd->nd", basis, found)).exp()
        slope = torch.einsum("knd,nd->dk", basis, ratio - 1) / count
        curvature = 2 * torch.einsum("knd,nd,lnd->dkl", basis, ratio, basis) / count
        step = torch.linalg.lstsq(curvature, slope[..., None]).solution[..., 0].T
        found = found + step * (1 / step.abs().amax(0).clamp(min=1))
    return found


def _excess(rest: Tensor) -> float:
    """Mean over the entries of |excess kurtosis|."""
    rest = (rest - rest.mean(0)) / rest.std(0)
    return float((rest**4).mean(0).sub(3).abs().mean())
