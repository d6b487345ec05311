"""The targets of the main job, measured: accuracy beside the exact posterior, seconds and memory, over three seeds.

Runs `fokker run boundary-flux --preset quick` once per seed (about four minutes each on two cores), and measures the
sampling loop against the bare network evaluations it contains. Writes benchmarks/results/foundation.json and
docs/results.md.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import fokker
from fokker.diagnostics.coverage import rank_coverage
from fokker.diagnostics.scores import crps
from fokker.samplers.loop import CHUNK

SEEDS = (0, 1, 2)
RESULT = Path(__file__).parent / "results" / "foundation.json"
PAGE = Path(__file__).parent.parent / "docs" / "results.md"
CASES = ("mean2", "mean0.3")


def main() -> None:
    """Measure everything and write the JSON."""
    with tempfile.TemporaryDirectory() as folder:
        runs = [quick(Path(folder) / f"seed{seed}", seed) for seed in SEEDS]
        model = Path(folder) / "seed0" / "models" / "mean0.3-noise1"
        result = {
            "date": datetime.date.today().isoformat(),
            "machine": {"cpu": cpu(), "cores": os.cpu_count()},
            "versions": {"python": platform.python_version()}
            | {name: version(name) for name in ("fokker", "torch", "numpy", "scipy", "scikit-fem")},
            "quick_preset": dict(zip(map(str, SEEDS), runs)),
            "loop_over_bare_network": loop_overhead(model),
            "steps": steps_table(model, Path(folder) / "seed0"),
        }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    PAGE.write_text(page(result))
    print(PAGE.read_text())


def page(result: dict[str, Any]) -> str:
    """The numbers as Markdown, each beside its target."""
    runs = result["quick_preset"]
    rows: list[tuple[str, str, list[str], bool]] = []

    def row(name: str, target: str, values: list[float], digits: str, reached: bool) -> None:
        rows.append((name, target, [format(v, digits) for v in values], reached))

    titles = (("mean2", "prior mean 2", 1.02), ("mean0.3", "prior mean 0.3", 1.05))
    for case, title, limit in titles:
        of = [run[case] for run in runs.values()]
        for key, label in (("error_over_exact", "error"), ("crps_over_exact", "CRPS")):
            values = [r[key] for r in of]
            bound = limit if case == "mean0.3" or key == "error_over_exact" else None
            target = "none" if bound is None else f"<= {bound}"
            row(f"{title}: {label} over exact", target, values, ".4f", bound is None or max(values) <= bound)
        worst = [max(r["coverage_minus_exact_points"].values(), key=abs) for r in of]
        row(f"{title}: coverage minus exact's, worst level, points", "+-2", worst, "+.1f", max(map(abs, worst)) <= 2)
        z = [r["crps_z_against_no_network"] for r in of]
        row(f"{title}: CRPS against no network, paired z", "> 5" if case == "mean0.3" else "none", z, ".1f",
            case == "mean2" or min(z) > 5)  # fmt: skip
        seconds = [r["train_seconds"] for r in of]
        longest = 60 if case == "mean2" else 150
        row(f"{title}: training, s on one core", f"<= {longest}", seconds, ".0f", max(seconds) <= longest)
        seconds = [r["sample_1000x1000_seconds"] for r in of]
        row(f"{title}: 1,000 x 1,000 samples, s", "<= 60", seconds, ".0f", max(seconds) <= 60)
        unresolved = [r["unresolved_reference_cases"] for r in of]
        row(f"{title}: reference cases of 200 not resolved", "reported", unresolved, ".0f", True)
    simulated = [run["mean2"]["simulate_seconds"] for run in runs.values()]
    row("10,000 simulations with assembly, s", "<= 5", simulated, ".2f", max(simulated) <= 5)
    memory = [run["peak_gib"] for run in runs.values()]
    row("largest process, GiB", "< 3", memory, ".2f", max(memory) < 3)
    total = [run["seconds"] for run in runs.values()]
    row("whole preset, s", "<= 480", total, ".0f", max(total) <= 480)
    machine = f"{result['machine']['cpu']}, {result['machine']['cores']} cores, {result['date']}"
    lines = [
        "# Results",
        "",
        f"Written by `benchmarks/foundation.py` ({machine}); all numbers are in `benchmarks/results/foundation.json`.",
        "",
        "## `fokker run boundary-flux --preset quick`, VE, ODE, noise 1",
        "",
        "| | target | " + " | ".join(f"seed {seed}" for seed in runs) + " | reached |",
        "|---|---|" + "---|" * (len(runs) + 1),
    ]
    for name, target, values, ok in rows:
        reached = "" if target in ("none", "reported") else "yes" if ok else "**no**"
        lines.append(f"| {name} | {target} | {' | '.join(values)} | {reached} |")
    loop = result["loop_over_bare_network"]
    lines += [
        "",
        f"The sampling loop takes {loop['ratio']:.2f} times the bare network evaluations in it "
        f"({loop['rows']:,} rows, {loop['levels']} levels, median of five pairs in turn).",
        "",
        "## Steps",
        "",
        "Prior mean 0.3, one trained model, 200 test cases, 300 samples each. `gaussian_transition` is exact for",
        "Gaussian data, `transition` for a point (DDIM for alpha 0, DDPM for alpha 1); both are of second",
        f"order. `exact` has an error of {next(iter(runs.values()))['mean0.3']['error_percent']['exact']:.2f} %.",
        "",
        "| sampler | alpha | levels | error, % | CRPS | coverage of 50 % | s |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {r['name']} | {r['alpha']:g} | {r['steps']} | {r['error_percent']:.2f} | {r['crps']:.4f} | "
        f"{100 * r['coverage_50']:.1f} | {r['seconds']:.1f} |"
        for r in result["steps"]
    ]
    return "\n".join(lines) + "\n"


def cpu() -> str:
    """The processor's model name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def quick(out: Path, seed: int) -> dict[str, Any]:
    """One run of the preset: ratios to the exact posterior on the same cases, differences of coverage, seconds."""
    program = Path(sys.executable).parent / "fokker"
    started = time.perf_counter()
    subprocess.run([program, "run", "boundary-flux", "--out", out, "--seed", str(seed), "--quiet"], check=True)
    seconds = time.perf_counter() - started
    metrics = json.loads((out / "metrics.json").read_text())
    row: dict[str, Any] = {
        "seconds": seconds,
        # The largest single process so far; the runs are alike, so the first one's figure is every one's.
        "peak_gib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20,
    }
    for case in CASES:

        def of(method: str, name: str, case: str = case) -> float:
            return metrics[f"{case}.{method}.noise=1.{name}"]

        row[case] = {
            "error_percent": {m: of(m, "error_percent") for m in ("ve.ode", "exact", "no_network")},
            "crps": {m: of(m, "crps") for m in ("ve.ode", "exact", "no_network")},
            "error_over_exact": of("ve.ode", "error_percent") / of("exact", "error_percent"),
            "crps_over_exact": of("ve.ode", "crps") / of("exact", "crps"),
            "coverage_minus_exact_points": {
                level: 100 * (of("ve.ode", f"coverage_{level}") - of("exact", f"coverage_{level}"))
                for level in (50, 80, 95)
            },
            "crps_z_against_no_network": of("ve.ode", "crps_z"),
            "unresolved_reference_cases": of("exact", "unresolved"),
            "train_seconds": metrics[f"{case}.train.noise=1.seconds"],
            "sample_1000x1000_seconds": metrics[f"{case}.sample.noise=1.seconds"],
            "simulate_seconds": metrics[f"{case}.simulate.seconds"],
            "reference_seconds": of("exact", "seconds"),
        }
    return row


def loop_overhead(folder: Path, pairs: int = 5) -> dict[str, float]:
    """Seconds of `sample` over seconds of the bare network forward passes in it, in turn; the median of the ratios."""
    model, levels, rows = fokker.load(folder).model, 16, 10_000
    embedding = model.prepare({"y": torch.randn(10, 30).double()})["embedding"].detach().repeat_interleave(1000, 0)
    z, level = torch.randn(rows, 30), torch.zeros(1)
    ratios, loops = [], []
    for _ in range(pairs + 1):
        started = time.perf_counter()
        sampler = fokker.GaussianTransition()
        fokker.sample(model, (rows, 30), sampler=sampler, steps=levels, cond={"embedding": embedding})
        loop = time.perf_counter() - started
        started = time.perf_counter()
        with torch.no_grad():
            for _ in range(levels):
                for start in range(0, rows, CHUNK):
                    model.network(z[start : start + CHUNK], level, embedding[start : start + CHUNK])
        ratios.append(loop / (time.perf_counter() - started))
        loops.append(loop)
    middle = sorted(ratios[1:])[pairs // 2]  # the first pair warms up
    return {"ratio": middle, "seconds": sorted(loops[1:])[pairs // 2], "rows": rows, "levels": levels}


def steps_table(model: Path, out: Path) -> list[dict[str, Any]]:
    """Error, CRPS and seconds on 200 test cases x 300 samples, for two samplers and numbers of levels."""
    from fokker.problems.boundary_flux import BoundaryFlux
    from fokker.problems.flux_tests import test_sets
    from fokker.simulation.store import simulate

    run = BoundaryFlux()
    case = next(c for c in run.cases() if c.mean == 0.3)
    place = out / "simulations.zarr" / "mean0.3-test"  # as the run has left it
    cases = test_sets(case, simulate(run.simulator(0.3), run.test_rows, place, seed=2**32, chunk=1000))[0]
    posterior, rows = fokker.load(model), []
    truth, y = cases.x[:200], cases.y[:200]
    for sampler in (
        fokker.GaussianTransition(),
        fokker.Transition(order=2),
        fokker.GaussianTransition(1.0),
        fokker.Transition(1.0, order=2),
    ):
        for steps in (8, 16, 32, 64):
            drawn = posterior.sample(y, 300, 1, sampler=sampler, steps=steps)
            rows.append(
                {
                    **sampler.settings(),
                    "steps": steps,
                    "error_percent": 100 * float(abs(drawn.mean().numpy() - truth).mean() / truth.mean()),
                    "crps": float(crps(drawn.samples.numpy(), truth).mean()),
                    "coverage_50": float(rank_coverage(drawn.samples.numpy(), truth, 0.5)[0]),
                    "seconds": drawn.seconds,
                }
            )
    return rows


if __name__ == "__main__":
    main()
