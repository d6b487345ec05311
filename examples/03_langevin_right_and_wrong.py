"""The right and the wrong way to use a score: Langevin dynamics samples, plain score ascent collapses on the modes."""

import sys
from pathlib import Path

import torch

import fokker

# An exact model: a mixture of three Gaussians, no network.
mixture = fokker.MixtureScore(
    fokker.VarianceExploding(),
    weights=torch.tensor([0.4, 0.35, 0.25], dtype=torch.float64),
    means=torch.tensor([[-1.3, -0.5], [1.2, -0.7], [0.2, 1.4]], dtype=torch.float64),
    covariances=torch.tensor(
        [[[0.50, 0.25], [0.25, 0.40]], [[0.35, -0.20], [-0.20, 0.45]], [[0.55, 0.0], [0.0, 0.25]]], dtype=torch.float64
    ),
)
t = mixture.time_range[0]  # the lowest level of noise: as good as none
start = 3 * torch.randn(1500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
ascent = fokker.langevin(mixture, start, t, step=0.1, steps=400, noise=False).samples  # x <- x + (step/2) score
sgld = fokker.langevin(mixture, start, t, step=0.1, steps=400).samples  # ... + sqrt(step) xi


def draw(path: str | Path) -> None:
    """Three panels: the density, where the ascent ends, what Langevin dynamics leaves."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    x, y = torch.meshgrid(*2 * [torch.linspace(-4, 4, 161, dtype=torch.float64)], indexing="xy")
    density = mixture.log_prob(torch.stack([x, y], -1).reshape(-1, 2), t).exp().reshape(x.shape)
    levels = float(density.max()) * torch.tensor([0.02, 0.08, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 1.0])
    figure = Figure(figsize=(9.6, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 3, sharex=True, sharey=True)
    axes[0].contourf(x, y, density, levels=levels, cmap="Blues")
    axes[0].set_title("the density $p$")
    for ax, points, title, color, size in (
        (axes[1], ascent, "plain score ascent: spread lost", "#D55E00", 50),
        (axes[2], sgld, "Langevin dynamics: samples of $p$", "#0072B2", 6),
    ):
        ax.contour(x, y, density, levels=levels[:-1], colors="0.7", linewidths=0.8)
        ax.scatter(*points.T, s=size, color=color, alpha=0.6, linewidths=0)
        ax.set_title(title)
    for ax in axes:
        ax.set(xlim=(-3.8, 3.8), ylim=(-3.4, 3.4), aspect="equal", xlabel="$x_1$", xticks=range(-3, 4))
    axes[0].set_ylabel("$x_2$")
    axes[1].annotate(f"{len(points)} points\non {len(modes())} modes", (0.04, 0.05), xycoords="axes fraction")
    figure.savefig(path, dpi=200)


def modes() -> torch.Tensor:
    """The different places where the ascent ended, to three digits."""
    return (1000 * ascent).round().unique(dim=0) / 1000


if __name__ == "__main__":
    exact = mixture.moments.factor @ mixture.moments.factor.T
    for name, points in (("score ascent", ascent), ("Langevin dynamics", sgld)):
        print(f"{name}: covariance {points.T.cov().tolist()}, exact {exact.tolist()}")
    draw(sys.argv[1] if len(sys.argv) > 1 else "langevin.png")
