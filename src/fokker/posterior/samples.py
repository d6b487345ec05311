"""What every posterior method returns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.storage import atomic_path, read_json

if TYPE_CHECKING:
    from xarray import DataTree

MADE_BY = "fokker posterior"  # an attribute by which a store of samples is known


@dataclass(frozen=True)
class PosteriorSamples:
    """Samples (n, *x_shape) for one measurement, (M, n, *x_shape) for M of them, on the CPU.

    y: the measurements as given. log_weights (n,) or (M, n) and log_evidence () or (M,) for weighted methods. nfe:
    network evaluations per sample. seconds: wall clock. settings: all that repeats the run. info: per sample, by name.
    checks: () or (M,), by name, such as ess and k_hat of weights.
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
    checks: dict[str, Tensor] = field(default_factory=dict)

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

    def to_arviz(self, names: Mapping[str, Sequence[str]] | None = None, first: int = 0) -> DataTree:
        """An xarray DataTree in ArviZ's layout: posterior (chain, draw, ...), observed_data, sample_stats.

        Many measurements become a dimension `measurement` after chain and draw, counted from `first`. names: of the
        entries of x and y, where these are vectors. ImportError names the extra to install where arviz-base is missing.
        """
        try:
            import arviz_base
        except ImportError as error:
            raise ImportError("to_arviz needs arviz-base: pip install 'fokker[arviz]'") from error
        draws = self.samples.movedim(1, 0) if self.batched else self.samples
        outer = ["measurement"] if self.batched else []
        dims = {
            "x": outer + [f"x_dim_{i}" for i in range(draws.ndim - 1 - len(outer))],
            "y": outer + [f"y_dim_{i}" for i in range(self.y.ndim - len(outer))],
        }
        coords: dict[str, Any] = {"measurement": range(first, first + len(self.y))} if self.batched else {}
        for name, entries in (names or {}).items():
            if len(dims[name]) == len(outer) + 1:
                coords[dims[name][-1]] = np.array(entries, dtype=object)  # texts of any length, which Zarr 3 specifies
        lead = self.samples.shape[: self._axis + 1]
        stats = {name: value for name, value in self.info.items() if value.shape == lead}
        stats["nfe"] = torch.full(lead, self.nfe)
        if self.log_weights is not None:
            stats["log_weight"] = self.log_weights
        per_draw = {name: v.movedim(1, 0) if self.batched else v for name, v in stats.items()}
        groups = {
            "posterior": {"x": draws[None].numpy()},
            "observed_data": {"y": self.y.numpy()},
            "sample_stats": {name: v[None].numpy() for name, v in per_draw.items()},
        }
        tree = arviz_base.from_dict(groups, dims=dims | dict.fromkeys(stats, outer), coords=coords)
        tree.attrs.update(nfe=self.nfe, seconds=self.seconds, sampler=str(self.settings.get("sampler", "")))
        return tree

    def save(self, path: str | Path, names: Mapping[str, Sequence[str]] | None = None) -> None:
        """Write `to_arviz(names)` as a Zarr store, whole or not at all; InputError unless the name ends in .zarr."""
        save_parts([self], path, names)


def save_parts(
    parts: Iterable[PosteriorSamples], path: str | Path, names: Mapping[str, Sequence[str]] | None = None
) -> None:
    """Write groups of measurements, one after the other, as one Zarr store, whole or not at all.

    InputError unless the name ends in .zarr.
    """
    path, first = Path(path), 0
    check_target(path)
    with atomic_path(path) as temporary:
        for part in parts:
            tree = part.to_arviz(names, first)
            if first == 0:
                tree.attrs["made_by"] = MADE_BY
                tree.to_zarr(temporary, consolidated=False)
            else:
                for name, node in tree.children.items():
                    store = {"group": name, "append_dim": "measurement", "consolidated": False}
                    node.to_dataset().to_zarr(temporary, **store)
            first += len(part.y)


def check_target(path: str | Path) -> None:
    """InputError where `path` does not end in .zarr, is below a file or holds what `save` has not written."""
    path = Path(path)
    if path.suffix != ".zarr":
        raise InputError(f"path: got {path.name!r}, a name ending in .zarr is accepted")
    if any(parent.is_file() for parent in path.parents):
        raise InputError(f"{path}: is a place below a file, the name of a new folder is accepted")
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    try:
        ours = read_json(path / "zarr.json")["attributes"]["made_by"] == MADE_BY
    except (InputError, KeyError, TypeError):
        ours = False
    if not ours:
        raise InputError(f"{path}: is no store of posterior samples and is not replaced; another name is accepted")


def check_count(n: int) -> None:
    """InputError unless n is an integer of at least 1."""
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise InputError(f"n: got {n!r}, a number of samples of at least 1 is accepted")


def as_measurements(y: Any, y_shape: tuple[int, ...], name: str = "y", as_what: str = "") -> tuple[Tensor, bool]:
    """y as (M, *y_shape) float64 and whether it came so; InputError for any other shape, dtype, or infinities."""
    try:
        y = torch.as_tensor(y)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name}: got {type(y).__name__}, an array of numbers is accepted") from error
    if y.is_complex() or y.ndim not in (len(y_shape), len(y_shape) + 1) or y.shape[y.ndim - len(y_shape) :] != y_shape:
        raise InputError(
            f"{name}: got {y.dtype} of shape {tuple(y.shape)}, {y_shape} or (M, {str(y_shape)[1:]} is accepted{as_what}"
        )
    y = y.detach().cpu().to(torch.float64)
    if bool(y.isinf().any()):
        raise InputError(f"{name}: got an infinite entry, finite numbers (and NaN for what is missing) are accepted")
    batched = y.ndim > len(y_shape)
    if batched and len(y) == 0:
        raise InputError(f"{name}: got no measurement, at least one is accepted")
    return (y if batched else y[None]), batched
