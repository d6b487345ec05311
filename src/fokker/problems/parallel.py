"""Independent stages side by side, each in a process of its own with one thread.

Small networks and Markov chains run best on one thread, so two cores are filled by two stages. Stages leave their
results in files; what comes back is progress, and the first error.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fokker.errors import InputError

Progress = Callable[[str, int, int], None]  # (stage, done, total)
TOLD_IN_A_LINE = (InputError, FloatingPointError, MemoryError, ImportError)  # OSError too, with its number and file


@dataclass(frozen=True)
class Task:
    """`function(*arguments, progress)`, importable by name, in a process of its own."""

    function: Callable[..., None]
    arguments: tuple[Any, ...]


def run_side_by_side(tasks: list[Task], progress: Progress, at_once: int = 2) -> None:
    """Run all tasks, `at_once` at a time, in the given order; the first error stops the others and is raised here.

    Errors that are told in a line come back as themselves. Ctrl-C ends the processes, and so does the death of this
    one. Nothing is lost either way: tasks keep what they have finished on disk. What tasks warn of is warned of here.
    """
    context = multiprocessing.get_context("spawn")
    messages: multiprocessing.Queue = context.Queue()
    waiting, running = list(enumerate(tasks)), dict[int, Any]()
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                index, task = waiting.pop(0)
                process = context.Process(target=_work, args=(index, task, messages), daemon=True)
                running[index] = process
                with _one_thread(), _deaf_to_interrupts():
                    process.start()
            try:
                kind, index, content = messages.get(timeout=0.5)
            except queue.Empty:
                for process in running.values():
                    if not process.is_alive() and messages.empty():
                        raise ChildProcessError(
                            f"a worker process was killed (status {process.exitcode}); "
                            "the same command continues the run"
                        ) from None
                continue
            if kind == "progress":
                progress(*content)
            elif kind == "warning":
                warnings.warn(content, stacklevel=2)
            elif kind == "done":
                running.pop(index).join()
            else:
                raise content
    finally:
        started = [process for process in running.values() if process.pid is not None]
        for process in started:
            process.terminate()
        for process in started:
            process.join()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Processes started here compute on one thread: the linear algebra libraries read this as they are loaded."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Processes started here do not hear Ctrl-C, not even while they import: this one does, and ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(index: int, task: Task, messages: Any) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def report(stage: str, done: int, total: int) -> None:
        messages.put(("progress", index, (stage, done, total)))

    warnings.showwarning = lambda message, *where, **more: messages.put(("warning", index, str(message)))
    try:
        task.function(*task.arguments, report)
    except Exception as error:
        messages.put(("error", index, _portable(error)))
    else:
        messages.put(("done", index, None))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _portable(error: Exception) -> Exception:
    """The error as one of the plain kinds, which other processes can read; any other with its traceback."""
    if isinstance(error, OSError):
        return OSError(error.errno, error.strerror, error.filename) if error.errno else OSError(str(error))
    for kind in TOLD_IN_A_LINE:
        if isinstance(error, kind):
            return kind(str(error))
    return RuntimeError(f"a worker process failed:\n{traceback.format_exc()}")
