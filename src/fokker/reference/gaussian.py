"""Closed-form posterior of a linear-Gaussian model."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fokker.errors import InputError


def check_prior(mean: ArrayLike, covariance: ArrayLike, operator: ArrayLike) -> tuple[NDArray, NDArray, NDArray]:
    """Mean (d,), symmetric covariance (d, d) and operator (k, d) as float64; `InputError` where they do not fit."""
    m, k, b = (np.asarray(a, dtype=np.float64) for a in (mean, covariance, operator))
    if m.ndim == 0 and k.ndim == 2:
        m = np.full(len(k), float(m))
    if m.ndim != 1 or k.shape != (m.size, m.size) or b.ndim != 2 or b.shape[1] != m.size:
        raise InputError(
            f"mean, covariance and operator have shapes {m.shape}, {k.shape}, {b.shape}; "
            "accepted are (d,) or a number, (d, d) and (k, d)"
        )
    if not all(np.isfinite(a).all() for a in (m, k, b)):
        raise InputError("mean, covariance or operator hold NaN or infinity; accepted are finite numbers")
    if np.abs(k - k.T).max() > 1e-10 * np.abs(k).max():
        raise InputError("covariance is not symmetric; accepted is a symmetric positive semi-definite matrix")
    return m, k, b


def check_data(y: ArrayLike, size: int) -> NDArray:
    """Data (M, size) as float64; `InputError` on another shape or non-finite values."""
    data = np.asarray(y, dtype=np.float64)
    if data.ndim != 2 or data.shape[1] != size or len(data) == 0 or not np.isfinite(data).all():
        raise InputError(f"y has shape {data.shape}; accepted are finite numbers of shape (M, {size}), M >= 1")
    return data


class LinearGaussian:
    """Posterior of x ~ N(mean, covariance) given y = operator x + e, e ~ N(0, noise^2 I) or N(0, R).

    With covariance = L L^T, whitened R^{-1/2} B L = U diag(s) V^T (all d columns of V, s = 0 where there is none) and
    residual r = R^{-1/2} (y - B mean), the coordinates of x = mean + L V w are independent given y:

        w_i ~ N( s_i (U^T r)_i / (s_i^2 + 1),  1 / (s_i^2 + 1) ).

    For noise = 0 the same with s_i^2 / s_i^2: seen directions (s_i > 0) are known exactly, by least squares where y is
    outside the range, and unseen ones keep the prior. For an invertible operator that is the point B^{-1} y.

    mean: (d,) or a number; covariance: (d, d), may be singular; operator: (k, d); noise: a standard deviation >= 0,
    or R (k, k), positive definite. float64 throughout. Raises `InputError` for anything else.
    Source: Stuart, "Inverse problems: a Bayesian perspective", Acta Numerica 19 (2010), section 2.
    """

    def __init__(self, mean: ArrayLike, covariance: ArrayLike, operator: ArrayLike, noise: ArrayLike) -> None:
        self._prior_mean, k, self._operator = check_prior(mean, covariance, operator)
        rows, d = self._operator.shape
        eigenvalues, vectors = np.linalg.eigh(k)
        if eigenvalues[0] < -1e-8 * max(eigenvalues[-1], 0.0) or eigenvalues[-1] < 0:
            raise InputError(
                f"covariance has the eigenvalue {eigenvalues[0]:.3g}; accepted is a positive semi-definite matrix"
            )
        root = vectors * np.sqrt(np.maximum(eigenvalues, 0.0))
        whiten, floor = _whitener(np.asarray(noise, dtype=np.float64), rows)
        u, s, vt = np.linalg.svd(whiten @ self._operator @ root)
        seen = s > s.max(initial=0.0) * max(rows, d) * np.finfo(np.float64).eps
        s = np.where(seen, s, 0.0)
        gain = np.divide(s, s**2 + floor, out=np.zeros_like(s), where=seen)
        variance = np.ones(d)
        variance[: s.size] = np.where(seen, floor / np.where(seen, s**2 + floor, 1.0), 1.0)
        basis = root @ vt.T
        self._gain = (basis[:, : s.size] * gain) @ u[:, : s.size].T @ whiten
        self._factor = basis * np.sqrt(variance)
        self.covariance: NDArray = self._factor @ self._factor.T
        """Posterior covariance (d, d), the same for every y."""

    def mean(self, y: ArrayLike) -> NDArray:
        """Posterior means (M, d) of data y (M, k). Raises `InputError` on another shape or non-finite data."""
        data = check_data(y, len(self._operator))
        residual = data - self._operator @ self._prior_mean
        # One product per row: in one large product, the rounding of a row would depend on the number of rows.
        return self._prior_mean + (residual[:, None] @ self._gain.T)[:, 0]

    def sample(self, y: ArrayLike, n: int, seed: int = 0) -> NDArray:
        """n independent posterior samples (M, n, d) of each row of y (M, k).

        Row i uses the random stream (seed, i), so it does not depend on the other rows. Raises `InputError` on another
        shape, non-finite data or n < 1.
        """
        if n < 1:
            raise InputError(f"n is {n}; accepted is a number of samples of at least 1")
        means = self.mean(y)
        shape = (n, means.shape[1])
        noise = np.stack([stream(seed, i).standard_normal(shape) for i in range(len(means))])
        return means[:, None] + noise @ self._factor.T


def stream(seed: int, case: int) -> np.random.Generator:
    """The random stream of one case, a counter-based generator keyed by (seed, case), both in [0, 2^64).

    Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    if not 0 <= seed < 2**64:
        raise InputError(f"seed is {seed}; accepted is an integer from 0 to 2^64 - 1")
    return np.random.Generator(np.random.Philox(key=np.array([seed, case], dtype=np.uint64)))


def _whitener(noise: NDArray, rows: int) -> tuple[NDArray, float]:
    """A matrix T and a variance f with T e ~ N(0, f I): (I, sigma^2), or (R^{-1/2}, 1)."""
    if noise.ndim == 0 and np.isfinite(noise) and noise >= 0:
        return np.eye(rows), float(noise) ** 2
    if noise.shape == (rows, rows) and np.isfinite(noise).all() and np.allclose(noise, noise.T):
        eigenvalues, vectors = np.linalg.eigh(noise)
        if eigenvalues[0] > 0:
            return (vectors / np.sqrt(eigenvalues)) @ vectors.T, 1.0
    received = f"{float(noise):g}" if noise.ndim == 0 else f"an array of shape {noise.shape}"
    raise InputError(
        f"noise is {received}; accepted is a standard deviation >= 0 or a symmetric positive definite matrix "
        f"of shape {(rows, rows)}"
    )
