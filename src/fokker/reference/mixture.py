"""Closed-form posterior of a Gaussian mixture with linear-Gaussian data."""

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp

from fokker.errors import InputError
from fokker.reference.gaussian import check_data, stream


class LinearMixture:
    """Posterior of x ~ sum_k w_k N(m_k, C_k) given y = A x + e, e ~ N(0, noise^2 I) or N(0, R).

    Given y it is again a mixture, with S_k = A C_k A^T + R and K_k = C_k A^T S_k^-1:

        w_k' ~ w_k N(y; A m_k, S_k),                    m_k' = m_k + K_k (y - A m_k),
        C_k' = (I - K_k A) C_k (I - K_k A)^T + K_k R K_k^T.

    weights (K,), means (K, d), covariances (K, d, d), operator (m, d), noise a standard deviation > 0 or R (m, m),
    positive definite. float64. Raises `InputError` for shapes that do not fit and R that is not positive definite.
    """

    def __init__(
        self, weights: ArrayLike, means: ArrayLike, covariances: ArrayLike, operator: ArrayLike, noise: ArrayLike
    ) -> None:
        w, m, c, a, r = (np.asarray(v, dtype=np.float64) for v in (weights, means, covariances, operator, noise))
        if m.ndim != 2 or w.shape != m.shape[:1] or c.shape != (*m.shape, m.shape[1]) or a.shape[1:] != m.shape[1:]:
            raise InputError(
                f"mixture: weights {w.shape}, means {m.shape}, covariances {c.shape}, operator {a.shape} do not fit; "
                "accepted are (K,), (K, d), (K, d, d) and (m, d)"
            )
        r = r**2 * np.eye(len(a)) if r.ndim == 0 else r
        if r.shape != (len(a), len(a)) or np.linalg.eigvalsh(r)[0] <= 0:
            raise InputError(f"noise: {r.shape} is no positive definite matrix of shape {(len(a), len(a))}")
        self._log_w, self._means, self._operator = np.log(w / w.sum()), m, a
        self._predicted = m @ a.T
        total = a @ c @ a.T + r
        self._root = np.linalg.cholesky(total)
        self._gain = np.swapaxes(np.linalg.solve(total, a @ c), 1, 2)  # (K, d, m)
        rest = np.eye(m.shape[1]) - self._gain @ a
        self.covariances: NDArray = rest @ c @ np.swapaxes(rest, 1, 2) + self._gain @ r @ np.swapaxes(self._gain, 1, 2)
        """C_k' (K, d, d), the same for every y."""

    def components(self, y: ArrayLike) -> tuple[NDArray, NDArray, NDArray]:
        """log w_k' (M, K), m_k' (M, K, d) and log p(y) (M,) of data y (M, m)."""
        data = check_data(y, len(self._operator))
        offset = data[:, None] - self._predicted
        white = np.linalg.solve(self._root, offset[..., None])[..., 0]
        log_det = np.log(np.diagonal(self._root, axis1=1, axis2=2)).sum(1)
        log = self._log_w - 0.5 * (white**2).sum(2) - log_det - 0.5 * data.shape[1] * math.log(2 * math.pi)
        evidence = logsumexp(log, axis=1)
        return log - evidence[:, None], self._means + np.einsum("kdm,bkm->bkd", self._gain, offset), evidence

    def moments(self, y: ArrayLike) -> tuple[NDArray, NDArray]:
        """Means and standard deviations (M, d) of x given each row of y (M, m)."""
        log, means, _ = self.components(y)
        weights = np.exp(log)
        mean = np.einsum("bk,bkd->bd", weights, means)
        variance = np.einsum("kdd->kd", self.covariances) + (means - mean[:, None]) ** 2
        return mean, np.sqrt(np.einsum("bk,bkd->bd", weights, variance))

    def sample(self, y: ArrayLike, n: int, seed: int = 0) -> NDArray:
        """n independent samples (M, n, d) of each row of y (M, m); row i uses the random stream (seed, i)."""
        log, means, _ = self.components(y)
        values, vectors = np.linalg.eigh(self.covariances)
        factors = vectors * np.sqrt(np.maximum(values, 0.0))[:, None]
        out = np.empty((len(means), n, means.shape[2]))
        for row in range(len(means)):
            rng = stream(seed, row)
            which = rng.choice(log.shape[1], n, p=np.exp(log[row]))
            xi = rng.standard_normal((n, means.shape[2]))
            out[row] = means[row, which] + np.einsum("nij,nj->ni", factors[which], xi)
        return out
