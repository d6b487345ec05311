"""Samples in the hands of others: a posterior in a Zarr store, opened with xarray, shown and summarised by ArviZ.

A line is measured at five places; its intercept and slope are to be inferred, for three lines at once. What is needed:

    pip install 'fokker[store,arviz]'
"""

import sys
import tempfile
from pathlib import Path

import matplotlib.style.core  # noqa: F401  (arviz-plots 0.8 expects it to be loaded; Matplotlib 3.11 leaves that to us)
import torch
import xarray
from arviz_plots import plot_pair
from arviz_stats import summary

import fokker

NOISE = 0.3
PLACES = torch.linspace(0, 1, 5)
DESIGN = torch.stack([torch.ones(5), PLACES], 1)  # y = DESIGN x + noise, so that the posterior is known
LINES = torch.tensor([[1.2, 0.9, 0.8, 0.1, 0.2], [-0.4, -0.1, 0.3, 0.1, 0.5], [0.1, 0.0, -0.2, 0.3, 0.1]])


def store(path: Path) -> None:
    """Learn intercept and slope from pairs, and write samples for the three lines, with the names of all entries."""
    torch.manual_seed(0)
    x = torch.randn(5000, 2)
    posterior = fokker.fit(x, x @ DESIGN.T + NOISE * torch.randn(5000, 5), steps=300)
    samples = posterior.sample(LINES, n=2000)
    samples.save(path, names={"x": ["intercept", "slope"], "y": [f"at {place:.2f}" for place in PLACES.tolist()]})


def opened(path: Path) -> xarray.DataTree:
    """ArviZ's layout: the groups posterior, observed_data and sample_stats, with chain and draw as dimensions."""
    return xarray.open_datatree(path, engine="zarr", consolidated=False)


def one_line(tree: xarray.DataTree, line: int) -> xarray.DataTree:
    """The posterior of one of the lines, a variable for each parameter in place of one array of them."""
    x = tree["posterior/x"].sel(measurement=line, drop=True)
    return xarray.DataTree.from_dict({"posterior": x.to_dataset("x_dim_0")})


def table(tree: xarray.DataTree, line: int):
    """Means, deviations and 90 % intervals as a data frame."""
    return summary(one_line(tree, line), kind="stats", ci_prob=0.9, ci_kind="eti", round_to="none")


def draw(tree: xarray.DataTree, line: int, path: str | Path):
    """Every parameter against every other, and its own density; returns the grid of axes."""
    style = {"scatter": {"color": "#0072B2", "alpha": 0.2, "size": 6}, "dist": {"color": "#0072B2"}}
    size = {"figsize": (7, 6), "figsize_units": "inches"}
    plot = plot_pair(one_line(tree, line), visuals=style, backend="matplotlib", figure_kwargs=size)
    axes = plot.viz["plot"].values
    axes[0, 0].set_ylabel("density")  # a density is what this axis shows
    plot.savefig(path, dpi=150, bbox_inches="tight")
    return axes


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        store(Path(place) / "lines.zarr")
        tree = opened(Path(place) / "lines.zarr")
        print(tree)
        for line in tree["posterior/measurement"].values:
            print(f"line {line}\n{table(tree, line).round(2)}")
        draw(tree, 0, sys.argv[1] if len(sys.argv) > 1 else "lines.png")
