"""Checks of the states that samplers are given and that they make."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.rng import Key
from fokker.score import ScoreModel
from fokker.states import State, over_parts


def count_rows(shape: Any, name: str = "shape") -> int:
    """The rows of a shape, or of shapes by name; InputError unless all have the same number, at least one."""
    sizes = {next(iter(s), 0) for s in (shape.values() if isinstance(shape, dict) else [shape])}
    if len(sizes) != 1 or not isinstance(n := sizes.pop(), int) or n < 1:
        raise InputError(f"{name}: got {shape!r}, (samples, *shape of x) with at least one sample is accepted")
    return n


def check_state(name: str, x: Any, model: ScoreModel | None, shape: Any = None) -> State:
    """A user's state, in the dtype and on the device of the model (None: as it is); InputError for a wrong one.

    It must be finite and have that shape; without a shape, at least one row.
    """
    parts = list(model.process) if model is not None and isinstance(model.process, dict) else None
    if not (isinstance(x, Tensor) if parts is None else isinstance(x, dict) and x.keys() == set(parts)):
        wanted = "a tensor" if parts is None else f"a dict with the parts {', '.join(parts)}"
        raise InputError(f"{name}: got {list(x) if isinstance(x, dict) else type(x).__name__}, {wanted} is accepted")
    found = over_parts(lambda value: tuple(value.shape), x)
    if shape is None:
        count_rows(found, f"shape of {name}")
    elif found != over_parts(tuple, shape):
        raise InputError(f"{name}: got the shape {found}, {shape} is accepted")

    def part(value: Tensor) -> Tensor:
        bad = (~torch.isfinite(value)).reshape(len(value), -1).any(1).nonzero().flatten()
        if len(bad):
            raise InputError(f"{name}: got NaN or infinity in row {int(bad[0])}, finite numbers are accepted")
        return value.detach() if model is None else value.detach().to(dtype=model.dtype, device=model.device)

    return over_parts(part, x)


def check_finite(x: State, index: int, key: Key) -> None:
    """FloatingPointError naming the step and the first sample of a state that is not finite."""
    for name, value in x.items() if isinstance(x, dict) else [("x", x)]:
        # The sum is not finite if any entry is not: one pass, no mask in the usual case.
        if not math.isfinite(float(value.sum())):
            bad = (~torch.isfinite(value)).reshape(len(value), -1).any(1).nonzero().flatten()
            if len(bad):
                row = int(bad[0])
                raise FloatingPointError(
                    f"{name} is not finite after step {index}, first at sample {key.rows.sample[row]} of measurement "
                    f"{key.rows.measurement[row]} ({len(bad)} rows in all)"
                )
