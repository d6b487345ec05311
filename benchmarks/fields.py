"""The runs of fields seen at a few points as they are committed: numbers, settings, figures, and a page.

    python benchmarks/fields.py run [--cache DIR] [--runs ...]     `fokker run FAMILY-field --preset paper`, resumable
    python benchmarks/fields.py collect [--cache DIR]              whatever is there

A RUN is called after its family, and its grid where that is not the preset's. `collect` writes
benchmarks/results/fields/RUN/ (metrics.json, config.json with versions, figures) and docs/fields.md.
"""

from __future__ import annotations

import argparse
import datetime
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from paper import machine

from fokker.problems.field_data import LARGEST
from fokker.problems.field_metrics import part_name
from fokker.problems.field_settings import EXACT, LABELS, METHODS, NETWORK, FieldRun
from fokker.problems.field_settings import RUNS as FAMILIES
from fokker.report import files
from fokker.report.field_figures import PUBLISHED
from fokker.report.field_verdict import verdict

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results" / "fields"
RUNS: dict[str, tuple[type[FieldRun], list[str]]] = {
    "poisson-field": (FAMILIES["poisson"], []),
    "poisson-field-128": (FAMILIES["poisson"], ["--n", "128", "--cases", "25"]),
    "helmholtz-field": (FAMILIES["helmholtz"], []),
    "helmholtz-field-128": (FAMILIES["helmholtz"], ["--n", "128", "--cases", "20"]),
    "warp-field": (FAMILIES["warp"], []),
    "threshold-field": (FAMILIES["threshold"], []),
}
PAGE = ROOT / "docs" / "fields.md"
FIGURES = ("errors", "coverage")

HEAD = """# Fields seen at a few points, beside the exact posterior

Written by `benchmarks/fields.py` from runs of `fokker run FAMILY-field --preset paper`: 100 fields each, 25 and 20 with
--n 128, seen at 3 % of the points of a grid (a different 3 % each), 64 samples of every posterior.

- `poisson-field`, `helmholtz-field`: Lap u + k^2 u = a, k = 0 or 1, u = 0 on the boundary, a ~ N(0, (-Lap + 9)^-2)
  with Neumann boundary. Inverse: u is seen, a wanted; forward: a is seen, u wanted. The posterior is Gaussian, known
  by fast transforms, and so is the error of its mean: the *limit* that no method can beat on average.
- `warp-field`: a monotone (exponential) function of such a field, seen directly. Exact by inversion.
- `threshold-field`: 3 where such a field is negative and 12 where it is positive, seen with 5 % noise. Exact by
  independent draws of the truncated Gaussian.

Errors are of the mean of all samples, relative in L2, and ratios are on the same cases: to the error of the exact mean,
and to the CRPS of as many exact samples. Published relative errors (inverse, forward) for 3 % of 128 x 128 points
without noise, in %: FunDPS 20.5, 2.0 for Poisson and 17.2, 2.1 for Helmholtz, DiffusionPDE 21.1, 4.9 and 19.1, 12.6.
They score a single sample, whose error is about sqrt(2) times that of the mean; ours on that grid stand beside them
below. Seconds are of the processor; on 64 x 64 of the clock, beside other work.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=("run", "collect"))
    parser.add_argument("--cache", type=Path, default=ROOT / ".bench" / "fields", help="folder of the runs")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=tuple(RUNS))
    given = parser.parse_args()
    if given.command == "run":
        for name in given.runs:
            program = [sys.executable, "-c", "from fokker.cli import main; main()"]
            kind, options = RUNS[name]
            words = ["run", f"{kind.family}-field", "--preset", "paper", *options, "--out", str(given.cache / name)]
            subprocess.run([*program, *words], check=True)
        return
    parts = [HEAD]
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
    """What is committed of a run: its numbers, and the figures that tell most."""
    to.mkdir(parents=True, exist_ok=True)
    settings, _ = settings_of(to.name, run)
    shown = [*FIGURES, part_name(*settings.parts()[0])]
    for name in ("metrics.json", "config.json", *(f"figures/{name}.png" for name in shown)):
        if (run / name).exists():
            shutil.copy(run / name, to / Path(name).name)


def settings_of(name: str, folder: Path) -> tuple[FieldRun, dict[str, str]]:
    """What the run in the folder was asked to do, and versions of packages."""
    kind, _ = RUNS[name]
    return files.read_settings(folder, f"{kind.family}-field", kind)


def section(name: str, folder: Path) -> Iterator[str]:
    """The table and the figures of one run."""
    settings, versions = settings_of(name, folder)
    metrics = files.read_metrics(folder)
    yield f"## {settings.family}-field, {settings.n} x {settings.n}, {settings.cases} cases\n"
    checks = verdict(settings, metrics, None)
    reached = [check.reached for check in checks if check.reached is not None]
    yield f"{sum(reached)} of {len(reached)} targets are reached{'.' if all(reached) else '; those that are not:'}\n"
    yield from (f"- {check.text}" for check in checks if check.reached is False)
    yield ""
    yield from table(settings, metrics)
    if settings.n == LARGEST and settings.family in PUBLISHED:
        yield from beside_published(settings, metrics)
    for path in sorted(folder.glob("*.png")):
        yield f"![{settings.family}-field, {path.stem}](../{path.relative_to(ROOT)})\n"
    told = ", ".join(f"{package} {number}" for package, number in versions.items())
    seconds = metrics["train.seconds"], metrics["sample.seconds"]
    yield f"Seconds of training {seconds[0]:.0f}, of all samples {seconds[1]:.0f}; {told}.\n"


def table(settings: FieldRun, metrics: Mapping[str, float]) -> Iterator[str]:
    """Error, ratios, coverage of 50, 80 and 95 % intervals, and seconds of every method."""
    yield "| task, noise | method | error, % | over the limit | CRPS over exact | coverage, % | seconds a case |"
    yield "|---" * 7 + "|"
    for task, noise in settings.parts():
        for method in METHODS:
            head = f"{settings.family}.{part_name(task, noise)}.{method}"
            inside = [metrics.get(f"{head}.coverage_{level}") for level in (50, 80, 95)]
            cells = [
                f"{task}, {100 * noise:g} %",
                LABELS[method],
                f"{metrics[f'{head}.error_percent']:.2f} ± {metrics[f'{head}.error_percent_se']:.2f}",
                f"{metrics[f'{head}.limit_ratio']:.3f}",
                f"{metrics[f'{head}.crps_ratio']:.3f}",
                "/".join("" if value is None else f"{100 * value:.1f}" for value in inside),
                f"{metrics[f'{head}.seconds']:.2f}",
            ]
            yield f"| {' | '.join(cells)} |"
    yield ""


def beside_published(settings: FieldRun, metrics: Mapping[str, float]) -> Iterator[str]:
    """Errors of the exact mean, of one of our samples and of the published ones, without noise."""
    tasks = PUBLISHED[settings.family]
    ours = {f"{LABELS[method]}, one sample": f"{method}.sample_error_percent" for method in (NETWORK, EXACT)}
    rows = {
        label: [metrics[f"{settings.family}.{part_name(task, 0.0)}.{name}"] for task in tasks]
        for label, name in ({"exact posterior mean, the limit": f"{EXACT}.limit_percent"} | ours).items()
    }
    for name in dict.fromkeys(name for found in tasks.values() for name in found):
        rows[f"{name}, published"] = [found.get(name, float("nan")) for found in tasks.values()]
    yield f"| relative error in %, no noise | {' | '.join(tasks)} |"
    yield "|---" * (1 + len(tasks)) + "|"
    for label, values in rows.items():
        yield f"| {label} | {' | '.join('–' if value != value else f'{value:.1f}' for value in values)} |"
    yield ""


if __name__ == "__main__":
    main()
