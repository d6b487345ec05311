"""Training data with a held-out part: the batch of every step is fixed by the seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.likelihoods import Gaussian, Likelihood
from fokker.operators.layouts import Layouts
from fokker.posterior.rows import Arrays, check_finite, check_whole, numbers_of
from fokker.posterior.stored_rows import source_of
from fokker.posterior_coordinates import MAX_VECTOR, Posterior
from fokker.rng import torch_generator
from fokker.states import Cond, observed
from fokker.support import Support

Clip = tuple[float | None, float | None]
BEYOND = 5  # degrees of freedom of the chi law by which atoms are spread where y tells much
PATTERNS = 32  # layouts in one batch: every layout costs a factorisation in posterior coordinates
OWN = ("y", "omega", "points", "mask")  # names that conditions of the user's own cannot have


class Draws:
    """Samples x (N, *shape) of what is to be learned, in memory or on disk.

    Raises InputError for NaN, infinities and fewer than 10 rows.
    """

    def __init__(self, x: Any, seed: int, held_out: float, others: Mapping[str, Any] | None = None):
        self.source = source_of({"x": x, **(others or {})}, seed, held_out)
        self.seed, self.held, self.shown = seed, self.source.held, self.source.shown
        hashes = {name: hashlib.sha256() for name in ("x", *(others or {}))}
        for first, arrays in self.source.parts():
            self._check(first, arrays)
            for name, value in arrays.items():
                hashes[name].update(value.contiguous().numpy().data)
        self._hashes = {name: found.digest() for name, found in hashes.items()}

    def rows(self, step: int, size: int) -> Tensor:
        """The rows of a step, fixed by the seed."""
        return self.source.rows(step, size)

    def x_of(self, rows: Tensor) -> Tensor:
        """x of these rows, in float64."""
        return self.source.take(rows)["x"]

    def fingerprint(self) -> str:
        """SHA-256 of all that the fit depends on, but for settings."""
        content = hashlib.sha256()
        for part in self._laws():
            content.update(part)
        for name, digest in self._hashes.items():
            content.update(f"{name}{self.source.shape(name)}{len(self.source)}".encode() + digest)
        return content.hexdigest()

    def _check(self, first: int, arrays: Arrays) -> None:
        """InputError for numbers that are not accepted; first: the number of the first row."""
        for name, value in arrays.items():
            check_finite(name, value, first)
        check_whole("x", arrays["x"], first)

    def _laws(self) -> Iterator[bytes]:
        """What is not an array of rows."""
        yield from ()


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
        if likelihood is not None and (isinstance(likelihood, type) or not hasattr(likelihood, "sample")):
            raise InputError(f"likelihood: got {likelihood!r}, a law such as Gaussian(0.1) is accepted")
        for name in cond or {}:
            if name in OWN:
                raise InputError(f"cond: got {name!r}, a name of your own is accepted")
        self.likelihood, self.clip, self.support = likelihood, clip or (None, None), support
        self.spread: Tensor | None = None
        self.layouts: Layouts | None = omega if hasattr(omega, "sample") else None
        given = omega is not None and self.layouts is None
        one_for_all = given and np.ndim(omega) == np.ndim(y) - 1
        self._gaps = given
        others = {"y": y, **{f"cond: {name}": value for name, value in (cond or {}).items()}}
        super().__init__(x, seed, held_out, others | ({"omega": omega} if given and not one_for_all else {}))
        self.y_shape = self.source.shape("y")
        self._omega = _mask(omega, self.y_shape) if one_for_all else None
        self.extra_shapes = {name: self.source.shape(f"cond: {name}") for name in cond or {}}

    @property
    def fixed(self) -> bool:
        """Whether a row is the same every time it is drawn."""
        return self.likelihood is None and self.spread is None and self.layouts is None

    @property
    def masked(self) -> bool:
        """Whether entries of y are missing, here or there."""
        return self._gaps or self.layouts is not None

    def noisy(self, rows: Tensor, name: str, index: int = 0) -> tuple[Tensor, Cond]:
        """x and conditions of these rows; noise, layouts and spread of atoms are drawn by the name and the index."""
        arrays = self.source.take(rows)
        x = arrays["x"] if self.support is None else self.support.to_line(arrays["x"])
        cond = {"y": arrays["y"]}
        if self.likelihood is not None:
            cond["y"] = self.likelihood.sample(arrays["y"], torch_generator(self.seed, f"noise/{name}", index))
        if self.layouts is not None:
            generator = torch_generator(self.seed, f"layouts/{name}", index)
            drawn = self.layouts.sample(min(PATTERNS, len(rows)), self.y_shape, generator)
            cond["omega"] = drawn[torch.arange(len(rows)) % len(drawn)]
        elif self.masked:
            hidden = arrays["omega"] != 0 if "omega" in arrays else self._omega
            cond["omega"] = ~cond["y"].isnan() if hidden is None else hidden.expand_as(cond["y"])
        cond = self._with_further(cond, arrays)
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
        """x and y of training rows, to estimate coordinates from: NaN where y is missing, but not where it is only
        hidden by a layout, as those rows are known whole.
        """
        x, cond = self.noisy(self.shown, "coordinates")
        return x, cond["y"] if self.layouts is not None else observed(cond)[0]

    def _std_given_y(self, coordinates: Posterior) -> Tensor:
        """Standard deviation of x given y, whatever its values; averaged over layouts where they vary."""
        if self.layouts is None:
            nothing = {"y": torch.zeros((1, *self.y_shape), dtype=torch.float64)}
            return coordinates.std(self._with_further(nothing, self.source.take(self.shown[:1])))[0]
        generator = torch_generator(self.seed, "layouts/atoms")
        omega = self.layouts.sample(PATTERNS, self.y_shape, generator)
        cond = {"y": torch.zeros(omega.shape, dtype=torch.float64), "omega": omega}
        rows = self.shown[torch.arange(PATTERNS) % len(self.shown)]
        return coordinates.std(self._with_further(cond, self.source.take(rows))).mean(0)

    def _with_further(self, cond: Cond, arrays: Arrays) -> Cond:
        """y and the further conditions as one vector, where there are any."""
        if not self.extra_shapes:
            return cond
        extra = torch.cat([arrays[f"cond: {name}"].flatten(1) for name in self.extra_shapes], 1)
        out = {"y": torch.cat([cond["y"].flatten(1), extra], 1)}
        if "omega" in cond:
            out["omega"] = torch.cat([cond["omega"].flatten(1), torch.ones_like(extra, dtype=torch.bool)], 1)
        return out

    def _check(self, first: int, arrays: Arrays) -> None:
        super()._check(first, arrays)
        x = arrays["x"]
        for bound, name, beyond in zip(self.clip, ("lower", "upper"), (torch.lt, torch.gt)):
            if bound is not None and bool(beyond(x, bound).any()):
                raise InputError(f"x: got values beyond the {name} bound {bound} of clip, none is accepted")
        if self.support is not None:
            self.support.check(x, first)
        for name, value in arrays.items():
            if name.startswith("cond: "):
                check_whole(name, value, first)
        if bool(arrays["y"].isnan().any()):
            self._gaps = True
            if self.layouts is not None:
                raise InputError("y: got NaN with layouts that are drawn anew, complete rows are accepted")
        if "omega" in arrays:
            _mask(arrays["omega"], tuple(arrays["y"].shape))

    def _laws(self) -> Iterator[bytes]:
        if isinstance(self.likelihood, Gaussian) and not isinstance(self.likelihood.std, Tensor):
            yield repr(self.likelihood.std).encode()
            if self.likelihood.covariance is not None:
                yield torch.as_tensor(self.likelihood.covariance, dtype=torch.float64).cpu().numpy().tobytes()
        elif self.likelihood is not None:
            yield repr(self.likelihood).encode()
        if self.layouts is not None:
            yield repr(self.layouts).encode()
        if self._omega is not None:
            yield self._omega.numpy().tobytes()
        if self.support is not None:
            yield repr(self.support.settings()).encode()


def _mask(value: Any, shape: tuple[int, ...]) -> Tensor:
    """True and False, or 1 and 0, of this shape; InputError for anything else."""
    found = numbers_of("omega", value).reshape(np.shape(value))
    found = found[:, None] if (*found.shape, 1) == shape else found
    if tuple(found.shape) != shape or not bool(((found == 0) | (found == 1)).all()):
        raise InputError(
            f"omega: got {tuple(found.shape)} numbers, True and False of shape {shape}, or a law of "
            "layouts such as RandomLayouts(0.7), is accepted"
        )
    return found.bool()
