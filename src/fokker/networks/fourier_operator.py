"""Networks for functions on grids that mean the same on every grid: spectral, and spectral with local detail."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from fokker.errors import InputError
from fokker.networks.blocks import LocalBlock, Modulation, Pointwise, check_field, zeroed
from fokker.networks.grids import along, averages, coordinates, cosines, interpolation, resampled, waves

BASES = ("cosine", "fourier")


class SpectralConvolution(nn.Module):
    """The lowest `modes` waves of each axis, mixed across channels by a matrix for each wave (Li et al. 2021).

    "cosine": the waves of the even extension, so that functions on a box need no padding; "fourier": complex waves
    with their complex weights, for periodic functions. Both by two small matrix products for each axis, which at these
    sizes cost no more than fast transforms and exist on any grid; one with few cells uses the waves it can tell apart.
    """

    def __init__(self, width: int, modes: int, dimension: int, basis: str):
        super().__init__()
        self.modes, self.dimension, self.basis = modes, dimension, basis
        # Waves 0 ... modes - 1 of an axis; complex ones also -1 ... 1 - modes, but for the last axis of a real field.
        rows = [modes] * dimension if basis == "cosine" else [2 * modes - 1] * (dimension - 1) + [modes]
        parts = [] if basis == "cosine" else [2]
        self.weight = nn.Parameter(torch.randn(*rows, width, width, *parts) / math.sqrt(3 * width * math.prod(parts)))

    def forward(self, x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
        """gain times the convolution, plus shift as part of the constant wave; x (B, width, *grid)."""
        z = self._analysed(x)
        kept = z.shape[2:]
        mixed = torch.bmm(z.flatten(2).permute(2, 0, 1), self._weight(x.shape[2:]).flatten(0, -3)) * gain
        constant = 0 if self.basis == "cosine" else len(mixed) // kept[-1] // 2 * kept[-1]
        mixed[constant] += shift
        return self._summed(mixed.permute(1, 2, 0).unflatten(2, kept), x)

    def _analysed(self, x: Tensor) -> Tensor:
        sides, last = x.shape[2:], x.ndim - 1
        bases = self._bases(x)
        # The long, contiguous axis first: what is left for the others is small.
        if self.basis == "cosine":
            z = x @ (bases[-1].T / sides[-1])
        else:
            z = torch.complex(x @ (bases[-1].real.T / sides[-1]), x @ (bases[-1].imag.T / -sides[-1]))
        for axis in range(last - 1, 1, -1):
            z = along(axis, bases[axis - 2].conj() / sides[axis - 2], z)
        return z

    def _summed(self, z: Tensor, x: Tensor) -> Tensor:
        bases = self._bases(x)
        for axis in range(2, x.ndim - 1):
            z = along(axis, bases[axis - 2].T, z)
        z = z.contiguous()
        if self.basis == "cosine":
            return z @ bases[-1]
        twice = torch.full_like(bases[-1].real, 2.0)  # a wave and its conjugate
        twice[0] = 1
        return z.real @ (twice * bases[-1].real) - z.imag @ (twice * bases[-1].imag)

    def _bases(self, x: Tensor) -> list[Tensor]:
        like = (x.dtype, x.device)
        if self.basis == "cosine":
            return [cosines(side, min(self.modes, side), like) for side in x.shape[2:]]
        last = x.ndim - 3
        return [
            waves(side, min(self.modes, (side + 1) // 2), axis < last, like) for axis, side in enumerate(x.shape[2:])
        ]

    def _weight(self, sides: Sequence[int]) -> Tensor:
        """The weights of the waves that a grid can tell apart."""
        if self.basis == "cosine":
            return self.weight[tuple(slice(min(self.modes, side)) for side in sides)]
        tops = [min(self.modes, (side + 1) // 2) for side in sides]
        both = [slice(self.modes - top, self.modes + top - 1) for top in tops[:-1]]
        return torch.view_as_complex(self.weight)[(*both, slice(tops[-1]))]


class FourierOperator(nn.Module):
    """Fourier neural operator (Li et al. 2021) on fields of dimension 1, 2 or 3, with the noise level in every layer.

    Lifting of the field and the coordinates of its cell centres to `width` channels, `depth` layers
        h <- h + silu((1 + gain) (K h + W h) + shift),
    K the spectral convolution of the lowest `modes` waves of each axis, W pointwise, gain and shift from the level;
    then a pointwise layer and the output. On a finer grid the same function gives the same values.

    basis: "cosine" for functions on a box (even extension, no padding), "fourier" for periodic ones.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        dimension: int = 2,
        width: int = 24,
        modes: int = 12,
        depth: int = 6,
        basis: str = "cosine",
        level_width: int = 64,
    ):
        super().__init__()
        if basis not in BASES:
            raise InputError(f"basis: got {basis!r}, one of {', '.join(BASES)} is accepted")
        if not 1 <= dimension <= 3:
            raise InputError(f"dimension: got {dimension}, 1 to 3 is accepted")
        self._settings = {
            "kind": "fourier_operator", "c_in": c_in, "c_out": c_out, "dimension": dimension, "width": width,
            "modes": modes, "depth": depth, "basis": basis, "level_width": level_width,
        }  # fmt: skip
        self.c_in, self.dimension, self.periodic = c_in, dimension, basis == "fourier"
        self.level = Modulation([width] * depth, level_width)
        self.lift = Pointwise(c_in + dimension * (2 if self.periodic else 1), width)
        self.spectral = nn.ModuleList(SpectralConvolution(width, modes, dimension, basis) for _ in range(depth))
        self.local = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(depth))
        self.project = Pointwise(width, width)
        self.leave = zeroed(Pointwise(width, c_out))

    def forward(self, x: Tensor, level: Tensor | None) -> Tensor:
        """x (B, c_in, *grid), level (B,), (1,) or None -> (B, c_out, *grid); InputError for another shape."""
        check_field(x, self.c_in, self.dimension)
        here = coordinates(x.shape[2:], x, self.periodic)
        h = self.lift(torch.cat([x, here.expand(len(x), *here.shape)], 1))
        for (gain, shift), spectral, local in zip(self.level(level, len(x)), self.spectral, self.local):
            weight = (gain[:, :, None] * local.weight).expand(len(x), -1, -1)
            value = torch.baddbmm(spectral(h, gain, shift).flatten(2), weight, h.flatten(2))
            h = h + nn.functional.silu(value).unflatten(2, x.shape[2:])
        return self.leave(nn.functional.silu(self.project(h)))

    def settings(self) -> dict[str, Any]:
        """Kind and sizes."""
        return dict(self._settings)


class UShapedOperator(nn.Module):
    """Local detail on the grid of the field, everything else on fixed coarser grids (after Rahman et al. 2023).

    sides: the grid the network is made for. Level 0 lives on the grid of x, whichever it is; level l > 0 always on the
    grid of ceil(sides / 2^l) cells: means over those cells lead down, linear interpolation leads up, and both have a
    limit as the grid of x refines. Level 0 convolves with entries n / sides cells apart on n cells: the same weights
    see the same distances on every multiple of `sides`, and nearly so (the nearest whole number, at least 1) on other
    grids. Each level has two local blocks, before and after what is coarser; the coarsest has spectral convolutions of
    all its waves (at most `modes`), for what spans the domain. Level l has width 2^l times `width`, at most `widest`.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        sides: Sequence[int],
        width: int = 16,
        levels: int = 3,
        modes: int = 8,
        widest: int = 64,
        level_width: int = 64,
    ):
        super().__init__()
        self._settings = {
            "kind": "u_shaped_operator", "c_in": c_in, "c_out": c_out, "sides": list(sides), "width": width,
            "levels": levels, "modes": modes, "widest": widest, "level_width": level_width,
        }  # fmt: skip
        if not 1 <= len(sides) <= 3 or min(sides) < 1:
            raise InputError(f"sides: got {list(sides)}, 1 to 3 numbers of cells are accepted")
        self.c_in, self.sides = c_in, list(sides)
        self.grids = [[-(-side // 2**level) for side in sides] for level in range(1, levels)]
        widths = [min(width * 2**level, widest) for level in range(levels)]
        dimension = len(sides)
        self.level = Modulation([*widths, widths[-1], *widths[::-1]], level_width)
        self.lift = Pointwise(c_in + dimension, width)
        self.before = nn.ModuleList(LocalBlock(size, dimension) for size in widths)
        self.down = nn.ModuleList(Pointwise(size, wider) for size, wider in pairwise(widths))
        coarsest = min(self.grids[-1] if self.grids else sides)
        self.spectral = SpectralConvolution(widths[-1], min(modes, coarsest), dimension, "cosine")
        self.after = nn.ModuleList(LocalBlock(size, dimension) for size in widths[::-1])
        self.up = nn.ModuleList(Pointwise(wider, size) for size, wider in zip(widths[-2::-1], widths[:0:-1]))
        self.leave = zeroed(Pointwise(width, c_out))

    def forward(self, x: Tensor, level: Tensor | None) -> Tensor:
        """x (B, c_in, *grid), level (B,), (1,) or None -> (B, c_out, *grid); InputError for another shape."""
        check_field(x, self.c_in, len(self.sides))
        films = iter(self.level(level, len(x)))
        apart = [max(1, round(n / side)) for n, side in zip(x.shape[2:], self.sides)]
        here = coordinates(x.shape[2:], x)
        h = self.lift(torch.cat([x, here.expand(len(x), *here.shape)], 1))
        kept = []
        for index, block in enumerate(self.before):
            h = block(h, *next(films), apart if index == 0 else None)
            if index < len(self.down):
                kept.append(h)
                h = self.down[index](resampled(h, self.grids[index], averages))
        h = h + nn.functional.silu(self.spectral(h, *next(films)))
        for index, block in enumerate(self.after):
            if index:
                skip = kept.pop()
                h = skip + resampled(self.up[index - 1](h), skip.shape[2:], interpolation)
            h = block(h, *next(films), apart if not kept else None)
        return self.leave(h)

    def settings(self) -> dict[str, Any]:
        """Kind and sizes."""
        return dict(self._settings)
