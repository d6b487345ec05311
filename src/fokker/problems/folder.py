"""The folder of a run: held by one writer, claimed by its settings, with what every problem keeps there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fokker.errors import InputError
from fokker.locks import locked
from fokker.storage import ensure_writable, file_hash, read_json, read_tensors, write_json

PARTS = {"models", "results", "simulations.zarr", "posterior.zarr"}  # by which a run is known that has lost its config


@contextlib.contextmanager
def held(settings: Mapping[str, Any], packages: tuple[str, ...], out: Path) -> Iterator[None]:
    """Hold `out` as its only writer, with config.json: the settings, and the versions of Python and these packages.

    A new run that fails before it has made anything leaves no config.json, so that other settings may follow.

    Raises InputError where the folder holds a run with other settings or is in use, OSError where the disk fails.
    """
    ensure_writable(out)
    with locked(out):
        path = out / "config.json"
        new = not path.exists()
        _claim(settings, out)
        versions = {"python": platform.python_version(), **{name: version(name) for name in packages}}
        write_json(path, {**settings, "versions": versions})
        try:
            yield
        except (InputError, OSError):
            if new and not _made(out):
                path.unlink(missing_ok=True)
            raise


def _made(out: Path) -> bool:
    """Whether `out` has any result beside its settings and the marks of empty Zarr groups."""
    return any(
        path.is_file() and path.name not in ("config.json", "zarr.json") and not path.name.startswith(".")
        for path in out.rglob("*")
    )


def _claim(settings: Mapping[str, Any], out: Path) -> None:
    """InputError where `out` holds a run with other settings, or other things and no run."""
    path = out / "config.json"
    if not path.exists():
        others = {entry.name for entry in out.iterdir() if not entry.name.startswith(".")}
        if others and not others & PARTS:
            raise InputError(f"{out}: holds other files and no run, a new or an empty folder is accepted")
        return
    try:
        found = dict(read_json(path))
    except (InputError, TypeError, ValueError) as error:
        text = f"{path} is damaged ({error}); remove it to continue with these settings, or give another --out"
        raise InputError(text) from error
    wanted = json.loads(json.dumps(settings))
    for name, value in wanted.items():
        if found.get(name) != value:
            raise InputError(
                f"{out}: holds a run with {name} = {found.get(name)!r}, this one has {value!r}; "
                "another --out, or the same settings, is accepted"
            )


def saved_timings(out: Path) -> dict[str, float]:
    """Seconds of stages, kept from when they were really done; they are no result, and may be lost."""
    try:
        return dict(read_json(out / "timings.json"))
    except (InputError, TypeError, ValueError):
        return {}


def group(store: Path) -> None:
    """Make `store` a Zarr group, to hold others."""
    write_json(store / "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": {}})


def folder_hash(folder: Path) -> str:
    """SHA-256 of all files of a folder; that of nothing where there is none."""
    total = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        total.update(f"{path.relative_to(folder)} {file_hash(path)}\n".encode())
    return total.hexdigest()


def is_from(path: Path, made_from: Mapping[str, str]) -> bool:
    """Whether a safetensors file is whole and says it was made from the same; if not, it is to be made again."""
    try:
        return read_tensors(path)[1] == made_from
    except InputError:
        return False


def plain(value: Any) -> Any:
    """Tuples as the lists that JSON has."""
    return list(value) if isinstance(value, tuple) else value
