"""The measurements of benchmarks/guidance.py, in an environment with deepinv and with fokker on the path.

run_guidance.py time|memory|accuracy --out FILE [--setting NAME] [--package NAME] [--pairs N] [--quick]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import guidance_deepinv
import guidance_fokker
import torch
from guidance_cases import BLUR, DEEPINV, FOKKER, OPERATORS, PAIRED, SETTINGS, Accuracy, Setting, Smooth, box
from torch import Tensor, nn

from fokker.operators.kernels import gaussian_kernel
from fokker.reference.gaussian import LinearGaussian

NOISE = 0.1  # of the timings
MEMORY_ROWS = 8


class Counter:
    """How often a module has been called."""

    def __init__(self, module: nn.Module):
        self.calls = 0
        module.register_forward_hook(self._count)

    def _count(self, *_: Any) -> None:
        self.calls += 1


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("time", "memory", "accuracy"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--setting", choices=SETTINGS)
    parser.add_argument("--package", choices=("fokker", "deepinv"))
    parser.add_argument("--pairs", type=int, default=11)
    parser.add_argument("--methods", nargs="+", choices=PAIRED, default=list(PAIRED))
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    match given.what:
        case "time":
            found = timed(SETTINGS[given.setting], given.methods, given.pairs)
        case "memory":
            found = peak(SETTINGS[given.setting], given.package)
        case _:
            found = accuracy(Accuracy(cases=2, draws=19) if given.quick else Accuracy(), 20 if given.quick else None)
    versions = {name: version(name) for name in ("deepinv", "torch", "numpy")}
    given.out.write_text(json.dumps({"versions": versions, "found": found}, indent=1) + "\n")


def both(
    pair: str, module: nn.Module, shape: tuple[int, int, int], name: str, noise: float, steps: int
) -> dict[str, Callable[[Tensor, int, int], Tensor]]:
    """The two samplers of a pair."""
    ours, theirs = PAIRED[pair]
    physics = guidance_deepinv.physics(name, shape, noise, gaussian_kernel(BLUR))
    return {
        "fokker": guidance_fokker.sampler(ours, module, shape, name, noise, steps),
        "deepinv": guidance_deepinv.sampler(theirs, module, shape, physics, guidance_fokker.levels(steps)),
    }


def measured(name: str, x: Tensor, noise: Tensor) -> dict[str, Tensor]:
    """y of both packages for images x: what box inpainting leaves out is not there in one and zero in the other."""
    operator, (first, side) = guidance_fokker.operator(name, tuple(x.shape[1:])), box(x.shape[-1])
    if name != "box":
        y = operator(x) + noise
        return {"fokker": y, "deepinv": y}
    whole = x + noise
    seen = whole.clone()
    seen[..., first : first + side, first : first + side] = 0
    return {"fokker": operator(whole), "deepinv": seen}


def timed(setting: Setting, methods: list[str], pairs: int) -> list[dict[str, Any]]:
    """CPU and wall seconds per step, the two in turns; the first pair, which warms up, is not counted."""
    network = setting.network()
    counter, rows = Counter(network), []
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(setting.rows, *setting.shape, generator=rng)
    for name in OPERATORS:
        y = measured(name, x, NOISE * torch.randn(x.shape, generator=rng))
        for method in methods:
            draw = both(method, network, setting.shape, name, NOISE, setting.steps)
            cpu: dict[str, list[float]] = {"fokker": [], "deepinv": []}
            wall: dict[str, list[float]] = {"fokker": [], "deepinv": []}
            calls = {}
            for seed in range(pairs + 1):
                for who in ("fokker", "deepinv") if seed % 2 else ("deepinv", "fokker"):
                    counter.calls, started = 0, (time.process_time(), time.perf_counter())
                    draw[who](y[who], 1, seed)
                    cpu[who].append((time.process_time() - started[0]) / setting.steps)
                    wall[who].append((time.perf_counter() - started[1]) / setting.steps)
                    calls[who] = counter.calls / setting.steps
            ratios = sorted(a / b for a, b in zip(cpu["fokker"][1:], cpu["deepinv"][1:]))
            rows.append(
                {
                    "operator": name,
                    "method": method,
                    "weights": sum(p.numel() for p in network.parameters()),
                    "evaluations_per_step": calls,
                    "cpu_ms_per_step": {who: 1e3 * statistics.median(v[1:]) for who, v in cpu.items()},
                    "wall_ms_per_step": {who: 1e3 * statistics.median(v[1:]) for who, v in wall.items()},
                    "median_ratio": statistics.median(ratios),
                    "middle_half_of_ratios": [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]],
                    "pairs": pairs,
                }
            )
            print(rows[-1], flush=True)
    return rows


def peak(setting: Setting, package: str) -> dict[str, float]:
    """MiB above what was resident before, at the peak of two steps of DPS with MEMORY_ROWS images."""
    network = setting.network()
    x = torch.zeros(MEMORY_ROWS, *setting.shape)
    draw = both("DPS", network, setting.shape, "denoising", NOISE, 2)[package]
    draw(x[:1], 1, 0)  # what is loaded at the first call
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    before = _status("VmRSS")
    draw(x, 1, 1)
    return {"mib": (_status("VmHWM") - before) / 1024, "resident_before_mib": before / 1024}


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))


def accuracy(size: Accuracy, limit: int | None) -> list[dict[str, Any]]:
    """Every method on every operator against the exact posterior; limit: the most steps, for a quick look."""
    module, shape = Smooth(size.n), (1, size.n, size.n)
    counter, rng, rows = Counter(module), torch.Generator().manual_seed(2), []
    root = torch.linalg.cholesky(module.covariance)
    truth = (torch.randn(size.cases, size.n**2, generator=rng, dtype=torch.float64) @ root.T).reshape(-1, *shape)
    for name in OPERATORS:
        operator = guidance_fokker.operator(name, shape)
        noise = size.noise * torch.randn(truth.shape, generator=rng, dtype=torch.float64)
        y = measured(name, truth, noise)
        exact = LinearGaussian(0.0, module.covariance.numpy(), operator.matrix().numpy(), size.noise)
        mean = torch.from_numpy(exact.mean(y["fokker"].flatten(1).numpy()))
        covariance = torch.from_numpy(exact.covariance)
        xi = torch.randn(size.cases, size.draws, size.n**2, generator=rng, dtype=torch.float64)
        draws = mean[:, None] + xi @ torch.linalg.cholesky(covariance).T
        rows.append({"operator": name, "package": "exact", "method": "", "steps": 0})
        rows[-1] |= scores(draws, mean, covariance.diagonal(), truth.flatten(1))
        physics = guidance_deepinv.physics(name, shape, size.noise, gaussian_kernel(BLUR))
        for package, methods in (("fokker", FOKKER), ("deepinv", DEEPINV)):
            for method, wanted in methods:
                steps = wanted if limit is None else min(wanted, limit)
                row: dict[str, Any] = {"operator": name, "package": package, "method": method, "steps": steps}
                levels = guidance_fokker.levels(steps)
                if package == "fokker":
                    draw = guidance_fokker.sampler(method, module, shape, name, size.noise, steps)
                else:
                    draw = guidance_deepinv.sampler(method, module, shape, physics, levels)
                counter.calls, started = 0, time.process_time()
                try:
                    samples = draw(y[package].float(), size.draws, 0).double().flatten(2)
                    row |= scores(samples, mean, covariance.diagonal(), truth.flatten(1))
                except ValueError as error:
                    row["failed"] = str(error)
                row |= {"cpu_seconds": time.process_time() - started, "evaluations_per_step": counter.calls / steps}
                rows.append(row)
                print(row, flush=True)
    return rows


def scores(samples: Tensor, mean: Tensor, variance: Tensor, truth: Tensor) -> dict[str, float]:
    """Samples (M, n, d) against the exact mean (M, d) and variance (d,), and the truth (M, d).

    bias: root mean square of the error of the mean in exact standard deviations, less what n samples alone make;
    variance_ratio: their variance over the exact one, mean over pixels; coverage: of central 80 % intervals.
    """
    count, edge = samples.shape[1], (samples.shape[1] + 1) // 10
    if not bool(samples.isfinite().all()):
        return {"bias": float("nan"), "variance_ratio": float("nan"), "coverage": float("nan")}
    ratio = samples.var(1) / variance
    squares = (samples.mean(1) - mean) ** 2 / variance - ratio / count
    ordered = samples.sort(1).values
    inside = (truth > ordered[:, edge - 1]) & (truth < ordered[:, count - edge])
    return {
        "bias": float(squares.mean().clamp(min=0).sqrt()),
        "variance_ratio": float(ratio.mean()),
        "coverage": float(inside.double().mean()),
    }


if __name__ == "__main__":
    main()
