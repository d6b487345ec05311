"""A quadratic model of an expensive forward map around each case, to guide Markov chains that stay exact."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fokker.reference.rectified_prior import RectifiedTarget

Map = Callable[[NDArray], NDArray]
_FLAT = 0.01  # spreads of a design below this many prior standard deviations tell nothing of the curvature


class ForwardMap:
    """A forward map x (N, d) -> (N, k) with Jacobian (N, k, d), counting by case what was asked of it.

    solves, jacobians, failed: (M,) rows asked of either, and rows with a value that is not finite.
    """

    def __init__(self, forward: Map, jacobian: Map, cases: int) -> None:
        self._forward, self._jacobian = forward, jacobian
        self.solves, self.jacobians, self.failed = (np.zeros(cases, dtype=int) for _ in range(3))

    def values(self, x: NDArray, cases: NDArray) -> NDArray:
        """(m, C, k) of x (m, C, d), C points of each of the cases (m,)."""
        return self._ask(self._forward, x, cases, self.solves)

    def slopes(self, x: NDArray, cases: NDArray) -> NDArray:
        """(m, C, k, d), likewise."""
        return self._ask(self._jacobian, x, cases, self.jacobians)

    def _ask(self, what: Map, x: NDArray, cases: NDArray, count: NDArray) -> NDArray:
        out = np.asarray(what(x.reshape(-1, x.shape[-1])), dtype=np.float64)
        out = out.reshape(*x.shape[:2], *out.shape[1:])
        count[cases] += x.shape[1]
        self.failed[cases] += (~np.isfinite(out).all(tuple(range(2, out.ndim)))).sum(1)
        return out


class LeastSquares(RectifiedTarget):
    """misfit = |y - f(x)|^2 / (2 noise^2) of a map f with a Jacobian."""

    noise: float

    @abstractmethod
    def _residual(self, x: NDArray) -> tuple[NDArray, NDArray]:
        """f(x) - y (m', C, k) and the Jacobian (m', C, k, d)."""

    def slope(self, x: NDArray, out: NDArray) -> NDArray:
        residual, slopes = self._residual(x)
        np.matmul(residual[:, :, None], slopes, out=out[:, :, None])
        out /= self.noise**2
        return out


class Surrogate(LeastSquares):
    """misfit = |y - S(x)|^2 / (2 sigma^2), S(x) = value + (slope + bend dx / 2) dx, dx = x - centre, for each case.

    Its slope is (slope + bend dx)^T (S - y) / sigma^2. slope and bend are the regression of exact Jacobians on x at
    points of a design, value that of exact values. y: (m, k); centre: (m, d); value: (m, k); slope: (m, k d);
    bend: (m, d, k d).
    """

    def __init__(self, prior: RectifiedTarget, y: NDArray, noise: float, scale: NDArray) -> None:
        self.precision, self.pull, self.y, self.noise, self.scale = prior.precision, prior.pull, y, noise, scale
        (m, k), d = y.shape, len(scale)
        self.centre, self.value = np.zeros((m, d)), y.copy()
        self.level, self.bend = np.zeros((m, k * d)), np.zeros((m, d, k * d))

    def at(self, rows: NDArray) -> Surrogate:
        part = object.__new__(Surrogate)
        part.__dict__.update(self.__dict__)
        for name in ("y", "centre", "value", "level", "bend"):
            setattr(part, name, getattr(self, name)[rows])
        return part

    def fit(self, case: int, x: NDArray, values: NDArray, slopes: NDArray) -> None:
        """One case from points x (N, d), values (N, k) and Jacobians (N, k, d); rows that are not finite are left out.

        Ridge regression: a direction in which the design is much narrower than the prior gets no curvature.
        """
        good = np.isfinite(values).all(1) & np.isfinite(slopes).all((1, 2))
        if not good.any():  # no force of the data: chains are slow, and say so by their convergence
            return
        x, values, slopes = x[good], values[good], slopes[good].reshape(good.sum(), -1)
        centre, level = x.mean(0), slopes.mean(0)
        dx, z = x - centre, (x - centre) / self.scale
        normal = z.T @ z + len(x) * _FLAT**2 * np.eye(len(self.scale))
        bend = np.linalg.solve(normal, z.T @ (slopes - level)) / self.scale[:, None]
        rise = ((level + 0.5 * dx @ bend).reshape(len(x), -1, len(self.scale)) @ dx[..., None])[..., 0]
        self.centre[case], self.level[case], self.bend[case] = centre, level, bend
        self.value[case] = (values - rise).mean(0)

    def misfit(self, x: NDArray) -> NDArray:
        return 0.5 * (self._residual(x)[0] ** 2).sum(-1) / self.noise**2

    def local(self, x: NDArray) -> tuple[NDArray, NDArray]:
        residual, slopes = (a[:, 0] for a in self._residual(x[:, None]))
        return gauss_newton(residual, slopes, self.noise)

    def _residual(self, x: NDArray) -> tuple[NDArray, NDArray]:
        """S(x) - y (m', C, k) and the Jacobian (m', C, k, d)."""
        cases = len(x)
        dx = x - self.centre[:cases, None]
        shape = (*x.shape[:2], self.y.shape[1], x.shape[2])
        level, bent = self.level[:cases, None], dx @ self.bend[:cases]
        rise = ((level + 0.5 * bent).reshape(shape) @ dx[..., None])[..., 0]
        return self.value[:cases, None] + rise - self.y[:cases, None], (level + bent).reshape(shape)


def gauss_newton(residual: NDArray, slopes: NDArray, noise: float) -> tuple[NDArray, NDArray]:
    """Gradient (m, d) of |r|^2 / (2 sigma^2) and J^T J / sigma^2, of residuals r (m, k) with Jacobians J (m, k, d)."""
    return (residual[:, None] @ slopes)[:, 0] / noise**2, slopes.transpose(0, 2, 1) @ slopes / noise**2
