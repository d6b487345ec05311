"""Options as dataclasses, and progress bars: what all commands share."""

from __future__ import annotations

import contextlib
import io
import re
import sys
import warnings
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from fokker.errors import InputError

if TYPE_CHECKING:
    from fokker.problems.parallel import Progress


def parse(kind: Any, options: list[str], program: str, default: Any, positional: bool = False) -> Any:
    """Options as a dataclass, None where help was asked for; what is wrong with them as one InputError."""
    import tyro

    config = (tyro.conf.Positional,) if positional else ()
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            if default is None:
                return tyro.cli(kind, prog=program, args=options, config=config)
            return tyro.cli(kind, prog=program, args=options, default=default, config=config)
    except SystemExit as stop:
        if stop.code in (0, None):
            return None
        cause: BaseException | None = stop
        while cause is not None:  # a dataclass has refused its values: its own words are the best
            if isinstance(cause, InputError):
                with named_as_options(kind if default is None else default):
                    raise cause from None
            cause = cause.__context__
        raise InputError(f"{_in_one_line(said.getvalue())} (see {program} --help)") from None


@contextlib.contextmanager
def named_as_options(options: Any) -> Iterator[None]:
    """Errors about an option call it as it is typed where that differs, --most-steps for most_steps; of a group too."""
    try:
        yield
    except InputError as error:
        groups = [options, *(getattr(options, one.name, None) for one in fields(options))]
        known = {one.name for group in groups if is_dataclass(group) for one in fields(group)}
        name, _, rest = str(error).partition(":")
        if "_" in name and name in known:
            raise InputError(f"--{name.replace('_', '-')}:{rest}") from None
        raise


def _in_one_line(box: str) -> str:
    """The parser's complaint without its box and colours: what is wrong, and the options it names as accepted."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [line.strip("│|╭╮╰╯ ") for line in plain.splitlines()[1:]]  # the first is a title
    parts = [list(part) for text, part in groupby(lines, lambda line: bool(line.strip("─-"))) if text]
    accepted = [line for part in parts[1:] for line in part if line.startswith("--")]
    return " ".join(parts[0]) + (f", accepted: {'; '.join(accepted)}" if accepted else "")


def value_of(name: str, options: list[str], default: str) -> str:
    """The value of one option, before the others can be read; empty where it has none."""
    for index, word in enumerate(options):
        if word.startswith(f"{name}="):
            return word.split("=", 1)[1]
        if word == name:
            return options[index + 1] if index + 1 < len(options) else ""
    return default


def warn(text: str) -> None:
    """One line on standard error, about something that the user may not have meant."""
    print("fokker: warning: " + " ".join(text.split()), file=sys.stderr)


@contextlib.contextmanager
def warnings_as_lines() -> Iterator[None]:
    """What the library warns of, told by `warn`."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *where, **more: warn(str(message))
        yield


@contextlib.contextmanager
def bars(quiet: bool) -> Iterator[Progress]:
    """A progress bar for every stage, with rate and time left; nothing when quiet or without a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda stage, done, total: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as shown:
        tasks: dict[str, Any] = {}

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = shown.add_task(stage, total=total, rate="")
            task = tasks[stage]
            shown.update(task, completed=done, total=total)
            speed = shown.tasks[shown.task_ids.index(task)].speed
            shown.update(task, rate=f"{speed:,.0f}/s" if speed else "")

        yield progress
