"""The law of the diffusing noise: white, N(0, I), or N(0, C) from a random field.

A process owns its noise. `sample` draws it, `apply` is C, `solve` is C^-1, `log_det` is log det C, each for one part
of the state (B, *shape) at the points it lives on. Samplers need only `sample`; scores and densities need the rest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.grids import checked_shape
from fokker.random_fields import Field, SpectralField
from fokker.rng import Normals


class Noise(Protocol):
    """What a process needs to know of its noise. `points` is (P, d) or (B, P, d) where the law needs them."""

    @property
    def white(self) -> bool:
        """Whether C is the identity."""
        ...

    def sample(self, like: Tensor, key: Normals, points: Tensor | None = None) -> Tensor:
        """One draw for each row of `like` (B, *shape), of its dtype and device."""
        ...

    def apply(self, x: Tensor, points: Tensor | None = None) -> Tensor:
        """C x for each row."""
        ...

    def solve(self, x: Tensor, points: Tensor | None = None) -> Tensor:
        """C^-1 x for each row."""
        ...

    def log_det(self, like: Tensor, points: Tensor | None = None) -> Tensor:
        """log det C of one row of `like`."""
        ...


@dataclass(frozen=True)
class White:
    """N(0, I), for states of any shape."""

    white = True

    def sample(self, like: Tensor, key: Normals, points: Tensor | None = None) -> Tensor:
        """N(0, I) of the shape of `like`."""
        return key.normal(tuple(like.shape[1:])).to(like)

    def apply(self, x: Tensor, points: Tensor | None = None) -> Tensor:
        """x itself."""
        return x

    def solve(self, x: Tensor, points: Tensor | None = None) -> Tensor:
        """x itself."""
        return x

    def log_det(self, like: Tensor, points: Tensor | None = None) -> Tensor:
        """Zero."""
        return torch.zeros((), dtype=torch.float64, device=like.device)


@dataclass(frozen=True, eq=False)
class Correlated:
    """N(0, C), C_ij = sum_k lambda_k phi_k(x_i) phi_k(x_j), for states (B, P) or (B, P, channels) on points.

    `points` (P, d) is where the state lives unless a call names others (a condition called "points", say); a key
    fixes the whole function, so the same key gives the same function at any points and resolution. Any
    `fokker.Field` serves (one of your own gives `dimension`, `size` and `basis`); it refuses points outside its domain.
    White noise on a grid, interpolated, is `InterpolatedField`.
    """

    field: Field
    points: Tensor | None = None
    white = False

    def sample(self, like: Tensor, key: Normals, points: Tensor | None = None) -> Tensor:
        """The function of `key` at the points."""
        coefficients = key.normal((self.field.size, *like.shape[2:])).to(like.device)
        return self.field.at(coefficients, self._where(like, points)).to(like)

    def apply(self, x: Tensor, points: Tensor | None = None) -> Tensor:
        """C x, in float64 and back to the dtype of x."""
        columns = x.to(torch.float64).reshape(*x.shape[:2], math.prod(x.shape[2:]))
        return (self._covariance(x, points) @ columns).reshape(x.shape).to(x)

    def solve(self, x: Tensor, points: Tensor | None = None) -> Tensor:
        """C^-1 x; InputError where C is singular (fewer coefficients than points, or points that coincide)."""
        factor = self._cholesky(x, points)
        columns = x.to(torch.float64).reshape(*x.shape[:2], math.prod(x.shape[2:]))
        return torch.cholesky_solve(columns, factor).reshape(x.shape).to(x)

    def log_det(self, like: Tensor, points: Tensor | None = None) -> Tensor:
        """log det C times the number of channels, a scalar or (B,) where each row has its own points."""
        channels = like[0, 0].numel() if like.ndim > 2 else 1
        diagonal = torch.diagonal(self._cholesky(like, points), dim1=-2, dim2=-1)
        return 2 * channels * diagonal.log().sum(-1)

    def _where(self, like: Tensor, points: Tensor | None) -> Tensor:
        where = self.points if points is None else points
        if where is None:
            raise InputError("points: got none, correlated noise needs them at construction or as cond['points']")
        if where.shape[-2] != like.shape[1]:
            raise InputError(f"points: got {where.shape[-2]}, the state has {like.shape[1]} entries on its axis 1")
        return where.to(like.device)

    def _covariance(self, like: Tensor, points: Tensor | None) -> Tensor:
        basis = self.field.basis(self._where(like, points))
        return basis @ basis.mT

    def _cholesky(self, like: Tensor, points: Tensor | None) -> Tensor:
        factor, info = torch.linalg.cholesky_ex(self._covariance(like, points))
        if info.any():
            raise InputError(
                f"noise covariance: singular on {like.shape[1]} points with {self.field.size} coefficients; "
                "distinct points and more modes (or a smaller alpha) are accepted"
            )
        return factor


@dataclass(frozen=True)
class OnGrid:
    """N(0, C) as `Correlated` on the cells of a grid, for states (B, *shape) or (B, channels, *shape), by transforms.

    A key gives the function that `Correlated` gives at `Grid(shape).points` (channels last there), at any shape. C is
    diagonal in the orthonormal discrete waves of the field (Strang 1999), but for those that the field correlates, so
    `apply`, `solve` and `log_det` are exact and cost a transform; `points` has no say. InputError where shape and field
    have not as many axes, and in `solve` and `log_det` where C is singular in float64: a field of fewer modes than the
    grid has cells, say.
    """

    field: SpectralField
    shape: tuple[int, ...]
    white = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", checked_shape("shape", self.shape))
        if not isinstance(self.field, SpectralField):
            got = type(self.field).__name__
            raise InputError(
                f"field: got {got}, a field of waves, as CosineField is, is accepted; Correlated takes any"
            )
        self.field.grid_eigenvalues(self.shape)  # refuses a wrong number of axes

    def sample(self, like: Tensor, key: Normals, points: Tensor | None = None) -> Tensor:
        """The function of `key` on the grid."""
        channels = self._channels(like)
        coefficients = key.normal((self.field.size, *channels)).to(like.device)
        return self.field.on_grid(coefficients.movedim(1, -1), self.shape).to(like)

    def apply(self, x: Tensor, points: Tensor | None = None) -> Tensor:
        """C x, in float64 and back to the dtype of x."""
        return self._times(x, self.field.grid_eigenvalues(self.shape), self.field.grid_coupling(self.shape))

    def solve(self, x: Tensor, points: Tensor | None = None) -> Tensor:
        """C^-1 x; InputError where C is singular."""
        values, coupling = self._regular()
        if coupling is None:
            return self._times(x, 1 / values, None)
        index, block = coupling
        inverse = 1 / values
        inverse.view(-1)[index] = 0
        return self._times(x, inverse, (index, torch.linalg.inv(block)))

    def log_det(self, like: Tensor, points: Tensor | None = None) -> Tensor:
        """log det C times the number of channels, a scalar."""
        values, coupling = self._regular()
        logs = values.log().flatten()
        if coupling is not None:
            logs = logs.index_fill(0, coupling[0], 0)
            logs = torch.cat([logs, torch.linalg.eigvalsh(coupling[1]).log()])
        return math.prod(self._channels(like)) * logs.sum().to(like.device)

    def _times(self, x: Tensor, values: Tensor, coupling: tuple[Tensor, Tensor] | None) -> Tensor:
        self._channels(x)
        waves, dimension = self.field.waves, len(self.shape)
        before = waves.analyse(x.to(torch.float64), dimension)
        after = values.to(x.device) * before
        if coupling is not None:
            index, block = (part.to(x.device) for part in coupling)
            added = before.flatten(-dimension)[..., index] @ block
            after = after.flatten(-dimension).index_add(-1, index, added).unflatten(-1, self.shape)
        return waves.synthesise(after, dimension).to(x)

    def _regular(self) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Eigenvalues, and the waves that are correlated with their whole covariance; InputError where singular."""
        values, coupling = self.field.grid_eigenvalues(self.shape), self.field.grid_coupling(self.shape)
        every = values.flatten()
        if coupling is not None:
            index, block = coupling
            coupling = index, block + torch.diag(every[index])
            kept = torch.ones_like(every, dtype=torch.bool)
            kept[index] = False
            every = torch.cat([every[kept], torch.linalg.eigvalsh(coupling[1])])
        low, high = float(every.min()), float(every.max())
        if low <= torch.finfo(torch.float64).eps * high:
            raise InputError(
                f"noise covariance: singular on {self.shape} cells with {self.field.mode_shape} modes (eigenvalues "
                f"{low:.1g} to {high:.1g}); as many modes as cells, a constant mode and a smaller alpha are accepted"
            )
        return values, coupling

    def _channels(self, x: Tensor) -> tuple[int, ...]:
        """() or (channels,)."""
        between = x.ndim - 1 - len(self.shape)
        if between not in (0, 1) or tuple(x.shape[1 + between :]) != self.shape:
            grid = ", ".join(map(str, self.shape))
            raise InputError(f"state: got shape {tuple(x.shape)}, (B, {grid}) or (B, channels, {grid}) is accepted")
        return tuple(x.shape[1 : 1 + between])
