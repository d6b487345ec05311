"""fokker with the recipe of its densities, trained for the number of steps that the method's name ends in."""

from __future__ import annotations

import numpy as np
import torch
from job import Job, Outcome, Stopwatch

import fokker
from fokker.problems.densities import DENSITY

ALPHA = {"ode": 0.0, "sde": 1.0}


def main() -> None:
    job = Job.from_command_line()
    torch.set_num_threads(1)
    steps = int(job.method.rpartition("-")[2])
    done = []
    clock = Stopwatch()
    posterior = fokker.fit(
        job.x, job.y, recipe=DENSITY, steps=steps, seed=job.seed, progress=lambda r: done.append(r.step)
    )
    outcome = Outcome(
        job,
        {
            "what": f"fokker.fit with the recipe DENSITY, {steps} steps",
            "rule": "the number of steps",
            "weights": sum(p.numel() for p in posterior.model.network.parameters()),
        },
        ("fokker", "torch", "numpy"),
        training=clock.seconds() | {"updates": done[-1], "cut": False},
    )

    def draw(alpha: float) -> np.ndarray:
        sampler = fokker.GaussianTransition(alpha)
        return posterior.sample(job.at, job.draws, seed=job.seed, sampler=sampler).samples[..., 0].numpy()

    for name, alpha in ALPHA.items():
        outcome.draw(name, lambda a=alpha: draw(a), evaluations=DENSITY.steps)
    outcome.write()


if __name__ == "__main__":
    main()
