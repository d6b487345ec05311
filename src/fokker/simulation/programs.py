"""Simulators of the user's own: a Python file, or an external program that is called with files."""

from __future__ import annotations

import hashlib
import re
import shlex
import subprocess
import sys
import tempfile
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fokker.errors import InputError
from fokker.simulation.chunks import one_line, place_of

PLACES = re.compile(r"\{(x|y)\.(csv|npy)\}|\{seed\}")


@dataclass(frozen=True)
class ModelFile:
    """A Python file with `prior(rng, n) -> x (n, ...)` and `simulate(x, rng) -> y (n, ...)`.

    The file may import what lies beside it. Its text identifies it: a store made with another text is refused.
    `x_names = ("depth", "width")` and `y_names` in it say what the numbers in a row of x and of y are called.
    """

    name: str
    folder: str
    text: str

    @classmethod
    def read(cls, path: Path, needs: tuple[str, ...] = ("prior", "simulate")) -> ModelFile:
        """InputError where the file is missing, cannot be run, or lacks one of the functions it needs."""
        if path.suffix != ".py" or not path.is_file():
            functions = f"function{'s' if len(needs) > 1 else ''} {' and '.join(needs)}"
            wrong = "is no Python file" if path.exists() else "there is no such file"
            raise InputError(f"{path}: {wrong}, a Python file with the {functions} is accepted")
        try:
            model = cls(path.name, str(path.parent.resolve()), path.read_text(encoding="utf-8"))
            module = model.module
        except (Exception, SystemExit) as error:  # whatever the user's file does
            what = f"{type(error).__name__}: {one_line(error)}{place_of(error)}"
            raise InputError(f"{path}: cannot be run: {what}") from error
        missing = [name for name in needs if not callable(getattr(module, name, None))]
        if missing:
            raise InputError(f"{path}: has no function {' and no function '.join(missing)}")
        return model

    @cached_property
    def module(self) -> types.ModuleType:
        """The file, run once in every process."""
        if self.folder not in sys.path:
            sys.path.append(self.folder)
        found = types.ModuleType(f"fokker model {Path(self.name).stem}")
        found.__file__ = str(Path(self.folder) / self.name)
        sys.modules[found.__name__] = found  # dataclasses look there
        exec(compile(self.text, found.__file__, "exec"), found.__dict__)
        return found

    @property
    def settings(self) -> Mapping[str, Any]:
        """The file's name and SHA-256."""
        return {"file": self.name, "sha256": hashlib.sha256(self.text.encode()).hexdigest()}

    @property
    def x_names(self) -> Any:
        """The file's own, None where it has none."""
        return getattr(self.module, "x_names", None)

    @property
    def y_names(self) -> Any:
        """The same of y."""
        return getattr(self.module, "y_names", None)

    def prior(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """The file's own."""
        return self.module.prior(rng, n)

    def simulate(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The file's own."""
        return self.module.simulate(x, rng)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("name", "folder", "text")}


@dataclass(frozen=True)
class Program:
    """A prior from a Python file, and a program that reads x from a file and writes y to one.

    command: with {x.csv} or {x.npy} where the name of the input goes, {y.csv} or {y.npy} for the output, {seed} for a
    seed of its own. rows: simulations in one call. A .csv has one line for each, numbers with commas between; a .npy
    has shape (rows, ...). A call that fails, or writes no such file, makes its simulations failed ones.
    """

    model: ModelFile
    command: str
    rows: int = 1
    _shape: list[tuple[int, ...]] = field(default_factory=list, repr=False, compare=False)
    """That of the last output, for chunks in which every call fails."""

    def __post_init__(self) -> None:
        found = [match.group(1) for match in PLACES.finditer(self.command)]
        if found.count("x") != 1 or found.count("y") != 1:
            raise InputError(
                f"program: got {self.command!r}, a command with {{x.csv}} and {{y.csv}} (or .npy) in it is accepted"
            )
        try:
            shlex.split(self.command)
        except ValueError as error:
            raise InputError(f"program: {self.command!r} cannot be split into words ({error})") from error
        if self.rows < 1:
            raise InputError(f"rows: got {self.rows}, at least 1 is accepted")

    @property
    def settings(self) -> Mapping[str, Any]:
        """The file's settings and the command."""
        return {**self.model.settings, "program": self.command, "rows": self.rows}

    @property
    def x_names(self) -> Any:
        """The file's own, None where it has none."""
        return self.model.x_names

    @property
    def y_names(self) -> Any:
        """The same of y."""
        return self.model.y_names

    def prior(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """The file's own."""
        return self.model.prior(rng, n)

    def simulate(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """As many calls as it takes; InputError with the program's last words where every one of them fails."""
        parts: list[np.ndarray | None] = []
        said = ""
        with tempfile.TemporaryDirectory(prefix="fokker-") as folder:
            for start in range(0, len(x), self.rows):
                here = x[start : start + self.rows]
                y, said = self._call(here, int(rng.integers(2**31)), Path(folder))
                parts.append(y)
        shapes = {y.shape[1:] for y in parts if y is not None} or set(self._shape)
        if len(shapes) != 1:
            what = f"failed every time ({said})" if not shapes else f"wrote rows of different shapes {sorted(shapes)}"
            raise InputError(f"program {self.command!r} {what}")
        self._shape[:] = shapes
        shape = shapes.pop()
        counts = [min(self.rows, len(x) - start) for start in range(0, len(x), self.rows)]
        return np.concatenate([np.full((n, *shape), np.nan) if y is None else y for y, n in zip(parts, counts)])

    def _call(self, x: np.ndarray, seed: int, folder: Path) -> tuple[np.ndarray | None, str]:
        """y, None where the call failed, and what was said then."""
        files: dict[str, Path] = {}

        def place(match: re.Match[str]) -> str:
            if match.group(1) is None:
                return str(seed)
            files[match.group(1)] = folder / f"{match.group(1)}.{match.group(2)}"
            return str(files[match.group(1)])

        words = [PLACES.sub(place, word) for word in shlex.split(self.command)]
        files["y"].unlink(missing_ok=True)
        if files["x"].suffix == ".npy":
            np.save(files["x"], x)
        else:
            np.savetxt(files["x"], x.reshape(len(x), -1), delimiter=",", fmt="%.17g")
        try:
            done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
        except OSError as error:
            raise InputError(f"program: {words[0]!r} cannot be run ({error.strerror})") from error
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            return None, f"exit status {done.returncode}{': ' + last[0] if last else ''}"
        try:
            if files["y"].suffix == ".npy":
                y = np.asarray(np.load(files["y"], allow_pickle=False), dtype=np.float64)
            else:
                y = np.loadtxt(files["y"], delimiter=",", ndmin=2)
        except (OSError, ValueError, EOFError) as error:
            return None, f"its output cannot be read: {' '.join(str(error).split())}"
        if y.ndim < 2 or len(y) != len(x):
            return None, f"its output has shape {y.shape}, {len(x)} rows were asked for"
        return y, ""
