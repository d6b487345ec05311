"""One model for any set of working sensors; a prior alone, its density, and data added to it afterwards."""

import math

import torch
from torch import Tensor

import fokker

NOISE = 0.2
NAN = float("nan")

# Three sensors see x[0], x[1] and their sum; each one works with probability 0.6, drawn anew at every step.
torch.manual_seed(0)
x = torch.randn(10_000, 2)
y = torch.stack([x[:, 0], x[:, 1], x.sum(1)], 1) + NOISE * torch.randn(10_000, 3)
posterior = fokker.fit(x, y, omega=fokker.RandomLayouts(0.6), steps=400)
only_the_sum = posterior.sample(y=[NAN, NAN, 1.0], n=1000)
all_three = posterior.sample(y=[0.4, 0.6, 1.0], n=1000)

# A prior learned from samples alone: points on a noisy circle.
angle = 2 * math.pi * torch.rand(10_000)
circle = torch.stack([angle.cos(), angle.sin()], 1) + 0.1 * torch.randn(10_000, 2)
prior = fokker.fit_prior(circle, steps=600)
log_densities = fokker.log_prob(prior, torch.tensor([[1.0, 0.0], [0.0, 0.0]]))


def near_the_top(x_t: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
    """log p(y given x) of one measurement, y = x[1] + 0.2 noise = 1, for Langevin dynamics at one low level."""
    return -0.5 * ((1.0 - x_t[:, 1]) / NOISE) ** 2


lowest = prior.process.time_of(torch.tensor(0.05))
tilted = fokker.TiltedScore(prior, near_the_top)
top = fokker.langevin(tilted, prior.sample(1000, seed=1).samples, float(lowest), step=2e-3, steps=600, seed=2).samples

if __name__ == "__main__":
    print(f"the sum alone: std {only_the_sum.std()}, correlation {only_the_sum.samples.T.corrcoef()[0, 1]:.2f}")
    print(f"all three: mean {all_three.mean()}, std {all_three.std()}")
    print(f"log density on the circle {log_densities[0]:.2f}, in its middle {log_densities[1]:.2f}")
    print(f"the top of the circle: mean {top.mean(0)}, std {top.std(0)}")
