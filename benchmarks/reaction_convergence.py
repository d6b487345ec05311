"""Error and cost of the channel with logistic growth over meshes; writes results/reaction_convergence.json.

Error: the largest relative difference of any of the 30 default sensors, over 50 fluxes of the prior with mean 2,
50 of the prior with mean 0.3 and 50 rougher ones max(0, 2 + z), z independent standard normal, against quadratic
elements of half the width of the finest listed. Times are CPU seconds of one thread for fluxes of the prior with
mean 2. Then, on the default mesh: 40,000 such fluxes, a hard prior, Newton's method flux by flux from the same
linearised start, and the derivatives.

    OMP_NUM_THREADS=1 python benchmarks/reaction_convergence.py
"""

import datetime
import json
import os
import platform
import resource
from importlib.metadata import version
from pathlib import Path
from time import process_time

import numpy as np

from fokker.pde.advection_diffusion import Channel
from fokker.pde.reaction import LogisticReaction, Solved
from fokker.problems.boundary_flux import FluxSimulator

CHANNEL = Channel(velocity=12.0, diffusivity=4.0)
REFERENCE = (256, 96, 2, 4.0)
DEFAULT = (64, 24, 2, 4.0)
MESHES = (
    (85, 20, 1, 0.0),
    (255, 60, 1, 0.0),
    (425, 100, 1, 0.0),
    (64, 24, 1, 4.0),
    (128, 48, 1, 4.0),
    (256, 96, 1, 4.0),
    (85, 20, 2, 0.0),
    (128, 30, 2, 0.0),
    (32, 12, 2, 4.0),
    (48, 20, 2, 4.0),
    DEFAULT,
    (96, 36, 2, 4.0),
    (128, 48, 2, 4.0),
)
TIMED = 256
MANY = 40_000


def three(value: float) -> float:
    return float(f"{value:.3g}")


def model_on(mesh: tuple[int, int, int, float]) -> LogisticReaction:
    nx, ny, order, grading = mesh
    return LogisticReaction(CHANNEL, nx=nx, ny=ny, order=order, grading=grading)


def named(mesh: tuple[int, int, int, float]) -> str:
    nx, ny, order, grading = mesh
    return f"{nx}x{ny} P{order} grading {grading:g}"


def report(found: Solved, seconds: float) -> dict:
    """What the solver says about its work."""
    return {
        "fluxes": found.iterations.size,
        "cpu_milliseconds_per_solve": three(1e3 * seconds / found.iterations.size),
        "iterations_mean": three(found.iterations.mean()),
        "iterations_max": int(found.iterations.max()),
        "max_relative_residual": three(np.max(found.residual[~found.failed])),
        "by_newton": int(found.newton.sum()),
        "failed": int(found.failed.sum()),
    }


def timed(model: LogisticReaction, fluxes: np.ndarray) -> dict:
    start = process_time()
    found = model.observe(fluxes)
    return report(found, process_time() - start)


def measure(
    mesh: tuple[int, int, int, float], sets: dict[str, np.ndarray], exact: dict[str, np.ndarray], many: np.ndarray
) -> dict:
    """One row of the table: errors for each set of fluxes, unknowns, and the cost of `TIMED` solves."""
    start = process_time()
    model = model_on(mesh)
    setup = process_time() - start
    values = {name: model.observe(fluxes).values for name, fluxes in sets.items()}
    errors = {name: three(np.abs(values[name] / exact[name] - 1).max()) for name in sets}
    return {
        "mesh": named(mesh),
        "unknowns": int(model.free.size),
        "max_relative_sensor_error": max(errors.values()),
        "by_set": errors,
        # Noise is scaled to the spread of each sensor under the prior.
        "max_error_over_prior_spread": three(
            (np.abs(values["mean 2"] - exact["mean 2"]) / exact["mean 2"].std(axis=0)).max()
        ),
        "setup_seconds": three(setup),
        **timed(model, many[:TIMED]),
    }


def newton(model: LogisticReaction, fluxes: np.ndarray) -> dict:
    """Newton's method with a factorisation in every step, flux by flux, from the linearised solutions."""
    start = process_time()
    steps = []
    for q in fluxes:
        load = model.loads[model.free] @ q
        c = model._mean + model._response @ (q - model.mean_flux)
        _, relative, count = model._newton(c, load, float(np.linalg.norm(load)))
        assert relative <= 1e-8
        steps.append(count)
    seconds = process_time() - start
    return {
        "fluxes": len(fluxes),
        "cpu_milliseconds_per_solve": three(1e3 * seconds / len(fluxes)),
        "factorisations_mean": three(float(np.mean(steps))),
    }


def derivatives(model: LogisticReaction, fluxes: np.ndarray) -> dict:
    c = model.solve(fluxes)
    start = process_time()
    model.vjp(c, np.random.default_rng(0).normal(size=(len(c), len(CHANNEL.sensors))))
    middle = process_time()
    model.jacobian(c[:16])
    end = process_time()
    return {
        "adjoint_gradient_cpu_milliseconds": three(1e3 * (middle - start) / len(c)),
        "jacobian_cpu_milliseconds": three(1e3 * (end - middle) / 16),
    }


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def main() -> None:
    many, rng = FluxSimulator(2.0).prior(np.random.default_rng(1), MANY), np.random.default_rng(0)
    low = FluxSimulator(0.3).prior(np.random.default_rng(2), 2000)
    sets = {"mean 2": many[:50], "mean 0.3": low[:50], "rough": np.maximum(0.0, 2 + rng.normal(size=(50, 30)))}
    reference = model_on(REFERENCE)
    exact = {name: reference.observe(fluxes).values for name, fluxes in sets.items()}
    rows = []
    for mesh in MESHES:
        rows.append(measure(mesh, sets, exact, many))
        print(rows[-1], flush=True)
    model = model_on(DEFAULT)
    near = LogisticReaction(CHANNEL, mean_flux=many[0])
    around = np.maximum(0.0, many[0] + 0.2 * rng.normal(size=(256, 30)))
    result = {
        "date": datetime.date.today().isoformat(),
        "machine": {
            "cpu": cpu_model(),
            "cores": os.cpu_count(),
            "threads": os.environ.get("OMP_NUM_THREADS"),
        },
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("numpy", "scipy", "scikit-fem")},
        },
        "reference": named(REFERENCE),
        "rows": rows,
        "default_mesh": {
            "mesh": named(DEFAULT),
            "prior_mean_2": timed(model, many),
            "prior_mean_0.3": timed(model, low),
            "within_0.2_of_the_mean_flux": timed(near, around),
            "newton": newton(model, many[:50]),
            "derivatives": derivatives(model, many[:256]),
        },
        # Of the whole script, the reference mesh included.
        "peak_memory_MiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }
    print(result["default_mesh"])
    path = Path(__file__).parent / "results" / "reaction_convergence.json"
    path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
