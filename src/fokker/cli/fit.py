"""`fokker fit` and `fokker sample`: the user's own pairs and measurements."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
from torch import Tensor
from tyro.conf import Positional, UseAppendAction, arg

from fokker.cli import options as given
from fokker.errors import InputError, NotFinite
from fokker.training import TrainRecord

if TYPE_CHECKING:
    from fokker.check_rows import Rows
    from fokker.from_files import Data
    from fokker.posterior.conditional import ConditionalPosterior

SHOWN = 8  # entries of x in the summary


@dataclass(frozen=True)
class Fit:
    """Learn p(x given y) from pairs in a file: .npz, .csv, .parquet, .h5, .zarr, a folder of simulations, several .npy.

    A name is that of an array or a column, the head of several (theta for theta_0, theta_1, ...), a pattern with * and
    ?, or several of these with commas between; in a folder of simulations also one of its x_names and y_names. Empty
    cells and NaN in y are missing entries.
    """

    data: Positional[tuple[Path, ...]]
    """The file, or several .npy files, each named by its file."""
    x: str = "x"
    """What is to be inferred."""
    y: str = "y"
    """What is measured."""
    condition: UseAppendAction[tuple[str, ...]] = ()
    """A further input that is known when y is measured; may be given several times."""
    out: Path = Path("model")
    """Folder of the model; a fit that was interrupted there continues."""
    bounds: UseAppendAction[tuple[str, ...]] = ()
    """NAME=LOW:HIGH, either end may be left out: x lies strictly between; may be given several times."""
    positive: UseAppendAction[tuple[str, ...]] = ()
    """NAME: the same as NAME=0: in bounds; may be given several times."""
    missing: float = 0.0
    """Chance of every entry of y to be hidden in training, for measurements with gaps."""
    held_out: float = 0.1
    """Part of the rows, at most 1,000 of them, that is kept for checks."""
    recipe: str = "default"
    """default, or published: the source paper's set-up, to compare with."""
    steps: int | None = None
    """Length of the training at most; 4,000 by default, fewer when nothing improves any more."""
    seed: int = 0
    """Of everything random."""
    device: str = "cpu"
    """Where the network is trained: cpu, cuda."""
    quiet: bool = False
    """No progress bars."""


@dataclass(frozen=True)
class Sample:
    """Draw from a posterior that `fokker fit` has learned, for one measurement or many."""

    model: Positional[Path]
    """Folder of the model."""
    y: Positional[Path]
    """File of measurements: its only array, or what has the names of the fit. NaN and empty cells are missing."""
    n: Annotated[int, arg(aliases=["-n"])] = 1000
    """Samples for each measurement."""
    out: Path = Path("posterior.zarr")
    """Zarr store in ArviZ's layout: posterior, observed_data, sample_stats."""
    seed: int = 0
    """Of the samples."""
    device: str = "cpu"
    """Where the network runs: cpu, cuda."""
    quiet: bool = False
    """No progress bars."""


def fit(options: list[str]) -> None:
    """`fokker fit`."""
    asked = given.parse(Fit, options, "fokker fit", None)
    if asked is None:
        return
    from fokker.from_files import Data, fit_files
    from fokker.posterior_coordinates import Posterior
    from fokker.simulation.formats import failed_in

    records: list[TrainRecord] = []
    with given.bars(asked.quiet) as progress, given.named_as_options(asked):

        def told(record: TrainRecord) -> None:
            records.append(record)
            progress("train", record.step, record.steps)

        names = ("out", "bounds", "positive", "missing", "held_out", "recipe", "steps", "seed", "device")
        posterior = fit_files(
            asked.data,
            asked.x,
            asked.y,
            conditions=asked.condition,
            progress=told,
            warn=given.warn,
            **{name: getattr(asked, name) for name in names},
        )
    data = Data.load(asked.out)
    sizes = ", ".join(f"{role} {len(entries)}" for role, entries in data.entries.items())
    failed = failed_in(asked.data)
    if failed:
        print(f"{failed} failed simulations left out: the posterior is that given that a simulation succeeds")
    print(f"{data.rows} rows; numbers in a row: {sizes}")
    recipe, shape = posterior.recipe, posterior.model.network.settings()  # type: ignore[operator]
    sizes = ", ".join(f"{name} {value}" for name, value in shape.items() if "width" in name or "depth" in name)
    print(f"network: {sizes}{_summary(shape)}; batches of {recipe.training.batch_size}")
    if records:
        best, last = min(records, key=lambda record: record.validation_loss), records[-1]
        beside = "; 1 is what a Gaussian without a network has" if isinstance(posterior.coordinates, Posterior) else ""
        step = last.best_step if recipe.training.keep_best else last.step
        kept = f"weights of step {step} of {last.step} kept"
        kept = kept if step else f"none of {last.step} steps was better than the untrained network, which is kept"
        print(f"validation loss {best.validation_loss:.4g}{beside}; {kept}")
    print(f"model: {asked.out}{' (gaps in y are accepted)' if posterior.masked else ''}")


def _summary(shape: dict[str, Any]) -> str:
    """What stands before a network for a y with a layout, in words; empty for other networks."""
    if shape["kind"] != "layout_mlp":
        return ""
    sides = " x ".join(map(str, shape["y_shape"]))
    return f", y ({sides}) summarised by convolutions in {shape['summary']} numbers"


def sample(options: list[str]) -> None:
    """`fokker sample`."""
    asked = given.parse(Sample, options, "fokker sample", None)
    if asked is None:
        return
    from fokker.file_samples import measurements, sample_file
    from fokker.from_files import load_fit
    from fokker.screening import first

    posterior, data = load_fit(asked.model, asked.device)
    y, cond = measurements(asked.y, posterior, data)
    try:
        with given.bars(asked.quiet) as progress, given.warnings_as_lines():
            mean, std = sample_file(
                posterior,
                data,
                y,
                cond,
                asked.n,
                asked.out,
                seed=asked.seed,
                progress=lambda done, total: progress("sample", done, total),
            )
    except NotFinite:
        _tell_of_strange(asked, posterior, data, y, cond)
        raise
    known, seen = _tell_of_strange(asked, posterior, data, y, cond)
    lost = mean.flatten(1).isnan().any(1)
    if bool(lost.any()):
        shown = first(lost.nonzero().flatten().tolist())
        given.warn(f"no samples can be drawn for measurement {shown}: NaN stands in their place in {asked.out}")
    k = int((~lost).nonzero()[0])
    names = [f"x[{i}]" for i in range(mean[0].numel())] if data is None else data.entries["x"]
    doubt = "" if known is None else _doubt(known, seen[k : k + 1], mean[k], std[k])
    print(f"measurement {k} of {len(mean)}{doubt}: mean and standard deviation")
    for name, m, s in list(zip(names, mean[k].flatten().tolist(), std[k].flatten().tolist()))[:SHOWN]:
        print(f"  {name}  {m:.6g}" + (f" +- {s:.3g}" if asked.n > 1 else ""))
    if len(names) > SHOWN:
        print(f"  and {len(names) - SHOWN} more")
    print(f"samples: {asked.out}")


def _tell_of_strange(
    asked: Sample, posterior: ConditionalPosterior, data: Data | None, y: Any, cond: dict[str, Any]
) -> tuple[Rows | None, Any]:
    """Warn of measurements unlike the rows that were held out of the fit; these, None where there are none, and the
    measurements as vectors (K, D).
    """
    from fokker.check_rows import Rows, as_rows
    from fokker.from_files import held_out
    from fokker.screening import strange

    y, cond = as_rows(y, cond, posterior.y_shape)
    seen = Rows(y, y, cond).seen
    if data is None or not (asked.model / "held_out.safetensors").exists():
        return None, seen
    try:
        found = {role: value.numpy() for role, value in held_out(asked.model, data).items()}
    except InputError as error:
        given.warn(f"whether the measurements look like the training data is not told: {error}")
        return None, seen
    known = Rows(found.pop("x"), found.pop("y"), found)
    if not len(known.x):
        return None, seen
    for line in strange(known.seen, seen, data.entries["y"], posterior.masked):
        more = f"fokker check {shlex.quote(str(asked.model))} --y {shlex.quote(str(asked.y))}"
        given.warn(f"{line}; {more} says more")
    return known, seen


def _doubt(known: Rows, seen: Any, mean: Tensor, std: Tensor) -> str:
    """What is to be said of the numbers for a measurement (1, D) that is not like the others; empty for one that is.

    They mean nothing where they are further from the x of the known rows than these from each other.
    """
    from fokker.screening import p_values

    p, level, _ = p_values(known.seen, seen)
    if not p[0] <= level[0]:
        return ""
    x = torch.from_numpy(known.x)
    low, high = x.amin(0), x.amax(0)
    spread = std.nan_to_num(nan=0.0, posinf=math.inf)
    far = (mean - spread < 2 * low - high) | (mean + spread > 2 * high - low)
    what = "these numbers mean nothing" if bool(far.any()) else "nothing vouches for these numbers"
    return f", which lies outside the training data, so that {what}"
