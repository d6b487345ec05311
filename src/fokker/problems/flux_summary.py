"""What is kept of posterior samples on test cases: their mean, spread and scores, and a few of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fokker.diagnostics.coverage import coverage_per_case
from fokker.diagnostics.sbc import ranks
from fokker.diagnostics.scores import crps
from fokker.diagnostics.tarp import tarp_ranks
from fokker.storage import read_tensors, write_tensors

LEVELS = (0.5, 0.8, 0.95)
SHOWN = 20  # test cases whose samples are kept
BLOCK = 200  # test cases that are scored at a time, to bound memory


@dataclass(frozen=True)
class Summary:
    """A posterior on M test cases: mean, std, crps, rank (M, 30), covered (levels, M, 30), samples (SHOWN, n, 30).

    rank: of the truth among the samples; tarp: (R, M), of its distance to a reference point among theirs, for the
    truths of other cases as references and, where there are any, for points made from y; draws: n.
    """

    mean: np.ndarray
    std: np.ndarray
    crps: np.ndarray
    rank: np.ndarray
    tarp: np.ndarray
    covered: np.ndarray
    draws: np.ndarray
    samples: np.ndarray

    @classmethod
    def of(cls, samples: np.ndarray, truth: np.ndarray, from_y: np.ndarray | None = None) -> Summary:
        """From samples (M, n, 30) and true fluxes (M, 30); from_y: reference points (M, 30) made from y."""
        parts = [_scored(samples, truth, first) for first in range(0, len(samples), BLOCK)]
        mean, std, score, rank, covered = zip(*parts)
        tarp = [tarp_ranks(samples, truth, "prior")]
        if from_y is not None:
            tarp.append(tarp_ranks(samples, truth, from_y))
        return cls(
            mean=np.concatenate(mean),
            std=np.concatenate(std),
            crps=np.concatenate(score),
            rank=np.concatenate(rank),
            tarp=np.stack(tarp),
            covered=np.concatenate(covered, 1),
            draws=np.array(samples.shape[1]),
            samples=samples[:SHOWN].astype(np.float32),
        )

    def save(self, path: Path, made_from: Mapping[str, str], **more: np.ndarray) -> None:
        """As one safetensors file that says what it was made from."""
        arrays = {**vars(self), **more}
        tensors = {name: torch.from_numpy(np.array(a, order="C")) for name, a in arrays.items()}
        write_tensors(path, tensors, made_from)

    @classmethod
    def load(cls, path: Path) -> tuple[Summary, dict[str, np.ndarray]]:
        """What `save` wrote: the summary, and what else was given."""
        tensors, _ = read_tensors(path)
        arrays = {name: value.numpy() for name, value in tensors.items()}
        own = {name: arrays.pop(name) for name in cls.__dataclass_fields__}
        return cls(**own), arrays


def _scored(samples: np.ndarray, truth: np.ndarray, first: int) -> tuple[np.ndarray, ...]:
    """mean, std, crps, rank and covered of a block of cases."""
    part = slice(first, first + BLOCK)
    x, q = samples[part].astype(np.float64), truth[part]
    return x.mean(1), x.std(1, ddof=1), crps(x, q), ranks(x, q, first=first), coverage_per_case(x, q, LEVELS)
