"""The runs of the source paper's physics as they are committed: numbers, settings, figures, and a page.

    python benchmarks/paper.py run [--cache DIR] [--runs ...]         `fokker run PROBLEM --preset ...`, resumable
    python benchmarks/paper.py collect [--cache DIR]                  whatever is there

`collect` writes benchmarks/results/paper/RUN/ (metrics.json, config.json with versions, figures) and docs/paper.md.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from fokker.posterior import recipes
from fokker.problems.boundary_flux import BoundaryFlux
from fokker.problems.boundary_flux_reaction import BoundaryFluxReaction
from fokker.problems.boundary_flux_sensors import COUNTS, BoundaryFluxSensors
from fokker.problems.flux_metrics import head
from fokker.problems.flux_settings import FluxRun
from fokker.report import files
from fokker.report.flux_verdict import verdict

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "paper"
PAGE = ROOT / "docs" / "paper.md"
PUBLISHED = "boundary-flux-published"
RUNS: dict[str, tuple[type[FluxRun], str]] = {
    **{kind.problem: (kind, "paper") for kind in (BoundaryFlux, BoundaryFluxSensors, BoundaryFluxReaction)},
    PUBLISHED: (BoundaryFlux, "published"),
}
FIGURES = ("noise-mean2", "noise-error-mean2", "noise-std-mean2", "sensors")

HEAD = """# The source paper's physics, point by point

Written by `benchmarks/paper.py` from runs of `fokker run PROBLEM --preset paper` and, last, of `--preset published`,
the paper's own recipe. The paper is Dasgupta et al. 2025 (arXiv 2504.07437), section 6. Our copy of it has lost
kappa, the noise levels and the convention of the flux: these are our choices (kappa = 1/30 in the linear channel, 4
in the one with growth, the same Peclet number in both), so curves can be compared, single numbers with care. Errors
are the mean over test cases of |E[q given y] - q| over the mean flux. How atoms are spread (chi_5 where y tells much)
was chosen among nine ways on the reference cases of growth at noise 0.005 and of prior mean 0.3, seed 0, and that
they are spread less where y tells little on coverage at noise 50 and 1000 of the linear problem: these numbers are of
cases that took part in the choice; the other noise levels did not.
`no_network` has its coordinates from spread atoms too; from the fluxes as they are its CRPS
was 0.2 % lower when that was measured, before atoms were spread less where y tells little.
"""
POINTS = (
    (
        "VE and VP(2) give the same errors",
        "one model serves both; on one grid of noise levels their samples are equal to rounding",
        "yes, and why: they are one heat flow in other coordinates",
    ),
    (
        "5.9 % error without noise",
        "far below 0.05 %: the flux follows from 30 sensors, and posterior coordinates know that",
        "no: 5.9 % is the error of a network, not of the problem",
    ),
    ("the first segments are the worst", "the first and the last, where sensors say least", "yes"),
    (
        "one posterior standard deviation holds the truth in most cases",
        "coverage of 50, 80 and 95 % intervals beside the exact posterior's",
        "yes, and now by how much",
    ),
    (
        "with large noise the posterior becomes the prior",
        "noise 1000: error and standard deviation of the prior",
        "yes",
    ),
    (
        "sensors that are off read -1",
        "missing in the coordinates, and the network is told; -1 is there to compare (`--encoding minus-one`)",
        "differs: beside each layout's exact posterior",
    ),
    ("growth in the channel, by the same method", "beside Markov chains through the same solver", "yes"),
)
TAIL = """
The paper shows no exact posterior, no baseline without a network and no calibration; every number below has them.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "collect"))
    parser.add_argument("--cache", type=Path, default=ROOT / ".bench" / "paper", help="folder of the runs")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=tuple(RUNS))
    given = parser.parse_args()
    if given.command == "run":
        for name in given.runs:
            kind, preset = RUNS[name]
            program = [sys.executable, "-c", "from fokker.cli import main; main()"]
            words = ["run", kind.problem, "--preset", preset, "--out", str(given.cache / name)]
            subprocess.run([*program, *words], check=True)
        return
    rows = [f"| {' | '.join(point)} |" for point in POINTS]
    parts = [HEAD, "| the paper | here | agrees? |", "|---|---|---|", *rows, TAIL]
    for name in RUNS:
        run = given.cache / name
        if (run / "report.html").exists():
            keep(run, RESULTS / name)
        if (RESULTS / name / "metrics.json").exists():
            parts += section(name, RESULTS / name)
    parts.append(f"{machine()}; {datetime.date.today().isoformat()}.")
    PAGE.write_text("\n".join(parts) + "\n")
    print(PAGE.read_text())


def keep(run: Path, to: Path) -> None:
    """What is committed of a run."""
    to.mkdir(parents=True, exist_ok=True)
    kind, _ = RUNS[to.name]
    settings, _ = files.read_settings(run, kind.problem, kind)
    shown = [*FIGURES, f"posterior-{telling(settings)}"]
    names = ["metrics.json", "config.json", *(f"figures/{name}.png" for name in shown)]
    for name in names:
        if (run / name).exists():
            shutil.copy(run / name, to / Path(name).name)


def telling(settings: FluxRun) -> str:
    """The case whose three test cases are shown: the second noise level above zero, or the only one."""
    cases = [case for case in settings.cases() if case.noise > 0]
    return cases[min(1, len(cases) - 1)].folder


def section(name: str, folder: Path) -> Iterator[str]:
    """The tables and figures of one run."""
    kind, preset = RUNS[name]
    settings, versions = files.read_settings(folder, kind.problem, kind)
    metrics = files.read_metrics(folder)
    yield f"## {kind.problem}{'' if preset == 'paper' else ', ' + preset}\n"
    if name == PUBLISHED:
        yield from beside_published(settings, metrics)
    checks = [check for case in settings.cases() for check in verdict(case, metrics)]
    reached = [check.reached for check in checks if check.reached is not None]
    yield f"{sum(reached)} of {len(reached)} targets are reached{'.' if all(reached) else '; those that are not:'}\n"
    for case in settings.cases():
        yield from (f"- {case.title}: {check.text}" for check in verdict(case, metrics) if check.reached is False)
    yield ""
    yield from table(settings, metrics)
    if kind is BoundaryFluxSensors:
        yield from counts(settings, metrics)
    for path in sorted(folder.glob("*.png")):
        yield f"![{name}, {path.stem}](../{path.relative_to(ROOT)})\n"
    told = ", ".join(f"{name} {number}" for name, number in versions.items())
    training, sampling = metrics["train.seconds"], metrics["sample.seconds"]
    yield f"Seconds of all trainings {training:.0f}, of all samples {sampling:.0f}; {told}.\n"


def beside_published(settings: FluxRun, metrics: Mapping[str, float]) -> Iterator[str]:
    """What the paper's recipe gives here, beside what the paper says of it."""
    case = next(case for case in settings.cases() if case.noise == 0)
    found, exact = (metrics[f"{head(case, name)}.error_percent"] for name in (case.methods[0].name, "exact"))
    steps = recipes.PUBLISHED.training.steps
    ours = files.read_metrics(RESULTS / BoundaryFlux.problem)[f"{head(case, case.methods[0].name)}.error_percent"]
    yield (
        f"The paper's recipe as it is: noise prediction, x and y between 0 and 1, 10,000 epochs of 9,000 pairs "
        f"({steps:,} steps of 1,000), 500 Euler steps, a model for each noise level; the width of the network (256) "
        f"is our guess. Without noise its error is {found:.2g} % of the mean flux (the paper: 5.9 %; exact: "
        f"{exact:.1g} %; the default recipe, on its own cases: {ours:.1g} %): a network that looks for what thirty "
        "linear equations say. The targets below are those of the default recipe.\n"
    )


def table(settings: FluxRun, metrics: Mapping[str, float]) -> Iterator[str]:
    """Error, CRPS and coverage against the noise, of every method."""
    names = [method.name for method in settings.cases()[0].methods]
    shown = [*names, "exact", "no_network", *settings.competitors]
    yield "Error, % of the mean flux, on the test cases with an exact posterior:\n"
    yield f"| noise | {' | '.join(shown)} | worst over exact |"
    yield "|---" * (len(shown) + 2) + "|"
    for case in settings.cases():
        values = [metrics.get(f"{head(case, name)}.error_percent") for name in shown]
        exact = metrics.get(f"{head(case, 'exact')}.error_percent", 0.0)
        ratio = f"{max(v for v in values[: len(names)] if v is not None) / exact:.3f}" if exact > 1e-6 else ""
        cells = " | ".join("" if value is None else f"{value:.3g}" for value in values)
        yield f"| {case.noise:g} | {cells} | {ratio} |"
    yield "\nCoverage of 50/80/95 % intervals, in %; deviations of calibration over all test cases:\n"
    yield f"| noise | {names[0]} | exact | no_network | SBC | TARP, prior | TARP, from y | CRPS below no_network, z |"
    yield "|---" * 8 + "|"
    for case in settings.cases():
        inside = []
        for name in (names[0], "exact", "no_network"):
            found = [metrics.get(f"{head(case, name)}.coverage_{level}") for level in (50, 80, 95)]
            inside.append("/".join("" if value is None else f"{100 * value:.1f}" for value in found))
        keys = ("sbc_deviation_all", "tarp_deviation_all", "tarp_from_y_deviation_all")
        rest = [metrics.get(f"{head(case, names[0])}.{key}") for key in keys]
        z = metrics.get(f"{head(case, names[0])}.crps_z")
        cells = [*inside, *("" if value is None else f"{value:.3f}" for value in rest), "" if z is None else f"{z:.1f}"]
        yield f"| {case.noise:g} | {' | '.join(cells)} |"
    if settings.competitors:
        yield from distances(settings, metrics)
    yield ""


def distances(settings: FluxRun, metrics: Mapping[str, float]) -> Iterator[str]:
    """Means and spreads against the Markov chains."""
    names = [settings.cases()[0].methods[0].name, "no_network", *settings.competitors]
    yield "\nAgainst the Markov chains: distance of the means in exact standard deviations, ratio of spreads:\n"
    yield f"| noise | cases resolved | {' | '.join(names)} | CRPS: {' / '.join([*names, 'exact'])} |"
    yield "|---" * (len(names) + 3) + "|"
    for case in settings.cases():
        pairs = [[metrics.get(f"{head(case, n)}.{k}") for k in ("mean_distance", "std_ratio")] for n in names]
        cells = [" / ".join("" if v is None else f"{v:.3f}" for v in pair) for pair in pairs]
        crps = [metrics.get(f"{head(case, name)}.crps") for name in (*names, "exact")]
        cells.append(" / ".join("" if value is None else f"{value:.5f}" for value in crps))
        resolved = metrics[f"{head(case, 'exact')}.cases"]
        yield f"| {case.noise:g} | {resolved:g} | {' | '.join(cells)} |"


def counts(settings: FluxRun, metrics: Mapping[str, float]) -> Iterator[str]:
    """Against the number of working sensors."""
    assert isinstance(settings, BoundaryFluxSensors)
    case = next(case for case in settings.cases() if case.noise == settings.shown_noise)
    names = [case.methods[0].name, "exact", "no_network"]
    yield f"\nAt noise {case.noise:g}, by the number of working sensors (errors in %, coverage in %):\n"
    yield f"| sensors on | {' | '.join(names)} | over exact | coverage | exact's |"
    yield "|---" * 7 + "|"
    ratios = []
    for count in COUNTS:
        keys = [head(case, name, f"sensors={count}") for name in names]
        errors = [metrics[f"{key}.error_percent"] for key in keys]
        ratios += [errors[0] / errors[1]] if count >= 10 else []
        inside = ["/".join(f"{100 * metrics[f'{key}.coverage_{v}']:.1f}" for v in (50, 80, 95)) for key in keys[:2]]
        rare = " (hardly any in the training)" if settings.extrapolates(count) else ""
        cells = " | ".join(f"{error:.2f}" for error in errors)
        yield f"| {count}{rare} | {cells} | {errors[0] / errors[1]:.3f} | {' | '.join(inside)} |"
    yield f"\nMean of the ratios over 10 to 30 sensors: {sum(ratios) / len(ratios):.3f} (target 1.03).\n"


def machine() -> str:
    """The processor's name and the number of cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown processor")
    return f"{name}, {os.cpu_count()} cores"


if __name__ == "__main__":
    main()
