"""One denoiser serves every process: on one grid of noise levels all of them give the same samples."""

import torch

import fokker

# An exact model: a mixture of two Gaussians, no network.
mixture = fokker.MixtureScore(
    fokker.VarianceExploding(),
    weights=torch.tensor([0.3, 0.7], dtype=torch.float64),
    means=torch.tensor([[-2.0, 0.0], [1.0, 1.0]], dtype=torch.float64),
    covariances=torch.eye(2, dtype=torch.float64).repeat(2, 1, 1) * 0.2,
)

levels = torch.logspace(1, -2, 40, dtype=torch.float64)  # rho, the ratio of noise to signal
draws = {}
for process in (fokker.VarianceExploding(), *(fokker.VariancePreserving(n) for n in (0.5, 1, 2, 3))):
    times = torch.cat([process.time_of(levels), torch.zeros(1)])
    sampler = fokker.Transition(alpha=0.5, order=2)  # half-way between the ODE (0) and the SDE (1)
    name = f"{process.settings()['name']} {process.settings().get('n', '')}"
    draws[name] = fokker.sample(mixture.on(process), (2000, 2), sampler=sampler, grid=times, seed=1).samples

first, *others = draws.values()
largest_difference = max(float((other - first).abs().max()) for other in others)

if __name__ == "__main__":
    print(f"{len(draws)} processes, largest difference between their samples: {largest_difference:.1e}")
    print(f"mean {first.mean(0)}, exact {mixture.weights @ mixture.means}")
