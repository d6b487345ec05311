"""Independent stages side by side, each in a process of its own with one thread.

Small networks and Markov chains run best on one thread, so two cores are filled by two stages. Stages leave their
results in files; what comes back is progress, and the first error.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from fokker.errors import InputError

Progress = Callable[[str, int, int], None]  # (stage, done, total)


@dataclass(frozen=True)
class Task:
    """`function(*arguments, progress)`, importable by name, in a process of its own."""

    function: Callable[..., None]
    arguments: tuple[Any, ...]


def run_side_by_side(tasks: list[Task], progress: Progress, at_once: int = 2) -> None:
    """Run all tasks, `at_once` at a time, in the given order; the first error stops the others and is raised here.

    InputError and OSError come back as themselves. Ctrl-C ends the processes; a process whose parent was killed ends
    at its next report. Nothing is lost either way: tasks keep what they have finished on disk.
    """
    context = multiprocessing.get_context("spawn")
    messages: multiprocessing.Queue = context.Queue()
    waiting, running = list(enumerate(tasks)), dict[int, Any]()
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                index, task = waiting.pop(0)
                process = context.Process(target=_work, args=(index, task, messages, os.getpid()), daemon=True)
                process.start()
                running[index] = process
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
            elif kind == "done":
                running.pop(index).join()
            else:
                _raise(*content)
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.join()


def _work(index: int, task: Task, messages: Any, parent: int) -> None:
    torch.set_num_threads(1)

    def report(stage: str, done: int, total: int) -> None:
        if os.getppid() != parent:  # nobody is left to hear it
            os._exit(1)
        messages.put(("progress", index, (stage, done, total)))

    try:
        task.function(*task.arguments, report)
    except KeyboardInterrupt:
        return  # the parent has it too, and tells the user
    except (InputError, OSError) as error:
        number = error.errno if isinstance(error, OSError) else None
        name = error.filename if isinstance(error, OSError) else None
        messages.put(("error", index, (type(error).__name__, str(error), number, name)))
    except Exception:
        messages.put(("error", index, ("", traceback.format_exc(), None, None)))
    else:
        messages.put(("done", index, None))


def _raise(kind: str, text: str, number: int | None, name: str | None) -> None:
    if kind == "InputError":
        raise InputError(text)
    if kind:
        raise OSError(number, os.strerror(number), name) if number else OSError(text)
    raise RuntimeError(f"a worker process failed:\n{text}")
