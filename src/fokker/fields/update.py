"""What linear data say about a Gaussian field, at any noise level, from one factorisation for each operator.

With f ~ N(mean, d^2 C) seen as z = f + rho N(0, C), f given z is N(D, c^2 C), D = mean + d^2/(d^2 + rho^2) (z - mean),
c^2 = rho^2 d^2 / (rho^2 + d^2). Data y = H f + N(0, R) then give

    E[f | z, y] = D + c^2 C H^T (c^2 H C H^T + R)^-1 (y - H D),
    Var[f | z, y] = diag(c^2 C - c^4 C H^T (c^2 H C H^T + R)^-1 H C).

C does not depend on the level: where H C H^T and R are diagonal at once, each level costs two thin products. All in
float64, as data without noise make these systems ill-conditioned.

Source of the joint diagonal form: Golub, Van Loan 2013, "Matrix computations", section 8.7 (here by the sum of both, so
that either may be singular).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.noise import Noise
from fokker.states import Cond

CUT = 1e-13  # of the largest eigenvalue: below, a direction is unseen where there is no noise
HEAD = "update."  # of the names of conditions


@dataclass(frozen=True)
class Factor:
    """An operator of m rows and its noise R, for states of P entries: T H C H^T T^T = diag(L), T R T^T = diag(s^2).

    basis C H^T T^T (P, m), rows T H (m, P), values L (m,), turn T (m, m), variance s^2 (m,).
    """

    basis: Tensor
    rows: Tensor
    values: Tensor
    turn: Tensor
    variance: Tensor

    @classmethod
    def of(cls, noise: Noise, rows: Tensor, variance: Tensor | float, points: Tensor | None = None) -> Factor:
        """rows H (m, *x_shape), also none or linearly dependent ones; R: the variance of the noise, 0 for none.

        variance: a number, one for each row (m,), or a covariance (m, m), positive semidefinite.
        """
        rows = rows.double()
        r = torch.as_tensor(variance, dtype=torch.float64, device=rows.device)
        spread, flat = noise.apply(rows, points).flatten(1), rows.flatten(1)
        gram = flat @ spread.T
        gram = (gram + gram.T) / 2
        if r.ndim == 0:
            values, turn, left = _of_one_level(gram, r)
        else:
            values, turn, left = _at_once(gram, torch.diag(r) if r.ndim == 1 else r)
        return cls(spread.T @ turn.T, turn @ flat, values, turn, left)

    def data(self, residual: Tensor) -> Tensor:
        """T residual (M, m), for residuals y - H mean (M, m).

        InputError for values without noise that contradict each other, as two at one point do.
        """
        out = residual.double() @ self.turn.T
        lost = out[:, (self.values == 0) & (self.variance == 0)]
        if lost.numel() and float(lost.abs().max()) > 1e-6 * float(residual.abs().max()):
            raise InputError(
                "y: got values without noise that contradict each other; noise is accepted, or one of them"
            )
        return out

    def cond(self, residual: Tensor) -> Cond:
        """Conditions of a loop: one row of what all measurements share, and their data (M, m)."""
        return _named(self.basis[None], self.rows[None], self.values[None], self.data(residual), self.variance[None])


def _of_one_level(gram: Tensor, variance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """L, T and s^2 for noise of one variance."""
    values, vectors = torch.linalg.eigh(gram)
    values = values.clamp(min=0)
    if not bool(variance):
        values = torch.where(values > CUT * values.amax() if len(values) else values > 0, values, 0.0)
    return values, vectors.T, variance.expand(len(values))


def _at_once(gram: Tensor, r: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """L, T and s^2 for noise of any covariance: with u a unit of noise and T (gram/u + R) T^T = 1, s^2 = 1 - L/u."""
    if not len(gram):
        return gram[0:0, 0], gram, gram[0:0, 0]
    size, loud = float(gram.trace()), float(r.trace())
    unit = size / loud if size > 0 and loud > 0 else 1.0
    total = gram / unit + r
    scale = torch.where(total.diagonal() > 0, total.diagonal(), 1.0).rsqrt()
    values, vectors = torch.linalg.eigh(scale[:, None] * total * scale)
    kept = values > CUT * values[-1]
    turn = vectors.T * scale
    turn[kept] *= values[kept].rsqrt()[:, None]
    seen, inner = torch.linalg.eigh(turn[kept] @ (gram / unit) @ turn[kept].T)
    turn[kept] = inner.T @ turn[kept]
    share = torch.zeros_like(values)
    share[kept] = seen.clamp(0, 1)
    left = torch.where(kept, 1 - share, 0.0)
    return share * unit, turn, left


def stacked(factors: Sequence[Factor], residuals: Sequence[Tensor]) -> Cond:
    """Conditions of several operators and the data of one field for each; fewer rows are filled up with zeros."""
    most = max(len(factor.values) for factor in factors)
    basis, rows, values, data, variance = [], [], [], [], []
    for factor, residual in zip(factors, residuals):
        fill = most - len(factor.values)
        pad = torch.nn.functional.pad
        basis.append(pad(factor.basis, (0, fill)))
        rows.append(pad(factor.rows, (0, 0, 0, fill)))
        values.append(pad(factor.values, (0, fill)))
        data.append(pad(factor.data(residual[None])[0], (0, fill)))
        variance.append(pad(factor.variance, (0, fill)))
    return _named(*(torch.stack(part) for part in (basis, rows, values, data, variance)))


def _named(*parts: Tensor) -> Cond:
    return {HEAD + name: part for name, part in zip(("basis", "rows", "values", "data", "variance"), parts)}


@dataclass(frozen=True)
class Update:
    """The factors and data of a batch of rows: G operators (one, or one for each row), data (B, m)."""

    basis: Tensor
    rows: Tensor
    values: Tensor
    data: Tensor
    variance: Tensor

    @classmethod
    def from_cond(cls, cond: Cond) -> Update | None:
        """What `Factor.cond` or `stacked` made, as a loop hands it on; None where there are no data."""
        if HEAD + "basis" not in cond:
            return None
        names = ("basis", "rows", "values", "data", "variance")
        parts = {name: cond[HEAD + name] for name in names}
        shared = parts["basis"].stride(0) == 0
        return cls(**{name: part[:1] if shared and name != "data" else part for name, part in parts.items()})

    def shift(self, guess: Tensor, c2: Tensor, xi: Tensor | None = None) -> Tensor:
        """E[f | z, y] - D (B, P) for guess = D - mean (B, P) and c^2 () or (B,).

        xi (B, m): N(0, I) by which the data are disturbed as their noise would, for draws by Matheron's rule.
        """
        data = self.data if xi is None else self.data + self.variance.sqrt() * xi.double()
        residual = data - self._apply(self.rows, guess.double())
        return self._apply(self.basis, self._weight(c2) * residual)

    def moved(self, z: Tensor, d: float, rho_t: float, rho_s: float) -> Tensor:
        """z - mean at rho_s (B, P), by the probability-flow ODE from z - mean at rho_t (B, P) where f is Gaussian.

        What is left of f in the direction of a row of T H has the variance L pi, pi = d^2 s^2 / (d^2 L + s^2), and
        z there, less its mean, changes by ((pi + rho_s^2) / (pi + rho_t^2))^1/2; all else as where there are no data,
        by q = ((d^2 + rho_s^2) / (d^2 + rho_t^2))^1/2.
        """
        total = d**2 * self.values + self.variance
        share = torch.where(total > 0, d**2 / torch.where(total > 0, total, 1.0), 0.0)
        left, fall = self.variance * share, rho_t**2 - rho_s**2
        q = math.sqrt((d**2 + rho_s**2) / (d**2 + rho_t**2))
        ratio = ((left + rho_s**2) / (left + rho_t**2)).sqrt()
        # (ratio - q) / L, without dividing by what may be zero
        gain = -(d**2) * share * fall / ((left + rho_t**2) * (d**2 + rho_t**2) * (ratio + q))
        seen = gain * self._apply(self.rows, z.double()) + (1 - ratio) * share * self.data
        return q * z.double() + self._apply(self.basis, seen)

    def left(self, prior: Tensor, c2: Tensor) -> Tensor:
        """Var[f | z, y] (B, P), or (1, P) where all rows have one; prior: the diagonal of C (P,)."""
        weight = self._weight(c2)
        c2 = c2.double().reshape(-1, 1)
        return (c2 * (prior - self._apply(self.basis**2, weight))).clamp(min=0)

    def taken(self, c2: Tensor) -> Tensor:
        """What data take from the covariance c^2 C of f given z: c^4 C H^T (c^2 H C H^T + R)^-1 H C (B or 1, P, P)."""
        weight = self._weight(c2) * c2.double().reshape(-1, 1)
        return (self.basis * weight[:, None]) @ self.basis.mT

    def _weight(self, c2: Tensor) -> Tensor:
        """c^2 / (c^2 L + s^2), zero in directions that nothing tells of, (B or 1, m)."""
        c2 = c2.double().reshape(-1, 1).to(self.values.device)
        total = c2 * self.values + self.variance
        return torch.where(total > 0, c2 / torch.where(total > 0, total, 1.0), 0.0)

    @staticmethod
    def _apply(matrix: Tensor, x: Tensor) -> Tensor:
        """matrix (1 or B, a, b) times x (B, b) or (1, b), row by row."""
        if len(matrix) == 1:
            return x @ matrix[0].T
        return torch.einsum("bij,bj->bi", matrix, x.expand(len(matrix), -1))
