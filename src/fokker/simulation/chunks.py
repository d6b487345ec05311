"""Simulators, and the drawing of one chunk: the same numbers in whatever process, after whatever other chunks."""

import hashlib
import json
import math
import reprlib
import sysconfig
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import scipy.linalg  # noqa: F401  (its linear algebra must be loaded when the threads are limited)
from threadpoolctl import threadpool_limits

from fokker.errors import InputError

_STREAM = 0x73696D  # keeps these draws apart from other uses of Philox with the same key
_INSTALLED = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
_NOT_THE_USERS = [Path(__file__).parents[1], *map(Path, _INSTALLED)]


class Simulator(Protocol):
    """A prior and a forward model, with random numbers from the given generator only.

    `settings` is a dict that JSON can hold and that identifies the simulator: a store made with others is
    refused. `prior(rng, n)` returns x of shape (n, *x_shape); `simulate(x, rng)` returns y of shape
    (n, *y_shape), row by row. Rows of y with NaN or infinities are failed simulations; x is finite.
    `x_names` and `y_names`, where it has them, are sequences of texts: what the numbers in a row of x and of y are
    called, in their flat order.

    For several workers it must also be something that pickle can write, and it travels with every chunk:
    what is large or expensive (factorised matrices, tables) belongs into a `functools.cached_property`,
    which stays behind and is made once in each worker.
    """

    @property
    def settings(self) -> Mapping[str, Any]: ...

    def prior(self, rng: np.random.Generator, n: int) -> np.ndarray: ...

    def simulate(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray: ...


def draw(simulator: Simulator, seed: int, c: int, chunk: int) -> tuple[np.ndarray, np.ndarray]:
    """The whole chunk c: x (chunk, *x_shape) and y (chunk, *y_shape), float64.

    Drawn by Philox with the key (seed, c), and with one thread of linear algebra, because sums over several
    threads end in other digits. Raises `InputError` naming the chunk when the simulator raises or returns
    something other than real numbers of shape (chunk, ...), finite ones for x.
    """
    bits = np.random.Philox(key=np.array([seed, c], dtype=np.uint64), counter=[0, 0, 0, _STREAM])
    rng = np.random.Generator(bits)
    name = f"chunk {c} ({chunk} simulations are drawn at a time): {type(simulator).__name__}"
    with threadpool_limits(1):
        x = called(f"{name}.prior", chunk, lambda: simulator.prior(rng, chunk), finite=True)
        # A copy, so that a simulator working in place does not change the inputs that are stored.
        y = called(f"{name}.simulate", chunk, lambda: simulator.simulate(x.copy(), rng))
    return x, y


def check_shapes(
    simulator: Simulator, c: int, pair: tuple[np.ndarray, ...], shapes: tuple[tuple[int, ...], ...]
) -> None:
    """Refuse rows of another shape than those of the chunks before. Raises `InputError`."""
    for part, array, shape in zip(("prior", "simulate"), pair, shapes):
        if array.shape[1:] != shape:
            expected = (len(array), *shape)
            raise InputError(
                f"chunk {c}: {type(simulator).__name__}.{part} returned an array of shape {array.shape}; "
                f"expected {expected} as in the other chunks"
            )


def digest(*values: np.ndarray) -> bytes:
    """SHA-256 (32 bytes) of the arrays' numbers."""
    total = hashlib.sha256()
    for value in values:
        total.update(np.ascontiguousarray(value).data)
    return total.digest()


def settings_of(simulator: Simulator) -> dict[str, Any]:
    """The simulator's settings as JSON reads them back. Raises `InputError` for what is no simulator."""
    name = type(simulator).__name__
    for part in ("settings", "prior", "simulate"):
        if not hasattr(simulator, part):
            raise InputError(f"{name} is no simulator: it has no {part}; expected settings, prior and simulate")
    if not isinstance(simulator.settings, Mapping):
        raise InputError(f"{name}.settings is {reprlib.repr(simulator.settings)}; expected a dict")
    try:
        return json.loads(json.dumps(dict(simulator.settings), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{name}.settings cannot be written as JSON ({one_line(error)}); "
            "expected numbers, texts, lists and dicts of them"
        ) from error


def names_of(simulator: object) -> dict[str, list[str]]:
    """The simulator's `x_names` and `y_names`, those that it has.

    Raises `InputError` unless they are texts that differ, also between x and y, without the commas and equals signs
    that divide the options of the command line.
    """
    found: dict[str, list[str]] = {}
    for key in ("x_names", "y_names"):
        given = getattr(simulator, key, None)
        if given is None:
            continue
        texts = [] if isinstance(given, (str, Mapping)) or not isinstance(given, Iterable) else list(given)
        if not texts or not all(map(_is_name, texts)):
            raise InputError(
                f"{key}: got {reprlib.repr(given)}, a tuple of texts without commas and equals signs, as "
                '("depth", "width"), is accepted'
            )
        found[key] = [str(text) for text in texts]
    twice = [name for name, count in Counter(chain(*found.values())).items() if count > 1]
    if twice:
        raise InputError(f"{' and '.join(found)}: got {twice[0]!r} twice, names that differ are accepted")
    return found


def check_names(names: Mapping[str, list[str]], shapes: Mapping[str, Sequence[int]]) -> None:
    """Refuse another number of names than of numbers in a row of x or y. Raises `InputError`."""
    for part, shape in shapes.items():
        given = names.get(f"{part}_names")
        if given is not None and len(given) != math.prod(shape):
            raise InputError(
                f"{part}_names: got {len(given)} names, {math.prod(shape)} are accepted: one for each number in a row "
                f"of {part}"
            )


def _is_name(text: Any) -> bool:
    return isinstance(text, str) and text.strip() == text != "" and text.isprintable() and not set(text) & set(",=")


def one_line(error: BaseException) -> str:
    """An error's message without line breaks."""
    return " ".join(str(error).split())


def place_of(error: BaseException) -> str:
    """The innermost line of the user's own on the way to an error, " (FILE, line N)"; empty where there is none."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if not frame.filename.startswith("<") and not any(file.is_relative_to(folder) for folder in _NOT_THE_USERS):
            return f" ({file.name}, line {frame.lineno})"
    return ""


def called(name: str, rows: int, function: Callable[[], np.ndarray], finite: bool = False) -> np.ndarray:
    """What the user's function returns for so many rows, checked and copied to float64; InputError by that name.

    finite: whether NaN and infinities are refused: they are failed simulations, but no draws of a prior.
    """
    try:
        array = np.asarray(function())
    except Exception as error:
        remedy = "" if finite else "; rows of NaN are accepted where a simulation fails, and set aside"
        raise InputError(f"{name} raised {type(error).__name__}: {one_line(error)}{place_of(error)}{remedy}") from error
    if array.dtype.kind not in "fiu":
        raise InputError(f"{name} returned {array.dtype} values; expected real numbers of shape ({rows}, ...)")
    if array.ndim == 0 or array.shape[0] != rows or array.size == 0:
        raise InputError(f"{name} returned an array of shape {array.shape}; expected ({rows}, ...)")
    array = array.astype("<f8")
    bad = ~np.isfinite(array.reshape(rows, -1)).all(1)
    if finite and bad.any():
        raise InputError(f"{name} returned NaN or infinity in {bad.sum()} of {rows} rows; expected finite numbers")
    array[np.isnan(array)] = np.nan  # one kind of NaN: the disk does not keep others, checksums would differ
    return array
