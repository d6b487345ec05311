"""What linear data say about a Gaussian field, at any noise level, from one factorisation for each operator.

With f ~ N(mean, d^2 C) seen as z = f + rho N(0, C), f given z is N(D, c^2 C), D = mean + d^2/(d^2 + rho^2) (z - mean),
c^2 = rho^2 d^2 / (rho^2 + d^2). Data y = H f + N(0, R) then give

    E[f | z, y] = D + c^2 C H^T (c^2 H C H^T + R)^-1 (y - H D),
    Var[f | z, y] = diag(c^2 C - c^4 C H^T (c^2 H C H^T + R)^-1 H C).

C does not depend on the level: in the eigenbasis of H C H^T (after whitening R) each level costs two thin products.
All in float64, as data without noise make these systems ill-conditioned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.noise import Noise
from fokker.states import Cond

CUT = 1e-13  # of the largest eigenvalue of H C H^T: below, a direction is unseen where there is no noise
HEAD = "update."  # of the names of conditions


@dataclass(frozen=True)
class Factor:
    """An operator of m rows and its noise, for states of P entries; H C H^T = U L U^T once R is whitened.

    basis C H^T U (P, m), rows U^T H (m, P), values L (m,), turn U^T R^-1/2 (m, m), variance () of the noise that is
    left: 1, or that of the noise itself where it is one number.
    """

    basis: Tensor
    rows: Tensor
    values: Tensor
    turn: Tensor
    variance: Tensor

    @classmethod
    def of(cls, noise: Noise, rows: Tensor, std: Tensor | float, points: Tensor | None = None) -> Factor:
        """rows H (m, *x_shape), also none or linearly dependent ones; std of the noise.

        std: a number (0 for none), one for each row (m,), or a factor of R (m, m).
        """
        rows = rows.double()
        root = torch.as_tensor(std, dtype=torch.float64, device=rows.device)
        whiten = torch.eye(len(rows), dtype=torch.float64, device=rows.device)
        if root.ndim:
            whiten = torch.diag(1 / root) if root.ndim == 1 else torch.linalg.inv(root)
            rows = torch.tensordot(whiten, rows, 1)
        spread, flat = noise.apply(rows, points).flatten(1), rows.flatten(1)
        gram = flat @ spread.T
        values, vectors = torch.linalg.eigh((gram + gram.T) / 2)
        values = values.clamp(min=0)
        if not root.ndim and float(root) == 0:
            values = torch.where(values > CUT * values.amax() if len(values) else values > 0, values, 0.0)
        variance = root**2 if not root.ndim else torch.ones_like(root[..., 0].sum())
        return cls(spread.T @ vectors, vectors.T @ flat, values, vectors.T @ whiten, variance)

    def data(self, residual: Tensor) -> Tensor:
        """U^T R^-1/2 residual (M, m), for residuals y - H mean (M, m).

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
        variance.append(factor.variance)
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
        data = self.data if xi is None else self.data + self.variance.sqrt()[:, None] * xi.double()
        residual = data - self._apply(self.rows, guess.double())
        return self._apply(self.basis, self._weight(c2) * residual)

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
        total = c2 * self.values + self.variance[:, None]
        return torch.where(total > 0, c2 / torch.where(total > 0, total, 1.0), 0.0)

    @staticmethod
    def _apply(matrix: Tensor, x: Tensor) -> Tensor:
        """matrix (1 or B, a, b) times x (B, b) or (1, b), row by row."""
        if len(matrix) == 1:
            return x @ matrix[0].T
        return torch.einsum("bij,bj->bi", matrix, x.expand(len(matrix), -1))
