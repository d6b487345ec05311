"""Folders with one writer at a time."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fokker.errors import InputError
from fokker.storage import TEMPORARY, AnyPath, errors_named, remove

_LOCK = ".lock"


@contextlib.contextmanager
def locked(directory: AnyPath) -> Iterator[None]:
    """Hold the folder `directory` (which exists) as its only writer.

    The kernel frees the lock when the process dies, however it dies. Temporary files that killed processes
    left in the folder are removed on entry.

    Raises `InputError` when the folder is held already; `OSError` when it cannot be locked.
    """
    folder = Path(directory)
    with contextlib.ExitStack() as stack:
        with errors_named(folder):
            handle = stack.enter_context(_lock(folder))
            for left in list(folder.rglob(f"{TEMPORARY}*")):
                remove(left)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                (folder / _LOCK).unlink()
            # Worker processes forked meanwhile share the open file: closing alone would not free it.
            fcntl.flock(handle, fcntl.LOCK_UN)


def _lock(folder: Path) -> Any:
    """The open, locked lock file of `folder`."""
    path = folder / _LOCK
    while True:
        handle = open(path, "a+")  # noqa: SIM115 (closed by the caller)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(handle.fileno()), os.stat(path)):
                handle.truncate(0)
                handle.write(str(os.getpid()))
                handle.flush()
                return handle
        except BlockingIOError:
            handle.seek(0)
            holder = handle.read()
            handle.close()
            raise InputError(
                f"{folder} is being written by another run (process {holder or 'unknown'}); "
                "wait until it ends, or give another folder"
            ) from None
        except FileNotFoundError:
            pass
        except OSError:
            handle.close()
            raise
        handle.close()  # its last holder removed the file between our open and our lock: try again
