"""What every posterior method returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.storage import atomic_path

if TYPE_CHECKING:
    from xarray import DataTree


@dataclass(frozen=True)
class PosteriorSamples:
    """Samples (n, *x_shape) for one measurement, (M, n, *x_shape) for M of them, on the CPU.

    y: the measurements as given. log_weights (n,) or (M, n) and log_evidence () or (M,) for weighted methods. nfe:
    network evaluations per sample. seconds: wall clock. settings: all that repeats the run. info: per sample, by name.
    """

    samples: Tensor
    y: Tensor
    batched: bool
    nfe: int
    seconds: float
    settings: dict[str, Any]
    log_weights: Tensor | None = None
    log_evidence: Tensor | None = None
    info: dict[str, Tensor] = field(default_factory=dict)

    @property
    def _axis(self) -> int:
        return 1 if self.batched else 0

    def mean(self) -> Tensor:
        """Posterior mean (*x_shape) or (M, *x_shape)."""
        return self._average(self.samples)

    def std(self) -> Tensor:
        """Posterior standard deviation of the same shape (of the sample, with n - 1 where it is not weighted)."""
        if self.log_weights is None:
            return self.samples.std(self._axis)
        return self._average((self.samples - self.mean().unsqueeze(self._axis)).square()).sqrt()

    def _average(self, value: Tensor) -> Tensor:
        if self.log_weights is None:
            return value.mean(self._axis)
        weights = self.log_weights.softmax(self._axis)
        weights = weights.reshape(*weights.shape, *[1] * (value.ndim - weights.ndim))
        return (weights * value).sum(self._axis)

    def to_arviz(self) -> DataTree:
        """An xarray DataTree in ArviZ's layout: posterior (chain, draw, ...), observed_data, sample_stats.

        Many measurements become a dimension `measurement` after chain and draw. ImportError names the extra to install
        where arviz-base is missing.
        """
        try:
            import arviz_base
        except ImportError as error:
            raise ImportError("to_arviz needs arviz-base: pip install 'fokker[arviz]'") from error
        draws = self.samples.movedim(1, 0) if self.batched else self.samples
        groups = {
            "posterior": {"x": draws[None].numpy()},
            "observed_data": {"y": self.y.numpy()},
        }
        names = ["measurement"] if self.batched else []
        dims = {
            "x": names + [f"x_dim_{i}" for i in range(draws.ndim - 1 - len(names))],
            "y": names + [f"y_dim_{i}" for i in range(self.y.ndim - len(names))],
        }
        stats = {
            name: value for name, value in self.info.items() if value.shape == self.samples.shape[: self._axis + 1]
        }
        if self.log_weights is not None:
            stats["log_weight"] = self.log_weights
        if stats:
            per_draw = {name: v.movedim(1, 0) if self.batched else v for name, v in stats.items()}
            groups["sample_stats"] = {name: v[None].numpy() for name, v in per_draw.items()}
            dims |= dict.fromkeys(stats, names)
        tree = arviz_base.from_dict(groups, dims=dims)
        tree.attrs.update(nfe=self.nfe, seconds=self.seconds, sampler=str(self.settings.get("sampler", "")))
        return tree

    def save(self, path: str | Path) -> None:
        """Write `to_arviz()` as a Zarr store, whole or not at all; InputError unless the name ends in .zarr."""
        path = Path(path)
        if path.suffix != ".zarr":
            raise InputError(f"path: got {path.name!r}, a name ending in .zarr is accepted")
        tree = self.to_arviz()
        with atomic_path(path) as temporary:
            tree.to_zarr(temporary, consolidated=False)


def check_count(n: int) -> None:
    """InputError unless n is an integer of at least 1."""
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise InputError(f"n: got {n!r}, a number of samples of at least 1 is accepted")


def as_measurements(y: Any, y_shape: tuple[int, ...], name: str = "y") -> tuple[Tensor, bool]:
    """y as (M, *y_shape) float64 and whether it came so; InputError for any other shape, dtype, or infinities."""
    try:
        y = torch.as_tensor(y)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name}: got {type(y).__name__}, an array of numbers is accepted") from error
    if y.is_complex() or y.ndim not in (len(y_shape), len(y_shape) + 1) or y.shape[y.ndim - len(y_shape) :] != y_shape:
        raise InputError(
            f"{name}: got {y.dtype} of shape {tuple(y.shape)}, {y_shape} or (M, {str(y_shape)[1:]} is accepted"
        )
    y = y.detach().cpu().to(torch.float64)
    if bool(y.isinf().any()):
        raise InputError(f"{name}: got an infinite entry, finite numbers (and NaN for what is missing) are accepted")
    batched = y.ndim > len(y_shape)
    if batched and len(y) == 0:
        raise InputError(f"{name}: got no measurement, at least one is accepted")
    return (y if batched else y[None]), batched
