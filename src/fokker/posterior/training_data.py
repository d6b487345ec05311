"""Training data with a held-out part: the batch of every step is fixed by the seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from fokker.coordinates import MAX_VECTOR, Posterior, observed
from fokker.errors import InputError
from fokker.likelihoods import Gaussian
from fokker.rng import torch_generator
from fokker.states import Cond

Clip = tuple[float | None, float | None]
FEWEST = 10  # rows


class Draws:
    """Samples x (N, *shape) of what is to be learned, as float64.

    Raises InputError for NaN, infinities and fewer than 10 rows.
    """

    def __init__(self, x: Any, seed: int, held_out: float):
        self.x, self.seed = numbers_of("x", x), seed
        count = len(self.x)
        if count < FEWEST:
            raise InputError(f"x: got {count} rows, at least {FEWEST} are accepted")
        if bool(self.x.isnan().any()):
            row = int(self.x.isnan().flatten(1).any(1).nonzero()[0])
            raise InputError(f"x: got NaN in row {row}, none is accepted")
        if not self.x[0].numel():
            raise InputError(f"x: got shape {tuple(self.x.shape)}, rows of at least one number are accepted")
        order = torch.randperm(count, generator=torch_generator(seed, "split"))
        kept = max(1, min(2000, round(held_out * count)))
        self.held, self.train = order[:kept], order[kept:]
        self._epoch: tuple[int, Tensor] = (-1, order)

    def rows(self, step: int, size: int) -> Tensor:
        """The rows of a step: every epoch goes through all of them in an order of its own."""
        size = min(size, len(self.train))
        epoch, position = divmod(step, len(self.train) // size)
        if self._epoch[0] != epoch:
            order = torch.randperm(len(self.train), generator=torch_generator(self.seed, "epoch", epoch))
            self._epoch = (epoch, self.train[order])
        return self._epoch[1][position * size : (position + 1) * size]

    def fingerprint(self) -> str:
        """SHA-256 of all that `_parts` gives."""
        content = hashlib.sha256()
        for part in self._parts():
            if isinstance(part, Tensor):
                content.update(str(tuple(part.shape)).encode())
                content.update(part.contiguous().numpy().tobytes())
            else:
                content.update(part)
        return content.hexdigest()

    def _parts(self) -> Iterator[Tensor | bytes]:
        yield self.x


class Pairs(Draws):
    """Pairs (x, y), y (N, *y_shape) perhaps with missing entries, noise to be drawn anew, and atoms of x to be spread.

    Raises InputError for what `Draws` refuses, another number of rows of y, and x beyond the bounds of clip.
    """

    def __init__(
        self, x: Any, y: Any, omega: Any, likelihood: Gaussian | None, clip: Clip | None, seed: int, held_out: float
    ):
        super().__init__(x, seed, held_out)
        self.y = numbers_of("y", y)
        self.likelihood, self.clip = likelihood, clip or (None, None)
        self.spread: Tensor | None = None
        if len(self.y) != len(self.x):
            raise InputError(f"y: got {len(self.y)} rows for {len(self.x)} rows of x, as many are accepted")
        for bound, name, beyond in zip(self.clip, ("lower", "upper"), (torch.lt, torch.gt)):
            if bound is not None and bool(beyond(self.x, bound).any()):
                raise InputError(f"x: got values beyond the {name} bound {bound} of clip, none is accepted")
        self.omega = None if omega is None else torch.as_tensor(omega).to(torch.bool).expand_as(self.y)
        if self.omega is None and bool(self.y.isnan().any()):
            self.omega = ~self.y.isnan()

    @property
    def fixed(self) -> bool:
        """Whether a row is the same every time it is drawn."""
        return self.likelihood is None and self.spread is None

    def noisy(self, rows: Tensor, name: str, index: int = 0) -> tuple[Tensor, Cond]:
        """x and conditions of these rows; noise and the spread of atoms are drawn by the name and the index."""
        y = self.y[rows]
        if self.likelihood is not None:
            y = self.likelihood.sample(y, torch_generator(self.seed, f"noise/{name}", index))
        cond = {"y": y}
        if self.omega is not None:
            cond["omega"] = self.omega[rows]
        x = self.x[rows]
        if self.spread is not None:
            generator = torch_generator(self.seed, f"atoms/{name}", index)
            beyond = self.spread * torch.randn(x.shape, generator=generator, dtype=x.dtype).abs()
            low, high = self.clip
            x = x if low is None else torch.where(x <= low, low - beyond, x)
            x = x if high is None else torch.where(x >= high, high + beyond, x)
        return x, cond

    def spread_atoms(self) -> None:
        """From now on, x at a bound is spread beyond it: half-normal, as wide as x is uncertain given y.

        A density cannot hold an atom: diffused as it is, a network smears it to both sides of the bound, and clipping
        leaves half of it. Spread beyond the bound it is an ordinary density, and clipping gives all of it back.
        """
        x, cond = self.noisy(self.train, "coordinates")
        y = observed(cond)[0]
        if x[0].numel() + y[0].numel() <= MAX_VECTOR:
            complete = {"y": torch.zeros_like(y[:1])}  # the spread does not depend on the values of y
            self.spread = Posterior.estimate(x, y).std(complete)[0]
        else:
            self.spread = x.std(0)

    def _parts(self) -> Iterator[Tensor | bytes]:
        if self.likelihood is not None:
            yield repr(self.likelihood.std).encode()
        yield from super()._parts()
        yield self.y
        if self.omega is not None:
            yield self.omega
        if self.likelihood is not None and self.likelihood.covariance is not None:
            yield torch.as_tensor(self.likelihood.covariance, dtype=torch.float64).cpu()


def numbers_of(name: str, value: Any) -> Tensor:
    """Real numbers (N, ...) as float64 on the CPU, (N,) as (N, 1); InputError for anything else and infinities."""
    try:
        value = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name}: got {type(value).__name__}, an array of numbers is accepted") from error
    if value.is_complex() or value.ndim < 1:
        raise InputError(f"{name}: got {value.dtype} of shape {tuple(value.shape)}, real numbers (N, ...) are accepted")
    value = value.detach().cpu().to(torch.float64)
    value = value[:, None] if value.ndim == 1 else value
    if bool(value.isinf().any()):
        row = int(value.isinf().flatten(1).any(1).nonzero()[0])
        raise InputError(f"{name}: got an infinite entry in row {row}, finite numbers are accepted")
    return value
