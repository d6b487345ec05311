"""The command line: one typed dataclass per command.

    fokker run PROBLEM [--preset NAME] [--out DIR] [options]     simulate, fit, sample, check, report
    fokker report DIR                                            the figures and the page of a run again
    fokker problems                                              what there is, one line each

Exit status: 0 done, 2 wrong input, 1 the environment failed, 130 interrupted. Errors are one line.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, make_dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fokker.errors import InputError

if TYPE_CHECKING:
    from fokker.problems.boundary_flux import BoundaryFlux
    from fokker.problems.parallel import Progress

PROBLEMS = {
    "boundary-flux": "where a chemical enters a channel, from 30 noisy sensors, beside the exact posterior",
}
HELP = """\
usage: fokker COMMAND ...

  fokker run PROBLEM [--preset NAME] [--out DIR] [options]   simulate, fit, sample, check, report
  fokker report DIR                                          the figures and the page of a run again
  fokker problems                                            what there is, one line each

fokker run PROBLEM --help shows a problem's options.
"""


def main() -> None:
    """Entry point of the `fokker` program."""
    sys.exit(command(sys.argv[1:]))


def command(words: list[str]) -> int:
    """Run one command line and return its exit status; the only place where errors become lines."""
    try:
        return _dispatch(words)
    except InputError as error:
        return _say(error, 2)
    except KeyboardInterrupt:
        if sys.stderr.isatty():
            print(file=sys.stderr)  # after the terminal's ^C
        return _say("interrupted; the same command continues where it stopped", 130)
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else error
        return _say(what, 1)
    except (ImportError, FloatingPointError, MemoryError) as error:
        return _say(error if str(error) else type(error).__name__, 1)


def _say(what: object, status: int) -> int:
    print("fokker: " + " ".join(str(what).split()), file=sys.stderr)
    return status


def _dispatch(words: list[str]) -> int:
    match words:
        case [] | ["-h" | "--help", *_] | ["run" | "problems", "-h" | "--help"]:
            print(HELP, end="")
        case ["--version"]:
            import fokker

            print(fokker.__version__)
        case ["problems"]:
            for name, line in PROBLEMS.items():
                print(f"{name}  {line}")
        case ["problems" | "--version" as name, other, *_]:
            raise InputError(f"{name}: got {other!r}, nothing more is accepted")
        case ["run", name, *options] if name in PROBLEMS:
            _run_boundary_flux(options)
        case ["run", *rest]:
            got = repr(rest[0]) if rest else "nothing"
            raise InputError(f"problem: got {got}, one of {', '.join(PROBLEMS)} is accepted")
        case ["report", *options]:
            _report(options)
        case [other, *_]:
            raise InputError(f"command: got {other!r}, one of run, report, problems is accepted")
    return 0


@dataclass(frozen=True)
class Output:
    """Where a run's files go and what is shown meanwhile."""

    preset: str = "quick"
    """quick: both prior means, VE, ODE, noise 1, in a few minutes."""
    out: Path = Path("runs/boundary-flux")
    """Folder of the run; a run that was interrupted there continues."""
    quiet: bool = False
    """No progress bars."""


@dataclass(frozen=True)
class Report:
    """Make the figures and the page of a run again."""

    directory: Path
    """Folder of the run."""


def _run_boundary_flux(options: list[str]) -> None:
    import tyro

    from fokker.problems.boundary_flux import BoundaryFlux
    from fokker.problems.flux_run import run
    from fokker.report import flux_page

    presets = {"quick": BoundaryFlux()}
    preset = _value_of("--preset", options, "quick")
    if preset not in presets:
        raise InputError(f"preset: got {preset!r}, one of {', '.join(presets)} is accepted")

    # Made here, so that `fokker problems` does not need the parser.
    flat = tyro.conf.OmitArgPrefixes
    Run = make_dataclass("Run", [("output", flat[Output]), ("problem", flat[BoundaryFlux])])
    Run.__doc__ = f"Boundary flux: {PROBLEMS['boundary-flux']}."
    asked = _parse(Run, options, "fokker run boundary-flux", Run(Output(), presets[preset]))
    if asked is None:
        return
    with _bars(asked.output.quiet) as progress:

        def report(out: Path) -> None:
            progress("report", 0, 1)
            flux_page.write(out)
            progress("report", 1, 1)

        metrics = run(asked.problem, asked.output.out, progress, report)
    for line in _summary(asked.problem, metrics):
        print(line)
    print(f"report: {asked.output.out / 'report.html'}")


def _report(options: list[str]) -> None:
    from fokker.report import flux_page
    from fokker.storage import locked

    asked = _parse(Report, options, "fokker report", None, positional=True)
    if asked is None:
        return
    if not (asked.directory / "config.json").is_file():
        raise InputError(f"{asked.directory}: holds no run, a folder that `fokker run` has made is accepted")
    with locked(asked.directory):
        print(f"report: {flux_page.write(asked.directory)}")


def _parse(kind: Any, options: list[str], program: str, default: Any, positional: bool = False) -> Any:
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
                raise cause from None
            cause = cause.__context__
        raise InputError(f"{_in_one_line(said.getvalue())} (see {program} --help)") from None


def _in_one_line(box: str) -> str:
    """The parser's complaint without its box and colours: what is wrong, and the options it names as accepted."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [line.strip("│|╭╮╰╯ ") for line in plain.splitlines()[1:]]  # the first is a title
    parts = [list(part) for text, part in groupby(lines, lambda line: bool(line.strip("─-"))) if text]
    accepted = [line for part in parts[1:] for line in part if line.startswith("--")]
    return " ".join(parts[0]) + (f", accepted: {'; '.join(accepted)}" if accepted else "")


def _value_of(name: str, options: list[str], default: str) -> str:
    for index, word in enumerate(options):
        if word.startswith(f"{name}="):
            return word.split("=", 1)[1]
        if word == name:
            return options[index + 1] if index + 1 < len(options) else ""
    return default


@contextlib.contextmanager
def _bars(quiet: bool) -> Iterator[Progress]:
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
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, rate="")
            task = tasks[stage]
            bars.update(task, completed=done, total=total)
            speed = bars.tasks[bars.task_ids.index(task)].speed
            bars.update(task, rate=f"{speed:,.0f}/s" if speed else "")

        yield progress


def _summary(problem: BoundaryFlux, metrics: dict[str, float]) -> list[str]:
    """The answer in a few lines: error, CRPS and coverage of each method on the cases with an exact posterior."""
    lines = []
    for case in problem.cases():
        lines.append(f"prior mean {case.mean:g}, noise {case.noise:g}:")
        for label, method in (("fokker", case.method), ("exact", "exact"), ("no network", "no_network")):
            head = f"{case.name}.{method}.noise={case.noise:g}"
            if f"{head}.crps" in metrics:
                covered = "/".join(f"{100 * metrics[f'{head}.coverage_{level}']:.0f}" for level in (50, 80, 95))
                error, crps = metrics[f"{head}.error_percent"], metrics[f"{head}.crps"]
                line = f"  {label:10s}  error {error:5.2f} %   CRPS {crps:.4f}   coverage of 50/80/95 % intervals"
                lines.append(f"{line} {covered}")
        if not metrics[f"{case.name}.exact.noise={case.noise:g}.cases"]:
            lines.append("  no exact posterior is resolved to compare with")
    return lines
