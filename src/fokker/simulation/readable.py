"""One array of a file: read whole or by slices, and told of in one line where the file is damaged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fokker.errors import InputError
from fokker.simulation.stored import Stored


@dataclass(frozen=True)
class Readable:
    """An array in a file: `read()` it whole, or have it by slices where the format allows that."""

    read: Callable[[], np.ndarray]
    by_slices: Callable[[], Stored] | None = None

    def __call__(self) -> np.ndarray:
        return self.read()


@dataclass(frozen=True)
class Slices:
    """What `Stored` needs of an array, told in one line where the file is damaged."""

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    chunks: tuple[int, ...] | None
    get: Callable[[Any], Any]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: Any) -> np.ndarray:
        with told(self.path):
            return np.asarray(self.get(key))


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Whatever a reader says of a file that is damaged, in one line."""
    try:
        yield
    except (InputError, ImportError, MemoryError):
        raise
    except OSError as error:
        if error.errno is not None and error.filename is not None:
            raise  # the disk, not the file
        raise InputError(_damaged(path, error)) from error
    except Exception as error:  # the readers have no common class for damaged files
        raise InputError(_damaged(path, error)) from error


def _damaged(path: Path, error: Exception) -> str:
    text = " ".join(str(error).split())
    if "allow_pickle" in text or "Object arrays" in text:
        return f"{path}: holds Python objects (a pickle), only numbers are accepted"
    return f"{path} is damaged or of another kind ({text or type(error).__name__})"
