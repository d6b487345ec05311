"""Training data with a held-out part: the batch of every step is fixed by the seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.likelihoods import Gaussian, Likelihood
from fokker.operators.layouts import Layouts
from fokker.posterior_coordinates import MAX_VECTOR, Posterior
from fokker.rng import torch_generator
from fokker.states import Cond, observed
from fokker.support import Support

Clip = tuple[float | None, float | None]
FEWEST = 10  # rows
BEYOND = 5  # degrees of freedom of the chi law by which atoms are spread where y tells much
PATTERNS = 32  # layouts in one batch: every layout costs a factorisation in posterior coordinates


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
    """Pairs (x, y), y (N, *y_shape) perhaps with missing entries, noise and layouts to be drawn anew, and atoms of x to
    be spread.

    Raises InputError for what `Draws` refuses, another number of rows of y, x beyond the bounds of clip, and layouts to
    be drawn where entries of y are missing already.
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        omega: Any,
        likelihood: Likelihood | None,
        clip: Clip | None,
        seed: int,
        held_out: float,
        cond: Mapping[str, Any] | None = None,
        support: Support | None = None,
    ):
        super().__init__(x, seed, held_out)
        if support is not None:
            self.x = support.check(self.x)
        self.y = numbers_of("y", y)
        if likelihood is not None and not hasattr(likelihood, "sample"):
            raise InputError(f"likelihood: got {likelihood!r}, a law such as Gaussian(0.1) is accepted")
        self.likelihood, self.clip = likelihood, clip or (None, None)
        self.spread: Tensor | None = None
        if len(self.y) != len(self.x):
            raise InputError(f"y: got {len(self.y)} rows for {len(self.x)} rows of x, as many are accepted")
        for bound, name, beyond in zip(self.clip, ("lower", "upper"), (torch.lt, torch.gt)):
            if bound is not None and bool(beyond(self.x, bound).any()):
                raise InputError(f"x: got values beyond the {name} bound {bound} of clip, none is accepted")
        self.extra, self.extra_shapes = self._further(cond or {})
        self.layouts: Layouts | None = omega if hasattr(omega, "sample") else None
        self.omega = None
        if self.layouts is not None and bool(self.y.isnan().any()):
            raise InputError("y: got NaN with layouts that are drawn anew, complete rows are accepted")
        if self.layouts is None and omega is not None:
            self.omega = _mask("omega", omega, self.y)
        elif bool(self.y.isnan().any()):
            self.omega = ~self.y.isnan()

    @property
    def fixed(self) -> bool:
        """Whether a row is the same every time it is drawn."""
        return self.likelihood is None and self.spread is None and self.layouts is None

    @property
    def masked(self) -> bool:
        """Whether entries of y are missing, here or there."""
        return self.omega is not None or self.layouts is not None

    def noisy(self, rows: Tensor, name: str, index: int = 0) -> tuple[Tensor, Cond]:
        """x and conditions of these rows; noise, layouts and spread of atoms are drawn by the name and the index."""
        y = self.y[rows]
        if self.likelihood is not None:
            y = self.likelihood.sample(y, torch_generator(self.seed, f"noise/{name}", index))
        cond = {"y": y}
        if self.layouts is not None:
            generator = torch_generator(self.seed, f"layouts/{name}", index)
            drawn = self.layouts.sample(min(PATTERNS, len(rows)), tuple(y.shape[1:]), generator)
            cond["omega"] = drawn[torch.arange(len(rows)) % len(drawn)]
        elif self.omega is not None:
            cond["omega"] = self.omega[rows]
        x, cond = self.x[rows], self._with_further(cond, rows)
        if self.spread is not None:
            generator = torch_generator(self.seed, f"atoms/{name}", index)
            squares = torch.randn((BEYOND, *x.shape), generator=generator, dtype=x.dtype).square()
            near, far = squares[0].sqrt(), squares.sum(0).sqrt()
            beyond = self.spread * (self.unknown * near + (1 - self.unknown) * far)
            low, high = self.clip
            x = x if low is None else torch.where(x <= low, low - beyond, x)
            x = x if high is None else torch.where(x >= high, high + beyond, x)
        return x, cond

    def spread_atoms(self) -> None:
        """From now on, x at a bound is spread beyond it: by s (r |z_1| + (1 - r) |(z_1, ..., z_5)|), z standard
        normal, s the standard deviation of x given y, and r = s^2 / Var x the part of the variance that y leaves.

        A density cannot hold an atom: diffused as it is, a network smears it to both sides of the bound, and clipping
        leaves half of it. Spread beyond the bound it is an ordinary density, and clipping gives all of it back. By
        chi_5, of mean 2.1, hardly anything is close to the bound, so that little ends on its wrong side: of boundary
        flux at prior mean 0.3 a twentieth of the atoms is lost, by a half-normal a sixth. What a short training smears
        out of the density at the bound counts as atom. That matters where y says little: the atom is a part of every
        posterior then, rare ones are doubled by a gap, and a half-normal continues the density beyond the bound.
        """
        x, y = self.for_coordinates()
        std = x.std(0)
        given = self._std_given_y(Posterior.estimate(x, y)) if x[0].numel() + y[0].numel() <= MAX_VECTOR else std
        self.spread = given
        self.unknown = (given / std.clamp(min=torch.finfo(std.dtype).tiny)).square().clamp(max=1.0)

    def for_coordinates(self) -> tuple[Tensor, Tensor]:
        """x and y of all training rows, to estimate coordinates from: NaN where y is missing, but not where it is only
        hidden by a layout, as those rows are known whole.
        """
        x, cond = self.noisy(self.train, "coordinates")
        return x, cond["y"] if self.layouts is not None else observed(cond)[0]

    def _std_given_y(self, coordinates: Posterior) -> Tensor:
        """Standard deviation of x given y, whatever its values; averaged over layouts where they vary."""
        if self.layouts is None:
            nothing = {"y": torch.zeros((1, *self.y.shape[1:]), dtype=torch.float64)}
            return coordinates.std(self._with_further(nothing, self.train[:1]))[0]
        generator = torch_generator(self.seed, "layouts/atoms")
        omega = self.layouts.sample(PATTERNS, tuple(self.y.shape[1:]), generator)
        cond = {"y": torch.zeros(omega.shape, dtype=torch.float64), "omega": omega}
        rows = self.train[torch.arange(PATTERNS) % len(self.train)]
        return coordinates.std(self._with_further(cond, rows)).mean(0)

    def _further(self, cond: Mapping[str, Any]) -> tuple[Tensor | None, dict[str, tuple[int, ...]]]:
        """Further conditions as rows of one vector, and their shapes by name."""
        found = {name: numbers_of(f"cond: {name}", value) for name, value in cond.items()}
        for name, value in found.items():
            if name in ("y", "omega", "points", "mask"):
                raise InputError(f"cond: got {name!r}, a name of your own is accepted")
            if len(value) != len(self.x) or bool(value.isnan().any()):
                raise InputError(f"cond: {name!r} has {len(value)} rows or NaN, {len(self.x)} whole rows are accepted")
        shapes = {name: tuple(value.shape[1:]) for name, value in found.items()}
        return (torch.cat([value.flatten(1) for value in found.values()], 1) if found else None), shapes

    def _with_further(self, cond: Cond, rows: Tensor) -> Cond:
        """y and the further conditions of these rows as one vector, where there are any."""
        if self.extra is None:
            return cond
        extra = self.extra[rows]
        out = {"y": torch.cat([cond["y"].flatten(1), extra], 1)}
        if "omega" in cond:
            out["omega"] = torch.cat([cond["omega"].flatten(1), torch.ones_like(extra, dtype=torch.bool)], 1)
        return out

    def _parts(self) -> Iterator[Tensor | bytes]:
        if isinstance(self.likelihood, Gaussian):
            yield repr(self.likelihood.std).encode()
        elif self.likelihood is not None:
            yield repr(self.likelihood).encode()
        if self.layouts is not None:
            yield repr(self.layouts).encode()
        yield from super()._parts()
        yield self.y
        if self.extra is not None:
            yield repr(self.extra_shapes).encode()
            yield self.extra
        if self.omega is not None:
            yield self.omega
        if isinstance(self.likelihood, Gaussian) and self.likelihood.covariance is not None:
            yield torch.as_tensor(self.likelihood.covariance, dtype=torch.float64).cpu()


def _mask(name: str, value: Any, like: Tensor) -> Tensor:
    """True and False, or 1 and 0, of the shape of `like` or of one row of it; InputError for anything else."""
    found = numbers_of(name, value)
    shapes = (tuple(like.shape), tuple(like.shape[1:]), (*like.shape[1:], 1))
    if tuple(found.shape) not in shapes or not bool(((found == 0) | (found == 1)).all()):
        raise InputError(
            f"{name}: got {tuple(found.shape)} numbers, True and False of shape {tuple(like.shape)}, or a law of "
            "layouts such as RandomLayouts(0.7), is accepted"
        )
    return (found.reshape(like.shape[1:]) if tuple(found.shape) != tuple(like.shape) else found).bool().expand_as(like)


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
