"""What there is to run: problems by name, `fokker run` and `fokker report`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, make_dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from fokker.cli import options as given
from fokker.errors import InputError


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


def _battery() -> Parts:
    from fokker.problems import battery_run, battery_summary
    from fokker.report import battery_page

    kind = battery_run.GuidanceBattery
    return Parts(kind, kind.presets(), battery_run.run, battery_page.write, battery_summary.summary_lines)


def _digits() -> Parts:
    from fokker.problems import digits_metrics, digits_run
    from fokker.problems.digits_settings import DigitsRun
    from fokker.report import digits_page

    return Parts(DigitsRun, DigitsRun.presets(), digits_run.run, digits_page.write, digits_metrics.summary_lines)


def _regression() -> Parts:
    from fokker.problems import regression_metrics, regression_run
    from fokker.problems.regression_settings import RegressionRun
    from fokker.report import regression_page

    presets, lines = RegressionRun.presets(), regression_metrics.summary_lines
    return Parts(RegressionRun, presets, regression_run.run, regression_page.write, lines)


def _fields(family: str) -> Parts:
    from fokker.problems import field_metrics, field_run
    from fokker.problems.field_settings import RUNS
    from fokker.report import field_page

    kind = RUNS[family]
    return Parts(kind, kind.presets(), field_run.run, partial(field_page.write, kind), field_metrics.summary_lines)


_FIELD_PRESETS = (
    "quick: 20 cases on 32 x 32, in a few minutes; paper: 100 cases, of the equations on 64 x 64. Where the package "
    "has no weights for a grid, a training comes first: it has them for 32, and for 64 and 128 of the equations."
)
_DENSITY_PRESETS = (
    "quick: both recipes, VE and VP(2), ODE and SDE, the published recipe's training cut to 4,000 steps, in ten "
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
    "guidance-battery": Problem(
        "every guided posterior beside the exact one: which method for which problem, and how wrong each is",
        "quick: eight cases in a few minutes; paper: 40 cases with more steps, sampled twice, in most of an hour.",
        _battery,
    ),
    "digits": Problem(
        "handwritten digits from hidden pixels, blur and counts, by a learned prior and known operators",
        "quick: 64 images, 39 samples of each, in a few minutes; paper: 200 images, 99 samples, 1,024 particles, in "
        "most of half an hour.",
        _digits,
    ),
    "regression-1d": Problem(
        "functions of one variable from scattered noisy points, beside the exact posterior",
        "quick: three families, 100 functions each, with weights of the package, in about three minutes; paper: "
        "400 functions, twice the levels.",
        _regression,
    ),
    **{
        f"{family}-field": Problem(f"{what}, beside the exact posterior", _FIELD_PRESETS, partial(_fields, family))
        for family, what in {
            "poisson": "source or solution of Poisson's equation from 3 % of the grid",
            "helmholtz": "the same of the Helmholtz equation",
            "warp": "a log-normal field from 3 % of its values",
            "threshold": "a field of two values from 3 % of them",
        }.items()
    },
}
OUT_HELP = "Folder of the run; a run that was interrupted there continues."


@dataclass(frozen=True)
class Report:
    """Make the figures and the page of a run again."""

    directory: Path
    """Folder of the run."""


def run(name: str, options: list[str]) -> None:
    """`fokker run`."""
    import tyro

    problem, parts = PROBLEMS[name], PROBLEMS[name].parts()
    preset = given.value_of("--preset", options, next(iter(parts.presets)))
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
    asked = given.parse(Run, options, f"fokker run {name}", Run(**groups))
    if asked is None:
        return
    with given.bars(asked.output.quiet) as progress, given.warnings_as_lines():

        def write_report(out: Path) -> None:
            progress("report", 0, 1)
            parts.write(out)
            progress("report", 1, 1)

        more = {} if parts.compute is None else {"compute": asked.compute}
        metrics = parts.run(asked.problem, asked.output.out, progress, write_report, **more)
    for line in parts.summary(asked.problem, metrics):
        print(line)
    print(f"report: {asked.output.out / 'report.html'}")


def report(options: list[str]) -> None:
    """`fokker report`."""
    from fokker.locks import locked
    from fokker.report.files import read_problem

    asked = given.parse(Report, options, "fokker report", None, positional=True)
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
