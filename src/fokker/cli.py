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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, make_dataclass
from functools import partial
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from fokker.errors import InputError

if TYPE_CHECKING:
    from fokker.problems.parallel import Progress


@dataclass(frozen=True)
class Parts:
    """What running a problem takes, imported only when it is run or reported on."""

    settings: type[Any]
    presets: Mapping[str, Any]  # the first is the default
    run: Callable[..., dict[str, float]]
    write: Callable[[Path], Path]
    summary: Callable[[Any, Mapping[str, float]], list[str]]
    compute: Any = None  # further options that change no result, where there are any


@dataclass(frozen=True)
class Problem:
    """A row of what there is: the line about it, what its presets do, and how its parts are imported."""

    line: str
    presets: str
    parts: Callable[[], Parts]


def _flux(module: str, name: str) -> Parts:
    from fokker.problems import flux_metrics, flux_run
    from fokker.problems.flux_run import Compute
    from fokker.report import flux_page

    kind = getattr(import_module(f"fokker.problems.{module}"), name)
    return Parts(
        kind, kind.presets(), flux_run.run, partial(flux_page.write, kind), flux_metrics.summary_lines, Compute()
    )


def _density(name: str) -> Parts:
    from fokker.problems import density_metrics, density_run
    from fokker.problems.density_settings import FULL_LENGTH, RUNS
    from fokker.report import density_page

    kind = RUNS[name]
    presets = {"quick": kind(), "paper": kind(published_steps=FULL_LENGTH)}
    return Parts(kind, presets, density_run.run, density_page.write, density_metrics.summary_lines)


_DENSITY_PRESETS = (
    "quick: both recipes, VE and VP(2), ODE and SDE, the published recipe's training cut to 4,000 steps, in a few "
    "minutes; paper: the same with its full 90,000 steps, most of an hour."
)
PROBLEMS = {
    "boundary-flux": Problem(
        "where a chemical enters a channel, from 30 noisy sensors, beside the exact posterior",
        "quick: both prior means, VE, ODE, noise 1, in a few minutes; paper: prior mean 2, eight noise levels from 0 "
        "to 1000, VE and VP(2), ODE and SDE, in most of an hour; published: three noise levels by the source paper's "
        "own recipe on 100 test cases, in hours.",
        partial(_flux, "boundary_flux", "BoundaryFlux"),
    ),
    "boundary-flux-sensors": Problem(
        "the same channel where each sensor may be off: one model for every layout of sensors",
        "quick: VE, ODE, noise 1, in a few minutes; paper: seven noise levels, VE and VP(2), ODE and SDE, in an hour.",
        partial(_flux, "boundary_flux_sensors", "BoundaryFluxSensors"),
    ),
    "boundary-flux-reaction": Problem(
        "the same channel with growth: a nonlinear model, beside Markov chains and the Laplace approximation",
        "quick: VE, ODE, one noise level, 40,000 simulations, in some minutes; paper: seven noise levels, ODE and SDE, "
        "in hours.",
        partial(_flux, "boundary_flux_reaction", "BoundaryFluxReaction"),
    ),
    **{
        f"density-{name}": Problem(
            f"a conditional density with {what}, beside the exact one and the published numbers",
            _DENSITY_PRESETS,
            partial(_density, name),
        )
        for name, what in {"tanh": "a sharp edge", "bimodal": "two modes", "spiral": "one to four modes"}.items()
    },
}
OUT_HELP = "Folder of the run; a run that was interrupted there continues."
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
            width = max(map(len, PROBLEMS))
            for name, problem in PROBLEMS.items():
                print(f"{name:{width}s}  {problem.line}")
        case ["problems" | "--version" as name, other, *_]:
            raise InputError(f"{name}: got {other!r}, nothing more is accepted")
        case ["run", name, *options] if name in PROBLEMS:
            _run(name, options)
        case ["run", *rest]:
            got = repr(rest[0]) if rest else "nothing"
            raise InputError(f"problem: got {got}, one of {', '.join(PROBLEMS)} is accepted")
        case ["report", *options]:
            _report(options)
        case [other, *_]:
            raise InputError(f"command: got {other!r}, one of run, report, problems is accepted")
    return 0


@dataclass(frozen=True)
class Report:
    """Make the figures and the page of a run again."""

    directory: Path
    """Folder of the run."""


def _run(name: str, options: list[str]) -> None:
    import tyro

    problem, parts = PROBLEMS[name], PROBLEMS[name].parts()
    preset = _value_of("--preset", options, next(iter(parts.presets)))
    if preset not in parts.presets:
        raise InputError(f"preset: got {preset!r}, one of {', '.join(parts.presets)} is accepted")

    # Made here, so that `fokker problems` does not need the parser.
    told = tyro.conf.arg
    Output = make_dataclass(
        "Output",
        [
            ("preset", Annotated[str, told(help=problem.presets)], preset),
            ("out", Annotated[Path, told(help=OUT_HELP)], Path(f"runs/{name}")),
            ("quiet", Annotated[bool, told(help="No progress bars.")], False),
        ],
    )
    flat = tyro.conf.OmitArgPrefixes
    groups: dict[str, Any] = {"output": Output(), "problem": parts.presets[preset]}
    if parts.compute is not None:
        groups["compute"] = parts.compute
    Run = make_dataclass("Run", [(group, flat[type(default)]) for group, default in groups.items()])
    Run.__doc__ = f"{name}: {problem.line}."
    asked = _parse(Run, options, f"fokker run {name}", Run(**groups))
    if asked is None:
        return
    with _bars(asked.output.quiet) as progress:

        def report(out: Path) -> None:
            progress("report", 0, 1)
            parts.write(out)
            progress("report", 1, 1)

        more = {} if parts.compute is None else {"compute": asked.compute}
        metrics = parts.run(asked.problem, asked.output.out, progress, report, **more)
    for line in parts.summary(asked.problem, metrics):
        print(line)
    print(f"report: {asked.output.out / 'report.html'}")


def _report(options: list[str]) -> None:
    from fokker.locks import locked
    from fokker.report.files import read_problem

    asked = _parse(Report, options, "fokker report", None, positional=True)
    if asked is None:
        return
    config = asked.directory / "config.json"
    if not config.is_file():
        raise InputError(f"{asked.directory}: holds no run, a folder that `fokker run` has made is accepted")
    name = read_problem(asked.directory)
    if name not in PROBLEMS:
        raise InputError(f"{config}: is of no problem here, a run of one of {', '.join(PROBLEMS)} is accepted")
    with locked(asked.directory):
        print(f"report: {PROBLEMS[name].parts().write(asked.directory)}")


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
