"""Which n and alpha sample best on the process's own clock? Writes results/noise_family.json.

VariancePreserving(n) with Euler-Maruyama and Heun in t, each n on its own uniform-t grid, 8 to 64 evaluations, on exact
models: the denoiser is closed form or a quadrature, so all error is the sampler's. Every target has mean 0 and variance
1; the error is W1 between what the sampler returns and the target, in standard deviations (in more than one dimension:
the mean over directions). In one dimension there is almost no Monte-Carlo error: the first draw is the quantiles of its
law, and the noise is stratified. noise_family_report.py draws it, docs/noise_family.md says what came out.

    OMP_NUM_THREADS=1 python benchmarks/noise_family.py
"""

import datetime
import json
import math
import os
import platform
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch
from noise_family_targets import BLOCK, LINES, TARGETS, projected
from torch import Tensor
from torch.quasirandom import SobolEngine

import fokker
from fokker import EulerMaruyama, GaussianTransition, Heun, HeunTime, Transition, VariancePreserving
from fokker.processes import NoiseProcess
from fokker.score import RHO_RANGE, Denoiser
from fokker.time_grid import Karras, UniformTime

ORDERS = (0.4, 0.5, 0.75, 1, 1.5, 2, 3, 4)
ALPHAS = (0, 0.25, 0.5, 1, 2)
BUDGETS = (8, 16, 32, 64)
FLOOR = 256  # evaluations in rho after which only the floor of the measurement is left
LAWS = ("moments", "sigma(T)", "N(0, I)")  # of the first draw
BLOCKS = 4  # independent blocks of particles
DIRECTIONS = 32
RESULT = Path(__file__).parent / "results" / "noise_family.json"


class Target:
    """A model with exact quantiles along its directions, and the error of samples."""

    def __init__(self, model: Denoiser):
        self.model, self.size = model, len(model.moments.mean)
        v = np.random.default_rng(0).standard_normal((DIRECTIONS, self.size))
        self.directions = np.ones((1, 1)) if self.size == 1 else v / np.linalg.norm(v, axis=1, keepdims=True)
        self.exact = {k: projected(model, self.directions, k * BLOCK) for k in (1, BLOCKS)}

    def start(self, process: NoiseProcess, t: float, blocks: int, law: str) -> Tensor:
        """The first draw at t, as even as can be: N(0, m^2 Cov + sigma^2), or one of its simplifications."""
        factor, eye = self.model.moments.factor.reshape(self.size, self.size).double(), torch.eye(self.size)
        m, sigma = (float(v) for v in (process.scale(t), process.sigma(t)))
        laws = {"moments": m**2 * factor @ factor.T + sigma**2 * eye, "sigma(T)": sigma**2 * eye, "N(0, I)": eye}
        u = (torch.arange(BLOCK).double()[:, None] + 0.5) / BLOCK
        if self.size == 1:
            each = [u] * blocks
        else:
            each = [
                SobolEngine(self.size, scramble=True, seed=b).draw(BLOCK, dtype=torch.float64) for b in range(blocks)
            ]
        normal = torch.special.ndtri(torch.cat(each).clamp(1e-7, 1 - 1e-7))
        return normal @ torch.linalg.cholesky(laws[law].double()).T

    def run(self, process: NoiseProcess, sampler: Any, grid: Any, budget: int, law: str = "moments") -> list:
        """Evaluations, W1 of all particles, its standard error from the blocks (None where nothing is random)."""
        process = replace(process, noise=self.model.process.noise)
        model = self.model.on(process)
        steps = budget // 2 if isinstance(sampler, Heun | HeunTime) else budget
        times = grid(process, steps, *model.time_range)
        times = torch.cat([times, times.new_zeros(1)])
        random = self.size > 1 or getattr(sampler, "alpha", 0) != 0
        blocks = BLOCKS if random else 1
        start = self.start(process, float(times[0]), blocks, law)
        out = fokker.sample(model, tuple(start.shape), sampler=sampler, grid=times, start=start)
        x = self.directions @ out.samples.double().numpy().T
        error = float(np.abs(np.sort(x, 1) - self.exact[blocks]).mean())
        apart = np.abs(np.sort(x.reshape(len(x), blocks, BLOCK), 2) - self.exact[1][:, None]).mean((0, 2))
        spread = float(f"{apart.std(ddof=1) / math.sqrt(BLOCKS):.2g}") if random else None
        return [out.nfe, float(f"{error:.4g}"), spread]


def to_zero(process: NoiseProcess, steps: int, t_min: float, t_max: float) -> Tensor:
    """Uniform in t down to 0 itself: the last evaluation is at t_max / steps, as in codes without a lowest level."""
    return t_max * torch.arange(steps, 0, -1, dtype=torch.float64) / steps


# name: (grid, lowest and highest level, alphas); the process may end before the highest level
GRIDS: dict[str, tuple[Any, tuple[float, float], tuple[float, ...]]] = {
    "rho_min 0.002": (UniformTime(), RHO_RANGE, ALPHAS),
    "rho_min 0.02": (UniformTime(), (0.02, RHO_RANGE[1]), (0, 1)),
    "to zero": (to_zero, (1e-12, RHO_RANGE[1]), (0, 1)),
    "from t = 1": (UniformTime(), (RHO_RANGE[0], 1e6), (0,)),
}


def main_table(target: Target, grid: str) -> dict:
    """{sampler: {process: {alpha: [[evaluations, W1, its standard error] for each budget]}}} on own clocks."""
    rule, target.model.rho_range, alphas = GRIDS[grid]
    processes = {f"n={n:g}": VariancePreserving(n=n) for n in ORDERS} | {"ve": fokker.VarianceExploding()}
    return {
        name: {
            key: {f"{a:g}": [target.run(process, sampler(float(a)), rule, b) for b in BUDGETS] for a in alphas}
            for key, process in processes.items()
        }
        for name, sampler in (("euler", EulerMaruyama), ("heun", HeunTime))
    }


def reference_table(target: Target) -> dict:
    """{sampler in rho: {alpha: the same}} on the Karras grid, the same for every process."""
    target.model.rho_range = RHO_RANGE
    kinds = {
        "transition": lambda a: Transition(alpha=a),
        "transition_2": lambda a: Transition(alpha=a, order=2),
        "gaussian_transition": lambda a: GaussianTransition(alpha=a),
        "heun_rho": lambda a: Heun(),
    }
    return {
        name: {
            f"{a:g}": [target.run(VariancePreserving(), make(float(a)), Karras(), b) for b in (*BUDGETS, FLOOR)]
            for a in (ALPHAS if name != "heun_rho" else (0,))
        }
        for name, make in kinds.items()
    }


def terminal_table(target: Target) -> dict:
    """{n: {law of the first draw: W1}} at t = 1 by a fine ODE, and rho(1): what the end of the process alone does."""
    target.model.rho_range = GRIDS["from t = 1"][1]
    out = {}
    for n in ORDERS:
        process = VariancePreserving(n=n)
        laws = {law: target.run(process, GaussianTransition(), Karras(), FLOOR, law)[1] for law in LAWS}
        out[f"{n:g}"] = {"rho(1)": float(process.noise_to_signal(1.0)), **laws}
    return out


def cpu() -> str:
    """The processor's name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def main() -> None:
    """Everything, into one file."""
    torch.set_num_threads(1)
    begun, results = process_time(), {}
    for name, make in TARGETS.items():
        target = Target(make())
        line = name in LINES
        results[name] = {
            "own clock": {grid: main_table(target, grid) for grid in (GRIDS if line else list(GRIDS)[:1])},
            "rho, karras": reference_table(target),
            **({"terminal": terminal_table(target)} if line else {}),
        }
        print(f"{name}: {process_time() - begun:.0f} s", flush=True)
    record = {
        "date": datetime.date.today().isoformat(),
        "machine": {"cpu": cpu(), "cores": os.cpu_count(), "threads": 1},
        "versions": {
            "python": platform.python_version(),
            **{p: version(p) for p in ("fokker", "torch", "numpy", "scipy")},
        },
        "cpu_seconds": round(process_time() - begun),
        "settings": {
            "beta": [0.001, 15.0],
            "rho": RHO_RANGE,
            "budgets": BUDGETS,
            "alphas": ALPHAS,
            "orders": ORDERS,
            "particles": BLOCK * BLOCKS,
        },
        "results": results,
    }
    RESULT.write_text(json.dumps(record) + "\n")


if __name__ == "__main__":
    main()
