"""Samples of a learned posterior with importance weights, where the prior and the likelihood have densities."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fokker.diagnostics.importance import TRUSTED, smoothed
from fokker.errors import InputError
from fokker.posterior.samples import PosteriorSamples


def reweighted(
    drawn: PosteriorSamples,
    log_q: Tensor,
    log_prior: Callable[[Tensor], Any],
    log_likelihood: Callable[[Tensor, Tensor], Any],
) -> PosteriorSamples:
    """`drawn` with smoothed weights p(x) p(y given x) / q, where log_q is (n,) or (M, n); see `reweight`."""
    if drawn.log_weights is not None:
        raise InputError("drawn: has weights already, samples as `sample` returns them are accepted")
    x = (drawn.samples if drawn.batched else drawn.samples[None]).double()
    given = drawn.y if drawn.batched else drawn.y[None]
    n, raw = x.shape[1], []
    for rows, y in zip(x, given):
        terms = []
        for name, value in (("log_prior", log_prior(rows)), ("log_likelihood", log_likelihood(rows, y))):
            term = torch.as_tensor(value).detach().cpu().double()
            if term.shape != (n,):
                raise InputError(f"{name}: returned shape {tuple(term.shape)}, ({n},) is accepted")
            terms.append(term)
        raw.append(terms[0] + terms[1])
    found = smoothed((torch.stack(raw) - log_q.reshape(len(given), n)).numpy())
    bad = int((found.k_hat > TRUSTED).sum())
    if bad:
        what = f"k_hat is above {TRUSTED} for {bad} of {len(given)} measurements: their weights mean little"
        warnings.warn(what, stacklevel=3)
    shape = (len(given),) if drawn.batched else ()
    weights = torch.from_numpy(found.log_weights).reshape(drawn.samples.shape[: len(shape) + 1])
    checks = {"ess": found.ess, "k_hat": found.k_hat}
    return replace(
        drawn,
        log_weights=weights,
        log_evidence=torch.from_numpy(found.log_mean).reshape(shape),
        checks={name: torch.as_tensor(value).reshape(shape) for name, value in checks.items()},
    )
