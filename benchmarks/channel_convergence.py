"""Error and cost of the channel's forward model over meshes; writes results/channel_convergence.json.

Error: the largest relative difference of any of the 30 default sensors, over 200 fluxes max(0, 2 + z) with z
independent standard normal (rougher than the prior, whose values are correlated along the wall), against
quadratic elements on a mesh about twice as fine as the finest listed. Times: the best of three, one thread.

    OMP_NUM_THREADS=1 python benchmarks/channel_convergence.py
"""

import datetime
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from time import perf_counter

import numpy as np

from fokker.pde.advection_diffusion import AdvectionDiffusion, Channel

REFERENCE = (510, 120, 2)
MESHES = (
    (85, 20, 1),
    (255, 60, 1),
    (425, 100, 1),
    (850, 200, 1),
    (34, 8, 2),
    (68, 16, 2),
    (85, 20, 2),
    (128, 30, 2),
    (256, 60, 2),
)
REPEATS = 3
RIGHT_HAND_SIDES = 64


def measure(channel: Channel, mesh: tuple[int, int, int], fluxes: np.ndarray, exact: np.ndarray) -> dict:
    """One row of the table: error against `exact` (n, n_sensors), seconds and unknowns."""
    nx, ny, order = mesh
    setup, solve, sensors = [], [], []
    for _ in range(REPEATS):
        start = perf_counter()
        model = AdvectionDiffusion(channel, nx, ny, order)
        setup.append(perf_counter() - start)
        start = perf_counter()
        concentration = model.solve(fluxes[:RIGHT_HAND_SIDES])
        solve.append((perf_counter() - start) / RIGHT_HAND_SIDES)
        start = perf_counter()
        matrix = model.sensor_matrix(channel.sensors)
        sensors.append(perf_counter() - start)
    return {
        "mesh": f"{nx}x{ny} P{order}",
        "unknowns": int(model.free.size),
        "max_relative_sensor_error": float(f"{np.abs(fluxes @ matrix.T / exact - 1).max():.3g}"),
        "assembly_and_factorisation_seconds": float(f"{min(setup):.3g}"),
        "per_right_hand_side_seconds": float(f"{min(solve):.3g}"),
        "sensor_matrix_seconds": float(f"{min(sensors):.3g}"),
        "max_relative_residual": float(f"{model.residual(fluxes[:RIGHT_HAND_SIDES], concentration).max():.1g}"),
    }


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def main() -> None:
    channel = Channel()
    fluxes = np.maximum(0.0, 2 + np.random.default_rng(0).normal(size=(200, channel.n_fluxes)))
    nx, ny, order = REFERENCE
    exact = fluxes @ AdvectionDiffusion(channel, nx, ny, order).sensor_matrix(channel.sensors).T
    rows = []
    for mesh in MESHES:
        rows.append(measure(channel, mesh, fluxes, exact))
        print(rows[-1])
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
        "reference": f"{nx}x{ny} P{order}",
        "rows": rows,
    }
    path = Path(__file__).parent / "results" / "channel_convergence.json"
    path.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
