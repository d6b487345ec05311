"""The default recipe on the three densities, beside the targets: W1 and KS over seeds, seconds, and the loop's cost.

Training is on one thread. Every seed draws its own 10,000 pairs. Writes benchmarks/results/density_targets.json and
docs/densities.md.
"""

from __future__ import annotations

import datetime
import json
import os
import platform
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fokker
from fokker.diagnostics.optimal_transport import kolmogorov_smirnov, wasserstein_1d
from fokker.posterior.conditional import ConditionalPosterior
from fokker.problems.densities import DENSITY, Density
from fokker.problems.density_metrics import exact_draws, training_pairs
from fokker.problems.density_settings import RUNS, DensityRun

SEEDS = (6, 7, 8)  # the recipe was chosen on others
TARGETS = {"tanh": (0.020, 0.035), "bimodal": (0.025, 0.025), "spiral": (0.017, 0.022)}
METHODS = {"ve.ode": ("ve", 0.0), "ve.sde": ("ve", 1.0), "vp2.ode": ("vp2", 0.0), "vp2.sde": ("vp2", 1.0)}
RESULT = Path(__file__).parent / "results" / "density_targets.json"
PAGE = Path(__file__).parent.parent / "docs" / "densities.md"

LOOP_TARGET = 1.1
TRIED = """## What limits the spiral

Its target is not reached. These figures are W1 of the ODE, means over three sets of pairs (two where marked *, one
where marked **), noted while the recipe was sought: about 2,000 steps of 1,024 rows, networks of its size,
mostly with sines and cosines of x and y as inputs, which it no longer has. Rows are to be compared within 0.003,
and learning rates and noise levels differ between some of them:

| tried | W1 |
|---|---|
| conditions as biases only | .038 to .051 |
| conditions also as gains | .028 |
| the same with sines and cosines of x and y as inputs (bimodal then gets worse, .022 -> .030) | .027 to .030 |
| four such networks averaged | .027 against .029 |
| 6,000 steps instead of 2,000* | .031: it over-fits |
| 200,000 pairs instead of 10,000, 2,000 steps* and 6,000 steps** | .021 and .014 |
| weight decay 0.1 / 0.5 / 3 | .030 / .040 / .084 |
| dropout in the trunk, 0.1 | .041 |
| width 32 instead of 64 | .034 |
| noise of 0.03 / 0.06 added to y in training | .027 / .036 |
| more training at high noise levels | .028 to .031 |
| Muon instead of AdamW for the matrices* | .033 |
| exact denoiser above 0.7 standard deviations of noise, network below | .022 |
| network above, exact denoiser below | .022 |

Averaging networks hardly helps, more pairs do, and more steps from the same pairs make it worse: the error is that of
10,000 pairs, chiefly in how much probability each mode gets. A local polynomial regression of the distribution
function on y, with the degree and the bandwidth that are best in hindsight, has .027 on the same data. The last two
rows were drawn with 3,000 samples, for which an exact denoiser has .014."""


def main() -> None:
    """Measure everything and write the JSON and the page."""
    torch.set_num_threads(1)
    runs = {name: [one(RUNS[name](seed=seed)) for seed in SEEDS] for name in TARGETS}
    result = {
        "date": datetime.date.today().isoformat(),
        "machine": {"cpu": cpu(), "cores": os.cpu_count(), "threads": 1},
        "versions": {"python": platform.python_version()}
        | {name: version(name) for name in ("fokker", "torch", "numpy", "scipy")},
        "recipe": DENSITY.settings(),
        "densities": runs,
        "floor": {name: floor(RUNS[name]()) for name in TARGETS},
        "loop_over_bare_network": {f"d={d}, width {w}": loop_overhead(d, w) for d, w in ((1, 64), (1, 128), (30, 128))},
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    PAGE.write_text(page(result))
    print(PAGE.read_text())


def one(run: DensityRun) -> dict[str, Any]:
    """One training and its draws."""
    x, y = training_pairs(run)
    records: list[Any] = []
    clock, cpu_clock = time.perf_counter(), time.process_time()
    posterior = fokker.fit(x, y, recipe=DENSITY, seed=run.seed, progress=records.append)
    out: dict[str, Any] = {
        "train_seconds": time.perf_counter() - clock,
        "train_cpu_seconds": time.process_time() - cpu_clock,
        "steps": records[-1].step,
        "best_step": records[-1].best_step,
    }
    for name, (process, alpha) in METHODS.items():
        moved = posterior.on(run.build_process(process, "default"))
        out[name] = draw(run, moved, replace(DENSITY.sampler, alpha=alpha))  # type: ignore[type-var]
    print(run.density, run.seed, {k: v for k, v in out.items() if k != "vp2.ode"}, flush=True)
    return out


def floor(run: DensityRun, repetitions: int = 20) -> tuple[float, float]:
    """Mean W1 and KS of as many exact samples."""
    found = [distances(run, exact_draws(run, repetition)) for repetition in range(repetitions)]
    w1, ks = np.mean(found, axis=0)
    return float(w1), float(ks)


def distances(run: DensityRun, samples: np.ndarray) -> tuple[float, float]:
    """W1 and KS of samples (4, draws), means over the four y."""
    law: Density = run.law
    w1, ks = [], []
    for at, x in zip(law.y_values, samples):
        w1.append(wasserstein_1d(x, lambda v, at=at: law.cdf(v, at), law.support(at)))
        ks.append(kolmogorov_smirnov(x, lambda v, at=at: law.cdf(v, at)))
    return float(np.mean(w1)), float(np.mean(ks))


def draw(run: DensityRun, posterior: ConditionalPosterior, sampler: Any) -> dict[str, float]:
    """W1 and KS, means over the four y, of 10,000 draws each."""
    clock = time.perf_counter()
    y = np.array(run.law.y_values)[:, None]
    drawn = posterior.sample(y, run.draws, seed=run.seed, sampler=sampler)
    seconds = time.perf_counter() - clock
    w1, ks = distances(run, drawn.samples[..., 0].double().numpy())
    return {"w1": w1, "ks": ks, "seconds": seconds, "nfe": drawn.nfe}


class Timed(torch.nn.Module):
    """A network that adds up the seconds spent in it."""

    def __init__(self, network: Any):
        super().__init__()
        self.network, self.seconds = network, 0.0

    def embed(self, features: torch.Tensor) -> torch.Tensor:
        return self.network.embed(features)

    def forward(self, *given: torch.Tensor) -> torch.Tensor:
        clock = time.perf_counter()
        value = self.network(*given)
        self.seconds += time.perf_counter() - clock
        return value


def loop_overhead(size: int, width: int, rows: int = 10_000, steps: int = 16) -> dict[str, float]:
    """Seconds of `fokker.sample` over those of its forward passes, medians of 15, all in one run.

    "inside": over those spent in the forward passes that it makes itself, a chunk of rows at a time. "bare": over as
    many forward passes of the whole batch at once, which is how they would be made without the loop.
    """
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2000, size))
    network = {"kind": "conditional_mlp", "width": width, "depth": 3, "trunk_width": 64, "trunk_depth": 2}
    recipe = replace(DENSITY, network=network, training=replace(DENSITY.training, steps=5))
    model = fokker.fit(x, x + 0.3 * rng.standard_normal(x.shape), recipe=recipe).model
    model.network = timed = Timed(model.network)
    cond, z, level = torch.zeros(1, size), torch.randn(rows, size), torch.zeros(1)
    embedding = model.prepare(cond)["embedding"].detach().expand(rows, -1)
    out = {}
    for name, sampler in {
        "GaussianTransition, ode": fokker.GaussianTransition(),
        "GaussianTransition, sde": fokker.GaussianTransition(alpha=1.0),
        "Transition, ode": fokker.Transition(),
        "EulerMaruyama": fokker.EulerMaruyama(),
    }.items():
        inside, bare = [], []
        for _ in range(15):
            timed.seconds, clock = 0.0, time.perf_counter()
            fokker.sample(model, (rows, size), sampler=sampler, steps=steps, cond=cond)
            seconds = time.perf_counter() - clock
            inside.append(seconds / timed.seconds)
            clock = time.perf_counter()
            with torch.no_grad():
                for _ in range(steps):
                    timed.network(z, level, embedding)
            bare.append(seconds / (time.perf_counter() - clock))
        out[f"{name}, inside"], out[f"{name}, bare"] = float(np.median(inside)), float(np.median(bare))
    return out


def page(result: dict[str, Any]) -> str:
    """The numbers as Markdown, each beside its target."""
    machine, versions = result["machine"], result["versions"]
    lines = [
        "# The three conditional densities, beside the targets",
        "",
        "Written by `benchmarks/density_targets.py`. 10,000 training pairs, 10,000 draws at each of four y, means over",
        f"the y and over seeds {', '.join(map(str, SEEDS))}, each with its own pairs; the recipe was chosen on others.",
        "± is the standard deviation over seeds. W1 is in the units of x. As many exact samples have W1 / KS of "
        + ", ".join(f"{w1:.4f} / {ks:.4f} ({name})" for name, (w1, ks) in result["floor"].items())
        + ".",
        "",
        "| density | method | W1 | target | KS | target | reached | evaluations | 40,000 draws, s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, (w1, ks) in TARGETS.items():
        runs = result["densities"][name]
        for method in METHODS:
            mean = {key: np.mean([run[method][key] for run in runs]) for key in ("w1", "ks", "seconds", "nfe")}
            std = {key: np.std([run[method][key] for run in runs]) for key in ("w1", "ks")}
            reached = "yes" if mean["w1"] <= w1 and mean["ks"] <= ks else "**no**"
            lines.append(
                f"| {name} | {method} | {mean['w1']:.4f} ± {std['w1']:.4f} | {w1:.3f} | {mean['ks']:.4f} ± "
                f"{std['ks']:.4f} | {ks:.3f} | {reached} | {mean['nfe']:.0f} | {mean['seconds']:.2f} |"
            )
    seconds = {n: np.mean([run["train_seconds"] for run in runs]) for n, runs in result["densities"].items()}
    told = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())
    lines += [
        "",
        f"Training on one core, seconds (target 15): {told}. Draws target: 0.5 s, at most 32 evaluations; one thread.",
        "",
        "Seconds of `fokker.sample` over those of the forward passes it contains, batch 10,000, 16 evaluations (target",
        "1.1). bare: the same number of passes of the whole batch at once; inside: those it makes itself, which are",
        "faster, as it takes 4,096 rows at a time. Bold: above the target.",
        "",
        "| network | " + " | ".join(next(iter(result["loop_over_bare_network"].values()))) + " |",
        "|---" * (1 + len(next(iter(result["loop_over_bare_network"].values())))) + "|",
    ]
    for name, ratios in result["loop_over_bare_network"].items():
        lines.append(f"| {name} | " + " | ".join(map(loop_ratio, ratios.values())) + " |")
    lines += [
        "",
        TRIED,
        "",
        f"{machine['cpu']}, {machine['cores']} cores, one thread; torch {versions['torch']}, {result['date']}.",
        "",
    ]
    return "\n".join(lines)


def loop_ratio(value: float) -> str:
    """With two decimals, bold where it misses the target."""
    return f"{value:.2f}" if round(value, 2) <= LOOP_TARGET else f"**{value:.2f}**"


def cpu() -> str:
    """The processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


if __name__ == "__main__":
    main()
