"""Posterior coordinates: x whitened by its Gaussian conditional mean and covariance given what is observed of y."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from fokker.covariance import check_varies, from_incomplete, ledoit_wolf
from fokker.errors import InputError
from fokker.states import Cond, observed

MAX_VECTOR = 2000  # d_x + d_y up to which covariance matrices are formed
_FLOOR = 1e-12  # smallest conditional variance kept, relative to the prior's
_PATTERNS = 256  # sensor patterns whose factors are kept


class _Factors(NamedTuple):
    gain: Tensor  # (d_x, d_y), zero columns where y is not observed
    root: Tensor  # L
    inverse_root: Tensor
    log_det: Tensor
    rank: int


class Posterior:
    """xi = L^-1 (x - mu(y)), with mu(y) and L L^T the Gaussian conditional mean and covariance of x given y.

    mu(y) = mean_x + C_xy C_yy^-1 (y - mean_y) and L = diag(std x) S with S the symmetric root
    of the conditional covariance in units of the prior's standard deviations, over the *observed*
    entries of y (not NaN, omega True): both follow from which entries are observed, so missing sensors take no other
    path. For a linear-Gaussian problem xi ~ N(0, I) exactly. Directions in which x has no variance given y keep a
    floor of 1e-12 of their prior variance; `rank(cond)` tells how many have more, and `log_det` refuses there.

    squares (4, *y_shape): with them mu(y) is linear in y and in its squares, min(|u|, limit)^2 - mean of u = (y -
    centre) / scale; rows are centre, scale, limit (the largest |u| of the training pairs, so that nothing explodes
    beyond them) and mean. covariance is then that of x, y and the squares.
    """

    name: ClassVar[str] = "posterior"

    def __init__(self, mean_x: Tensor, mean_y: Tensor, covariance: Tensor, squares: Tensor | None = None):
        self.mean_x, self.mean_y, self.covariance, self.squares = mean_x, mean_y, covariance, squares
        self._known: OrderedDict[bytes, _Factors] = OrderedDict()
        self._axes: tuple[Tensor, Tensor] | None = None

    @classmethod
    def estimate(cls, x: Tensor, y: Tensor) -> Posterior:
        """From training pairs x (N, *x_shape), y (N, *y_shape); NaN in y is missing, the rest of its row counts.

        With fewer than five pairs per dimension the correlations are shrunk towards zero by the intensity of Ledoit and
        Wolf 2004. Squares of y are taken in where that lowers the Bayesian information criterion of the Gaussian
        conditional, from complete pairs that are many enough not to be shrunk. InputError beyond d_x + d_y = 2,000 and
        for entries that never vary.
        """
        joint = torch.cat([x.double().flatten(1), y.double().flatten(1)], 1)
        count, size = joint.shape
        if size > MAX_VECTOR:
            raise InputError(
                f"coordinates: 'posterior' serves up to {MAX_VECTOR} entries of x and y, got {size}; "
                "'standard' is accepted"
            )
        seen = ~joint.isnan()
        weight = seen.sum(0).clamp(min=1)
        mean = joint.nan_to_num().sum(0) / weight
        centred = (joint - mean).nan_to_num()
        std = (centred.square().sum(0) / weight).sqrt()
        check_varies("x", std[: x[0].numel()])
        check_varies("y", std[x[0].numel() :])
        scaled = centred / std
        pairs = seen.double().T @ seen.double()
        correlation = scaled.T @ scaled / pairs.clamp(min=1)
        shrinkage = ledoit_wolf(scaled, correlation) if count < 5 * size else 0.0
        correlation = (1 - shrinkage) * correlation + shrinkage * torch.eye(size, dtype=torch.float64)
        if not bool(seen.all()):
            offset, correlation = from_incomplete(torch.where(seen, scaled, torch.nan), correlation, shrinkage)
            mean = mean + std * offset
        split = x[0].numel()
        covariance = std[:, None] * correlation * std
        means = mean[:split].reshape(x.shape[1:]), mean[split:].reshape(y.shape[1:])
        linear = cls(*means, covariance)
        if not bool(seen.all()) or count < 5 * (2 * size - split) or 2 * size - split > MAX_VECTOR:
            return linear
        u = centred[:, split:] / std[split:]
        limit = u.abs().amax(0)
        squared = u.square()
        rest = squared - squared.mean(0)
        if not bool((rest.square().mean(0) > 0).all()):  # entries that are one of two values have no other square
            return linear
        both = torch.cat([centred, rest], 1)
        rows = torch.stack([mean[split:], std[split:], limit, squared.mean(0)]).reshape(4, *y.shape[1:])
        quadratic = cls(*means, both.T @ both / count, rows)
        gain = 2 * count * (linear._log_det_of_all() - quadratic._log_det_of_all())
        return quadratic if gain > split * (size - split) * math.log(count) else linear

    def forward(self, x: Tensor, cond: Cond) -> Tensor:
        """L^-1 (x - mu(y))."""

        def one(f: _Factors, x: Tensor, mean: Tensor) -> Tensor:
            return (x - mean) @ f.inverse_root.T

        return self._apply(one, x, cond)

    def inverse(self, xi: Tensor, cond: Cond) -> Tensor:
        """mu(y) + L xi."""

        def one(f: _Factors, xi: Tensor, mean: Tensor) -> Tensor:
            return mean + xi @ f.root.T

        return self._apply(one, xi, cond)

    def log_det(self, cond: Cond) -> Tensor:
        """log det L (B,)."""
        out = torch.empty(len(cond["y"]), dtype=torch.float64)
        for factors, rows in self._groups(cond):
            if factors.rank < len(factors.root):
                raise InputError(f"density: x given y varies in {factors.rank} of {len(factors.root)} directions only")
            out[rows] = factors.log_det
        return out

    def rank(self, cond: Cond) -> list[int]:
        """In how many directions x varies given y, for each pattern of observed entries in `cond`."""
        return [factors.rank for factors, _ in self._groups(cond)]

    def mean(self, cond: Cond) -> Tensor:
        """mu(y) (B, *x_shape) in float64."""
        return self._means(cond).reshape(-1, *self.mean_x.shape)

    def std(self, cond: Cond) -> Tensor:
        """Standard deviation (B, *x_shape) of every entry of x given y: the root of the diagonal of L L^T."""
        out = torch.empty(len(cond["y"]), self.mean_x.numel(), dtype=torch.float64)
        for factors, rows in self._groups(cond):
            out[rows] = factors.root.square().sum(1).sqrt()
        return out.reshape(-1, *self.mean_x.shape)

    def features(self, cond: Cond) -> Tensor:
        """mu(y) in prior standard deviations and y on its principal axes; then the observed mask if there is one."""
        n = self.mean_x.numel()
        std = self.covariance.diagonal()[:n].sqrt()
        y, _ = observed(cond)
        values, vectors = self._axes_of_y()
        axes = (y.double() - self.mean_y).nan_to_num().flatten(1) @ vectors
        parts = [(self._means(cond) - self.mean_x.flatten()) / std, axes / values.sqrt()]
        if "omega" in cond:
            parts.append(observed(cond)[1].flatten(1))
        return torch.cat([p.float() for p in parts], 1)

    def _axes_of_y(self) -> tuple[Tensor, Tensor]:
        if self._axes is None:
            n = self.mean_x.numel()
            m = n + self.mean_y.numel()
            values, vectors = torch.linalg.eigh(self.covariance[n:m, n:m])
            self._axes = (values.clamp(min=_FLOOR * float(values.max())), vectors)
        return self._axes

    def tensors(self) -> dict[str, Tensor]:
        """Means, joint covariance, and the squares where there are any."""
        out = {"mean_x": self.mean_x, "mean_y": self.mean_y, "covariance": self.covariance}
        return out if self.squares is None else {**out, "squares": self.squares}

    def _log_det_of_all(self) -> float:
        """log det L where every entry of y is observed."""
        return float(self._factors(torch.ones(self.mean_y.numel(), dtype=torch.bool)).log_det)

    def _offset(self, y: Tensor) -> Tensor:
        """What mu(y) is linear in, less its mean, zero where y is missing."""
        y = y.double()
        parts = [y - self.mean_y]
        if self.squares is not None:
            centre, scale, limit, mean = self.squares
            parts.append(((y - centre) / scale).abs().minimum(limit).square() - mean)
        return torch.cat([part.nan_to_num().flatten(1) for part in parts], 1)

    def _apply(self, one: object, value: Tensor, cond: Cond) -> Tensor:
        flat, means = value.double().flatten(1), self._means(cond)
        out = torch.empty_like(flat)
        for factors, rows in self._groups(cond):
            out[rows] = one(factors, flat[rows], means[rows])  # type: ignore[operator]
        return out.reshape(value.shape).to(value)

    def _means(self, cond: Cond) -> Tensor:
        y, _ = observed(cond)
        offset = self._offset(y)
        out = torch.empty(len(offset), self.mean_x.numel(), dtype=torch.float64, device=offset.device)
        for factors, rows in self._groups(cond):
            out[rows] = self.mean_x.flatten() + offset[rows] @ factors.gain.T
        return out

    def _groups(self, cond: Cond) -> Iterator[tuple[_Factors, Tensor | slice]]:
        """The rows of each pattern of observed entries, with the factors of that pattern."""
        _, seen = observed(cond)
        seen = seen.flatten(1)
        if bool((seen == seen[:1]).all()):
            yield self._factors(seen[0]), slice(None)
            return
        patterns, which = torch.unique(seen, dim=0, return_inverse=True)
        for index, pattern in enumerate(patterns):
            yield self._factors(pattern), (which == index).nonzero().flatten()

    def _factors(self, seen: Tensor) -> _Factors:
        code = seen.cpu().numpy().tobytes()
        if code in self._known:
            self._known.move_to_end(code)
            return self._known[code]
        n = self.mean_x.numel()
        used = (seen if self.squares is None else seen.repeat(2)).nonzero().flatten()
        c, at = self.covariance, n + used
        # Relative floor on C_yy: sensors that repeat each other leave it singular.
        scale = c.diagonal()[at].sqrt()
        values, vectors = torch.linalg.eigh(c[at][:, at] / scale / scale[:, None])
        whiten = vectors * (values.clamp(min=_FLOOR * max(1, len(at))) ** -0.5)
        cross = (c[:n, at] / scale) @ whiten
        gain = torch.zeros(n, c.shape[0] - n, dtype=c.dtype, device=c.device)
        gain[:, used] = cross @ whiten.T / scale
        prior = c.diagonal()[:n].sqrt()
        rest = (c[:n, :n] - cross @ cross.T) / prior / prior[:, None]
        values, vectors = torch.linalg.eigh((rest + rest.T) / 2)
        rank = int((values > 10 * _FLOOR * n).sum())
        root = (vectors * values.clamp(min=_FLOOR).sqrt()) @ vectors.T
        inverse = (vectors * values.clamp(min=_FLOOR) ** -0.5) @ vectors.T
        log_det = values.clamp(min=_FLOOR).log().sum() / 2 + prior.log().sum()
        factors = _Factors(gain, prior[:, None] * root, inverse / prior, log_det, rank)
        self._known[code] = factors
        if len(self._known) > _PATTERNS:
            self._known.popitem(last=False)
        return factors
