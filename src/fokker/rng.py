"""Noise keyed by (seed, measurement, block, step, part).

Sample `i` of measurement `m` takes its noise at step `k` from one Philox stream per block of 256 samples, so it is
the same whatever the batch size, the chunking, the number of threads or the device. Streams never overlap: the
key of Philox is (seed, hash of the part's name), its 256-bit counter starts at (0, block, step, measurement).

Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

from __future__ import annotations

import hashlib
import itertools
import math
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fokker.errors import InputError

BLOCK = 256  # samples that share one stream


@dataclass(frozen=True)
class Rows:
    """Which measurement and which sample of it each row of a batch is: two integer arrays of shape (B,).

    first: the measurement that the first row of conditions belongs to.
    """

    measurement: np.ndarray
    sample: np.ndarray
    first: int = 0

    @classmethod
    def grid(cls, measurements: int, samples: int, first: int = 0) -> Rows:
        """All samples of the measurements from the `first` on, samples running fastest: B = measurements * samples."""
        return cls(
            np.repeat(np.arange(first, first + measurements), samples),
            np.tile(np.arange(samples), measurements),
            first,
        )

    def __len__(self) -> int:
        return len(self.sample)

    @cached_property
    def runs(self) -> list[tuple[int, int, int, int, bool]]:
        """Runs of rows that share a stream: (first row, last row + 1, block, measurement, whether in its order)."""
        if not len(self):
            return []
        block, within = np.divmod(self.sample, BLOCK)
        change = np.flatnonzero(np.diff(block) | np.diff(self.measurement)) + 1
        edges = np.concatenate([[0], change, [len(block)]]).tolist()
        return [
            (a, b, int(block[a]), int(self.measurement[a]), bool((within[a:b] == np.arange(b - a)).all()))
            for a, b in itertools.pairwise(edges)
        ]

    def __getitem__(self, which: slice) -> Rows:
        return Rows(self.measurement[which], self.sample[which], self.first)


@dataclass(frozen=True)
class Key:
    """What fixes a batch of noise. `at` names the step and the part, `normal` draws."""

    seed: int
    rows: Rows
    step: int = 0
    part: str = ""

    def __post_init__(self) -> None:
        check_seed(self.seed)

    def at(self, step: int | None = None, part: str | None = None) -> Key:
        """The same rows at another step or for another part (part names are joined by a slash)."""
        return replace(
            self,
            step=self.step if step is None else step,
            part=self.part if part is None else f"{self.part}/{part}",
        )

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Independent N(0, 1) numbers of shape (B, *shape), float32 on the CPU."""
        size = math.prod(shape)
        out = np.empty((len(self.rows), size), np.float32)
        bits, stream, state = self._streams()
        for a, b, block, measurement, in_order in self.rows.runs:
            # Moving one stream is ten times faster than making another.
            state["state"]["counter"][1:] = (block, self.step, measurement)
            bits.state = state  # type: ignore[assignment]
            if in_order:  # filled in place
                stream.standard_normal(dtype=np.float32, out=out[a:b])
            else:
                within = self.rows.sample[a:b] % BLOCK
                whole = stream.standard_normal((int(within.max()) + 1, size), dtype=np.float32)
                out[a:b] = whole[within]
        return torch.from_numpy(out.reshape(len(out), *shape))

    def _streams(self) -> tuple[np.random.Philox, np.random.Generator, dict[str, Any]]:
        """Philox of this seed and part, a generator over it, and its state at counter 0 with nothing buffered."""
        bits = np.random.Philox(key=np.array([self.seed, part_code(self.part)], np.uint64))
        return bits, np.random.Generator(bits), dict(bits.state)


class Normals(Protocol):
    """Where a law of noise takes its numbers from: a `Key`, or for training `Independent`."""

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Independent N(0, 1) numbers (B, *shape) on the CPU."""
        ...


@dataclass(frozen=True)
class Independent:
    """Numbers for training, from one torch generator, for `rows` rows."""

    generator: torch.Generator
    rows: int

    def normal(self, shape: tuple[int, ...]) -> Tensor:
        """Independent N(0, 1) numbers (rows, *shape), float32."""
        return torch.randn(self.rows, *shape, generator=self.generator)


def stream(seed: int, name: str, index: int = 0) -> np.random.Generator:
    """A numpy generator for the part `name` of a computation (a simulation chunk, a split, a noise draw)."""
    check_seed(seed)
    key = np.array([seed, part_code(name)], np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=np.array([0, 0, index, 0], np.uint64)))


def uniform_of(xi: Tensor) -> Tensor:
    """Uniform numbers on [0, 1) (B,), the digits after the third of the first entry of each row of N(0, v) numbers.

    For any v not far below 1 they are uniform, and independent of xi up to a thousandth of it.
    """
    return (xi.reshape(len(xi), -1)[:, 0].double() * 1000).remainder(1.0)


def torch_generator(seed: int, name: str, index: int = 0) -> torch.Generator:
    """A CPU torch generator for training, where streams need to be independent but not addressable by sample."""
    return torch.Generator().manual_seed(int(stream(seed, name, index).integers(2**63)))


@lru_cache(maxsize=256)
def part_code(part: str) -> int:
    """64 bits of the BLAKE2 hash of a name."""
    return int.from_bytes(hashlib.blake2b(part.encode(), digest_size=8).digest(), "little")


def check_seed(seed: int) -> None:
    """A seed is an integer in [0, 2^64); InputError otherwise."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= int(seed) < 2**64:
        raise InputError(f"seed: got {seed!r}, an integer from 0 to 2^64 - 1 is accepted")
