"""The one sampling loop. It owns the time grid, chunks of rows, the noise, the count of evaluations and all checks.

A sampler supplies `init` and `step`; from there every model and every sampler fit together.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.processes import NoiseProcess, Time
from fokker.rng import BLOCK, Key, Rows
from fokker.samplers.base import Sampler, StepNoise
from fokker.samplers.checks import check_finite, check_state, count_rows
from fokker.samplers.gaussian_transition import GaussianTransition
from fokker.score import ScoreModel
from fokker.states import Cond, Processes, State, over_parts
from fokker.time_grid import Grid, Karras, check_times

CHUNK = 4096  # rows at a time: the activations of a small network stay in the processor's cache
ENTRIES = 2**21  # of the state at a time, but at least a block of rows


@dataclass(frozen=True)
class SampleResult:
    """Samples of shape (B, *shape) (or a dict of them) and how they were made.

    nfe: network evaluations per sample (the largest over the chunks for adaptive samplers); seconds: wall clock;
    settings: all that is needed to repeat the run; trajectory: states (steps + 1, B, *shape) if asked for, the first
    draw first; info: per sampler, keyed by name, one value per row.
    """

    samples: Any
    nfe: int
    seconds: float
    settings: dict[str, Any]
    trajectory: Any = None
    info: dict[str, Tensor] = field(default_factory=dict)


class Counted(ScoreModel):
    """A model that counts its evaluations."""

    def __init__(self, model: ScoreModel):
        self.model, self.calls = model, 0
        self.process, self.data_std = model.process, model.data_std
        self.dtype, self.device = model.dtype, model.device

    @property
    def data_mean(self) -> Any:
        """The model's own."""
        return self.model.data_mean

    @property
    def time_range(self) -> tuple[float, float]:
        """The model's own."""
        return self.model.time_range

    def denoise(self, x_t: State, t: Time, cond: Tensor | Cond | None = None) -> State:
        """The model's own, counted."""
        self.calls += 1
        return self.model.denoise(x_t, t, cond)

    def on(self, process: NoiseProcess) -> Counted:
        """The model on another process, with a count of its own."""
        return Counted(self.model.on(process))

    def start(self, shape: Any, t: float, key: Key, cond: Cond) -> State:
        """The model's own."""
        return self.model.start(shape, t, key, cond)


@torch.no_grad()
def sample(
    model: ScoreModel,
    shape: Any,
    *,
    sampler: Sampler | None = None,
    steps: int = 64,
    seed: int = 0,
    cond: Tensor | Cond | None = None,
    grid: Grid | Tensor | None = None,
    rows: Rows | None = None,
    start: State | None = None,
    trajectory: bool = False,
    finite: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> SampleResult:
    """Draw samples of x_0 by running the reverse process of `model` from noise to data.

    shape: (B, *x_shape), or a dict of such shapes for a model of named parts. sampler: `GaussianTransition()`
    unless given. steps: levels of the default grid; adaptive samplers ignore it. grid: a callable such as
    `Karras()`, or your own falling times; a last time above 0 returns x_t there instead of x_0. cond: a tensor or a
    dict of named tensors, with one row per sample, per measurement (`rows` then says whose) or one for all.
    rows: which measurement and sample each row is (default: measurement 0, samples 0 ... B-1). start: your own
    state at the first time, of this shape, in place of the first draw. finite: False lets rows that are not finite go
    on to the end, beside the others. progress: called with (rows done, rows in all).

    Raises InputError for a wrong shape, grid, number of steps, condition or start, FloatingPointError (naming step
    and sample) as soon as a state is not finite, unless `finite` is False.
    """
    sampler = GaussianTransition() if sampler is None else sampler
    if not hasattr(sampler, "step") or isinstance(sampler, type):
        raise InputError(f"sampler: got {sampler!r}, an object such as fokker.Heun() is accepted")
    count = count_rows(shape)
    if start is not None:
        start = check_state("start", start, model, shape)
    if rows is not None and len(rows) != count:
        raise InputError(f"rows: got {len(rows)}, the shape asks for {count} samples")
    times = times_of(model, sampler, steps, grid)
    return drive(model, sampler, times, shape, start, seed, rows, cond, trajectory, finite, progress)


def drive(
    model: ScoreModel,
    sampler: Sampler,
    times: Tensor,
    shape: Any,
    start: State | None,
    seed: int = 0,
    rows: Rows | None = None,
    cond: Tensor | Cond | None = None,
    trajectory: bool = False,
    finite: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> SampleResult:
    """Run a sampler over `times`, chunk by chunk: `sample` for arguments that have been checked, times in any order."""
    count = count_rows(shape)
    rows, measured = (Rows.grid(1, count), False) if rows is None else (rows, True)
    prepared = model.prepare(cond)
    started = time.perf_counter()
    parts, calls = [], 0
    together = getattr(sampler, "population", 1)  # rows that depend on each other
    chunk = max(1, _chunk(shape) // together) * together
    for low in range(0, count, chunk):
        where = slice(low, low + chunk)
        piece = rows[where]
        local = rows_of_cond(prepared, piece, where, count, measured)
        counted, key = Counted(model), Key(seed, piece)
        if start is None:
            x = counted.start(_resized(shape, len(piece)), float(times[0]), key.at(step=0), local)
        else:
            x = over_parts(lambda v, where=where: v[where], start)
        parts.append(_run(counted, sampler, times, x, key, local, trajectory, finite))
        calls = max(calls, counted.calls)
        if progress is not None:
            progress(low + len(piece), count)
    finals, paths, infos = zip(*parts)
    return SampleResult(
        samples=_join(finals, 0),
        nfe=calls,
        seconds=time.perf_counter() - started,
        settings={
            "sampler": sampler.settings(),
            "process": over_parts(lambda p: p.settings(), model.process),
            "times": times.tolist(),
            "seed": seed,
            **({} if start is None else {"start": "given"}),
        },
        trajectory=_join(paths, 1) if trajectory else None,
        info={name: torch.cat([info[name] for info in infos]) for name in infos[0]},
    )


def _run(
    model: Counted, sampler: Sampler, times: Tensor, x: State, key: Key, cond: Cond, keep: bool, finite: bool
) -> tuple[State, State | None, dict[str, Tensor]]:
    state = sampler.init(model, x)
    path, kept = [state.x], dict[str, Tensor]()
    for index, (t, s) in enumerate(zip(times[:-1].tolist(), times[1:].tolist()), 1):
        noise = step_noise(model.process, state.x, key.at(step=index), cond)
        state, info = sampler.step(model, state, t, s, noise, cond)
        if finite:
            check_finite(state.x, index, key)
        for name, value in info.items():
            kept[name] = kept[name] + value if name in kept else value
        if keep:
            path.append(state.x)
    return state.x, stack(path) if keep else None, kept


def step_noise(process: Processes, x: State, key: Key, cond: Cond) -> StepNoise:
    """The noise of a step: for each part by its own process, the points taken from the condition."""

    def one(p: NoiseProcess, like: Tensor, part_key: Key) -> Tensor:
        return p.noise.sample(like, part_key, cond.get("points"))

    def draw(draw: int = 0) -> State:
        here = key.at(part=f"step{draw}")
        if isinstance(process, dict):
            return {name: one(p, x[name], here.at(part=name)) for name, p in process.items()}  # type: ignore[index]
        return one(process, x, here)  # type: ignore[arg-type]

    return draw


def times_of(model: ScoreModel, sampler: Sampler, steps: int, grid: Grid | Tensor | None) -> Tensor:
    """The falling times of a grid, or a user's own."""
    t_min, t_max = model.time_range
    if grid is not None and not callable(grid):
        return check_times(grid, t_min, t_max)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError(f"steps: got {steps!r}, an integer of at least 1 is accepted")
    steps = 2 if sampler.adaptive else steps
    process = next(iter(model.process.values())) if isinstance(model.process, dict) else model.process
    levels = (grid or Karras())(process, steps, t_min, t_max)
    return torch.cat([levels, torch.zeros(1, dtype=torch.float64)])


def _resized(shape: Any, rows: int) -> Any:
    """The shape, or shapes by name, with another number of rows."""
    if isinstance(shape, dict):
        return {name: (rows, *part[1:]) for name, part in shape.items()}
    return (rows, *shape[1:])


def _chunk(shape: Any) -> int:
    """Rows at a time: whole blocks of the noise, as these are drawn whole."""
    sizes = shape.values() if isinstance(shape, dict) else [shape]
    blocks = ENTRIES // (BLOCK * max(1, sum(math.prod(size[1:]) for size in sizes)))
    return min(CHUNK, BLOCK * max(1, blocks))


def rows_of_cond(cond: Cond, piece: Rows, where: slice, count: int, measured: bool) -> Cond:
    """Each condition for the rows of a chunk: one row for all, one per sample, or (`measured`) one per measurement."""
    out = {}
    for name, value in cond.items():
        if len(value) == 1:
            out[name] = value.expand(len(piece), *value.shape[1:])
        elif len(value) == count:
            out[name] = value[where]
        elif measured and len(value) > int(piece.measurement.max()) - piece.first:
            which = piece.measurement - piece.first
            first = int(which[0])
            if (which == first).all():  # nothing is copied, and a network can see that all rows agree
                out[name] = value[first : first + 1].expand(len(piece), *value.shape[1:])
            else:
                out[name] = value[torch.as_tensor(which, device=value.device)]
        else:
            raise InputError(f"cond {name!r}: got {len(value)} rows, 1 or {count} are accepted")
    return out


def stack(path: list[State]) -> State:
    """States one after another, each part (states, B, *shape)."""
    if isinstance(path[0], dict):
        return {name: torch.stack([p[name] for p in path]) for name in path[0]}  # type: ignore[index]
    return torch.stack(path)  # type: ignore[arg-type]


def _join(parts: Any, axis: int) -> Any:
    if isinstance(parts[0], dict):
        return {name: torch.cat([p[name] for p in parts], axis) for name in parts[0]}
    return parts[0] if len(parts) == 1 else torch.cat(parts, axis)
