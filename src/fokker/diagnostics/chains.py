"""Convergence of Markov chains: rank-normalised split R-hat and bulk effective sample size."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri
from scipy.stats import rankdata

from fokker.errors import InputError


def _split(chains: ArrayLike) -> NDArray:
    """Chains (C, D, *shape) as (*shape, 2C, D // 2) halves; the middle draw of an odd D is left out."""
    x = np.asarray(chains, dtype=np.float64)
    if x.ndim < 2 or x.shape[0] < 1 or x.shape[1] < 4:
        raise InputError(
            f"chains have shape {x.shape}; accepted is (chains, draws, *shape) with at least 1 chain of 4 draws"
        )
    if not np.isfinite(x).all():
        raise InputError("chains hold NaN or infinity; accepted are finite numbers")
    half = x.shape[1] // 2
    both = np.concatenate([x[:, :half], x[:, -half:]])
    return np.moveaxis(both, (0, 1), (-2, -1))


def _normal_scores(x: NDArray) -> NDArray:
    """Ranks over the last two axes jointly (ties share their mean rank), turned into normal quantiles."""
    flat = x.reshape(*x.shape[:-2], -1)
    return ndtri((rankdata(flat, axis=-1) - 0.375) / (flat.shape[-1] + 0.25)).reshape(x.shape)


def _variances(x: NDArray) -> tuple[NDArray, NDArray]:
    """Within-chain variance W and the pooled estimate (D - 1) / D W + var(chain means), over the last two axes."""
    draws = x.shape[-1]
    within = x.var(-1, ddof=1).mean(-1)
    return within, (draws - 1) / draws * within + x.mean(-1).var(-1, ddof=1)


def _rhat(x: NDArray) -> NDArray:
    within, pooled = _variances(x)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt(pooled / within)


def _constant(x: NDArray) -> NDArray:
    return x.max((-2, -1)) == x.min((-2, -1))


def split_rhat(chains: ArrayLike) -> NDArray:
    """Rank-normalised split R-hat, the larger of the bulk's and the tails'.

    Each chain is cut in two, values are replaced by normal scores z = Phi^-1((rank - 3/8) / (S + 1/4)), S all
    draws, and R-hat = sqrt(((N - 1) / N W + B / N) / W), with W the mean variance within and B / N the variance
    between the half chains of N draws. The tails' is the same for |x - median|. 1 means converged; 1.01 is the
    usual limit.

    chains: (C, D, *shape), C >= 1, D >= 4. Returns *shape; NaN where all draws are one value, infinity where
    every half chain is stuck at a value of its own. Raises `InputError` on other shapes or non-finite values.
    Source: Vehtari, Gelman, Simpson, Carpenter, Buerkner, "Rank-normalization, folding, and localization", Bayesian
    Analysis 16 (2021).
    """
    x = _split(chains)
    folded = np.abs(x - np.median(x, axis=(-2, -1), keepdims=True))
    # fmax: |x - median| of a two-valued quantity can be constant, which says nothing and must not hide the bulk.
    both = np.fmax(_rhat(_normal_scores(x)), _rhat(_normal_scores(folded)))
    return np.where(_constant(x), np.nan, both)


def ess(chains: ArrayLike) -> NDArray:
    """Bulk effective sample size: of the normal scores of the split chains.

    S / tau with tau = -1 + 2 sum_k P_k, P_k = rho_{2k} + rho_{2k+1}, cut at the first negative P_k and made
    non-increasing (Geyer), rho_t = 1 - (W - mean autocovariance at lag t) / pooled variance over 2C half chains. Never
    above S log10(S), where antithetic chains are cut off.

    chains: (C, D, *shape), C >= 1, D >= 4. Returns *shape, in draws; NaN where all draws are one value. Raises
    `InputError` on other shapes or non-finite values. Source: Vehtari et al. (2021), as `split_rhat`; Geyer,
    "Practical Markov chain Monte Carlo", Statistical Science 7 (1992).
    """
    x = _split(chains)
    z = _normal_scores(x)
    draws = z.shape[-1]
    total = z.shape[-2] * draws
    within, pooled = _variances(z)
    spectrum = np.fft.rfft(z - z.mean(-1, keepdims=True), n=2 * draws)
    power = (spectrum * spectrum.conj()).real.mean(-2)
    lagged = np.fft.irfft(power, n=2 * draws)[..., :draws] / draws
    lagged *= draws / (draws - 1)  # so that lag 0 is W
    with np.errstate(divide="ignore", invalid="ignore"):
        rho = 1 - (within[..., None] - lagged) / pooled[..., None]
    rho[..., 0] = 1.0
    even = 2 * (draws // 2)
    pairs = rho[..., :even].reshape(*rho.shape[:-1], -1, 2).sum(-1)
    kept = np.cumprod(pairs > 0, axis=-1)
    tau = -1 + 2 * (np.minimum.accumulate(pairs, axis=-1) * kept).sum(-1)
    size = total / np.maximum(tau, 1 / np.log10(total))
    return np.where(_constant(x), np.nan, size)
