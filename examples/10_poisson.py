"""Where does a plate lose its heat? A field of losses from the temperature at a few points.

The temperature u solves Lap u = a on the unit square, u = 0 on its boundary; a is what is lost per area, below zero
where the plate is heated. 24 sensors between the cells see u with noise. The law of a is known by examples only; as it
is Gaussian here, the exact posterior is at hand.
"""

import matplotlib.pyplot as plt
import torch

import fokker
from fokker.operators import DirichletSolve, PointValues

law = fokker.CosineField.matern(dimension=2, modes=24, length=0.3, nu=1.5, std=20.0)
cells = fokker.Grid((24, 24))


def losses(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return law.on_grid(torch.randn(count, law.size, generator=generator, dtype=torch.float64), cells.shape)


prior = fokker.fit_functions(losses(3000, 0), network={"width": 8, "modes": 6, "depth": 2}, steps=100)

sensors = torch.rand(24, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
observe, noise = PointValues(cells.shape, sensors) @ DirichletSolve(cells.shape), 0.005
truth = losses(1, 2)
y = observe(truth)[0] + noise * torch.randn(24, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

posterior = fokker.guided(prior.at(cells), observe, fokker.Gaussian(noise))
print(posterior.why)
found = posterior.sample(y, 500)
mean, std = found.mean(), found.std()

# the exact posterior: C and H are small enough to write down
c, h = law.basis(cells.points) @ law.basis(cells.points).T, observe.matrix()
gain = torch.linalg.solve(h @ c @ h.T + noise**2 * torch.eye(24, dtype=torch.float64), h @ c).T
exact = (gain @ y).reshape(cells.shape)
exact_std = (c - gain @ h @ c).diagonal().sqrt().reshape(cells.shape)
off, width = (mean - exact).square().mean().sqrt() / exact_std.mean(), std.mean() / exact_std.mean()
print(f"the mean is off by {100 * off:.0f} % of a posterior deviation, widths are {width:.2f} of the exact ones")


def draw(path):
    figure, row = plt.subplots(1, 4, figsize=(13, 3.4), layout="constrained", sharey=True)
    high = float(truth.abs().max())
    panels = {"heat loss (truth)": truth[0], "posterior mean": mean, "exact mean": exact, "posterior deviation": std}
    for axes, (title, field) in zip(row, panels.items()):
        low, colours = (0, "viridis") if "deviation" in title else (-high, "RdBu_r")
        top = None if low == 0 else high
        shown = axes.imshow(field.numpy().T, cmap=colours, vmin=low, vmax=top, origin="lower", extent=(0, 1, 0, 1))
        axes.plot(*sensors.numpy().T, "k.", ms=4)
        axes.set(title=title, xlabel="x", ylabel="y" if axes is row[0] else "")
        figure.colorbar(shown, ax=axes, shrink=0.85, label="heat loss per area" if axes is row[-1] else None)
    figure.suptitle("Heat loss of a plate from 24 sensors (dots) of its temperature")
    figure.savefig(path, dpi=110)
    plt.close(figure)
