"""A program of your own as the simulator: it reads numbers from a file and writes numbers to a file.

A mass swings on a damped spring; frequency and damping are to be inferred from six readings of its place. The program
could be anything that runs from the shell; here it is a script of eight lines. The same from the shell:

    fokker simulate prior.py --program "python swing.py {x.csv} {y.csv} {seed}" --rows 1000 -n 4000 --out pairs
    fokker fit pairs --bounds frequency=1:2 --bounds damping=0.1:0.6 --held-out 0.125 --out model
    fokker sample model today.npy -n 1000 --out today.zarr
    fokker check model --y today.npy
"""

import shlex
import sys
import tempfile
from pathlib import Path

import numpy as np

import fokker
from fokker.check_rows import Rows
from fokker.checking import check
from fokker.simulation.programs import ModelFile, Program
from fokker.simulation.store import simulate

PRIOR = """
x_names = ("frequency", "damping")
y_names = ("at 1 s", "at 2 s", "at 3 s", "at 4 s", "at 5 s", "at 6 s")

def prior(rng, n):
    return rng.uniform([1.0, 0.1], [2.0, 0.6], (n, 2))
"""
# One line of x.csv for every swing, one line of y.csv for each; all its random numbers come from the seed it is given.
PROGRAM = """
import csv, math, random, sys

random.seed(sys.argv[3])
with open(sys.argv[1]) as x, open(sys.argv[2], "w") as y:
    for frequency, damping in csv.reader(x):
        places = (math.exp(-float(damping) * t) * math.cos(float(frequency) * t) for t in range(1, 7))
        csv.writer(y).writerow(place + random.gauss(0, 0.1) for place in places)
"""
TODAY = np.array([0.05, -0.53, -0.20, 0.31, 0.08, -0.16])


def run(folder: Path, steps: int = 1000):
    """Simulate, fit, sample, check; the samples and what the check found."""
    (folder / "prior.py").write_text(PRIOR)
    (folder / "swing.py").write_text(PROGRAM)
    np.save(folder / "today.npy", TODAY)
    prior = ModelFile.read(folder / "prior.py", needs=("prior",))
    command = f"{shlex.quote(sys.executable)} {shlex.quote(str(folder / 'swing.py'))} {{x.csv}} {{y.csv}} {{seed}}"
    x, y = simulate(Program(prior, command, rows=1000), 4000, folder / "pairs", seed=0).load()

    posterior = fokker.fit(
        x[:3500], y[:3500], bounds=([1.0, 0.1], [2.0, 0.6]), steps=steps
    )  # the rest is for the check
    samples = posterior.sample(TODAY, n=1000)
    samples.save(folder / "today.zarr", names={"x": prior.x_names, "y": prior.y_names})
    found = check(posterior, Rows(x[3500:], y[3500:]), names=prior.x_names, y=TODAY[None])
    return samples, found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:  # or a folder of yours, to keep the files
        here = Path(sys.argv[1] if len(sys.argv) > 1 else place)
        here.mkdir(exist_ok=True)
        samples, found = run(here)
    print(f"frequency, damping: mean {samples.mean()}, standard deviation {samples.std()}")
    print(*found.words, *found.measured[0].words, sep="\n")
