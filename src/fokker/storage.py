"""Files that are whole or not there.

Everything is written under a temporary name in the same folder, synced to the disk and then renamed, so a
process killed at any moment leaves the old file or the new one, never half of either. Reading damaged or
missing files raises `InputError` with one line; a disk that fails (full, read-only) raises `OSError` with the
path in it. Numbers are kept as JSON and safetensors only: nothing read here can run code.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError

from fokker.errors import InputError

AnyPath = str | os.PathLike[str]

TEMPORARY = ".fokker-tmp-"  # all that a killed process can leave behind begins with this
_DIGEST = "fokker.sha256"


@contextlib.contextmanager
def errors_named(path: AnyPath) -> Iterator[None]:
    """Put `path` into an `OSError` that names no file (a full disk) or a temporary one; others pass."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and TEMPORARY not in str(error.filename):
            raise
        raise OSError(error.errno or errno.EIO, error.strerror or str(error), str(path)) from error


@contextlib.contextmanager
def atomic_path(path: AnyPath) -> Iterator[Path]:
    """Write a file or a folder whole or not at all.

    Yields a temporary path beside `path`, with the same suffix and unique to this call; the body creates a
    file or a folder there. When the body ends, it is synced and renamed to `path`; when it raises, it is
    removed and `path` is as it was. Missing parent folders are made.

    A file replaces a file in one step. A folder cannot: the old one is moved aside first, so for an instant
    there is none (never a half one), and a failing rename puts it back.

    Raises `OSError` naming `path`.
    """
    target = Path(path)
    temporary = target.with_name(f"{TEMPORARY}{os.getpid()}-{uuid.uuid4().hex[:8]}-{target.name}")
    try:
        with errors_named(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _sync(temporary)
            _replace(temporary, target)
    except BaseException:
        remove(temporary)
        raise
    with contextlib.suppress(OSError):  # some file systems cannot sync a folder; the rename itself stands
        _sync_one(target.parent)


def made_folder(path: AnyPath) -> Path:
    """The folder, made with its parents where there is none. Raises `InputError` where a file is in the way."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{path}: got a file, or a place below one; the path of a folder is accepted") from error
    return Path(path)


def write_bytes(path: AnyPath, data: bytes) -> None:
    """Write `data` to the file `path`, whole or not at all. Raises `OSError` naming `path`."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: AnyPath, data: str) -> None:
    """Write `data` in UTF-8 to the file `path`, whole or not at all. Raises `OSError` naming `path`."""
    write_bytes(path, data.encode())


def write_json(path: AnyPath, value: Any) -> None:
    """Write `value` as JSON (UTF-8, indent 2, keys in their order), whole or not at all.

    NumPy scalars and arrays become numbers and lists. NaN and infinities are refused, because JSON has none
    and `null` would hide a failed computation: leave such an entry out, or say in words what happened.

    Raises `ValueError` (NaN, infinity), `TypeError` (what JSON cannot hold), `OSError` naming `path`.
    """
    try:
        text = json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False, default=_plain)
    except ValueError as error:
        raise ValueError(f"{path} is not written: {error}") from error
    write_text(path, text + "\n")


def read_json(path: AnyPath) -> Any:
    """The value in the JSON file `path`.

    Raises `InputError` for a missing, empty, truncated or non-JSON file, and for NaN and infinities.
    """
    data = _read(path)
    try:
        return json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"not valid JSON ({error})") from error


def write_sealed(path: AnyPath, value: Mapping[str, Any]) -> None:
    """Write `value` as `write_json` does, with a SHA-256 of it as its last entry, which `read_sealed` verifies."""
    plain = json.loads(json.dumps(value, default=_plain))
    write_json(path, {**plain, _DIGEST: _seal(plain)})


def read_sealed(path: AnyPath) -> dict[str, Any]:
    """What `write_sealed` wrote. Raises `InputError` for a missing, truncated or changed file, also by one digit."""
    value = read_json(path)
    if not isinstance(value, dict) or value.pop(_DIGEST, None) != _seal(value):
        raise _damaged(path, "the checksum does not fit the content")
    return value


def write_tensors(
    path: AnyPath,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write named tensors of any shapes and devices as safetensors, whole or not at all.

    The file is the same bytes for the same content. Its metadata holds `metadata` and a SHA-256 of all the
    rest, which `read_tensors` verifies. Tensors that share memory are written one by one.

    Raises `OSError` naming `path`.
    """
    plain = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    entries, data = _split(safetensors.torch.save(plain))
    notes = dict(metadata or {})
    notes[_DIGEST] = hashlib.sha256(_header(entries, notes) + data).hexdigest()
    write_bytes(path, _header(entries, notes) + data)


def read_tensors(path: AnyPath) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors, on the CPU, and metadata of a safetensors file.

    A file written elsewhere has no checksum and is taken as it is.

    Raises `InputError` for a missing, truncated or changed file and for any other format.
    """
    content = _read(path)
    try:
        tensors = safetensors.torch.load(content)
        entries, data = _split(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise _damaged(path, f"not a whole safetensors file ({error})") from error
    notes = entries.pop("__metadata__", {})
    digest = notes.pop(_DIGEST, None)
    if digest is not None and digest != hashlib.sha256(_header(entries, notes) + data).hexdigest():
        raise _damaged(path, "the checksum does not fit the content")
    return tensors, notes


def file_hash(path: AnyPath) -> str:
    """SHA-256 of the file's bytes, 64 hexadecimal digits. Raises `InputError` when there is no such file."""
    with _reading(path), open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def ensure_writable(directory: AnyPath) -> Path:
    """Make the folder `directory` if need be, prove by writing that it can hold files, and return its path.

    Raises `InputError` where a file is in the way, `OSError` with one line where it is read-only or its disk is full.
    """
    folder = Path(directory)
    probe = folder / f"{TEMPORARY}{os.getpid()}-{uuid.uuid4().hex[:8]}"
    try:
        made_folder(folder)
        probe.write_bytes(bytes(4096))
        _sync_one(probe)
    except OSError as error:
        raise OSError(error.errno, f"cannot write into this folder ({error.strerror})", str(folder)) from error
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
    return folder


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync(path: Path) -> None:
    for entry in path.rglob("*") if path.is_dir() else ():
        _sync_one(entry)
    _sync_one(path)


def _replace(temporary: Path, target: Path) -> None:
    if not (temporary.is_dir() and target.is_dir()):
        os.replace(temporary, target)
        return
    old = temporary.with_name(temporary.name + ".old")
    os.replace(target, old)
    try:
        os.replace(temporary, target)
    except BaseException:
        os.replace(old, target)
        raise
    remove(old)


def remove(path: Path) -> None:
    """A file or a folder, whether it can be removed or not."""
    if path.is_dir() and not path.is_symlink():
        for _ in range(5):  # threads that were writing into it may make another file meanwhile
            shutil.rmtree(path, ignore_errors=True)
            if not path.exists():
                break
            time.sleep(0.05)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


@contextlib.contextmanager
def _reading(path: AnyPath) -> Iterator[None]:
    try:
        yield
    except IsADirectoryError as error:
        raise InputError(f"{path} is a folder; a file was expected") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{path}: there is no such file") from error


def _read(path: AnyPath) -> bytes:
    with _reading(path):
        data = Path(path).read_bytes()
    if not data:
        raise _damaged(path, "the file is empty")
    return data


def _damaged(path: AnyPath, what: str) -> InputError:
    return InputError(f"{path} is damaged or of another kind: {' '.join(what.split())}")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def _seal(value: Mapping[str, Any]) -> str:
    """SHA-256 of what JSON gave, whatever the order of its entries."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _split(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and data of a safetensors file: header length (8 bytes, little-endian), JSON, then the data."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def _header(entries: dict[str, Any], notes: dict[str, str]) -> bytes:
    """The header in one fixed order (the library's own varies), padded so that the data stay aligned."""
    text = json.dumps({"__metadata__": dict(sorted(notes.items())), **entries}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
