"""From a table of pairs to an answer that was checked: fit, sample, check, all on files.

A tank cools: the rate and the room's temperature are to be inferred from three readings. The table has gaps, as tables
have. The same from the shell:

    fokker fit tank.csv --x rate,room --y reading --positive rate --out tank
    fokker sample tank today.csv -n 1000 --out today.zarr
    fokker check tank --y today.csv
"""

import csv
import sys
import tempfile
from pathlib import Path

import numpy as np
import xarray

from fokker.cli import command

TIMES = np.array([1.0, 3.0, 9.0])  # hours


def readings(rate, room, rng):
    """Degrees at the three times, from 90 at the start; the sensor errs by half a degree."""
    return room + (90 - room) * np.exp(-rate * TIMES) + 0.5 * rng.standard_normal(3)


def write(path, rows, columns):
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)


def run(folder, steps=1000):
    rng = np.random.default_rng(0)
    rates, rooms = rng.lognormal(-1.5, 0.5, 3000), rng.normal(20, 3, 3000)
    seen = [["" if rng.random() < 0.1 else f"{v:.4f}" for v in readings(*xs, rng)] for xs in zip(rates, rooms)]
    names = [f"reading_{i}" for i in range(3)]
    write(folder / "tank.csv", [[a, b, *s] for a, b, s in zip(rates, rooms, seen)], ["rate", "room", *names])
    write(folder / "today.csv", [[71.2, "", 25.9]], names)  # the second reading was lost
    steps = ["--steps", str(steps), "--quiet"]
    for words in (
        ["fit", "tank.csv", "--x", "rate,room", "--y", "reading", "--positive", "rate", "--out", "tank", *steps],
        ["sample", "tank", "today.csv", "-n", "1000", "--out", "today.zarr", "--quiet"],
        ["check", "tank", "--y", "today.csv", "--quiet"],
    ):
        status = command([str(folder / w) if w.startswith(("tank", "today")) else w for w in words])
        if status:
            sys.exit(status)
    return xarray.open_datatree(folder / "today.zarr", engine="zarr", consolidated=False)["posterior/x"]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:  # or a folder of yours, to keep the tables
        here = Path(sys.argv[1] if len(sys.argv) > 1 else place)
        here.mkdir(exist_ok=True)
        x = run(here).sel(measurement=0)
        print(x.sel(x_dim_0="rate").quantile([0.05, 0.5, 0.95]).values)
