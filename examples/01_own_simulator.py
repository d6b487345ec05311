"""Your own simulator: pairs in, posterior samples out, beside the Gaussian that needs no network."""

import torch

import fokker


def simulator(x: torch.Tensor) -> torch.Tensor:
    """Any black box: parameters (N, 2) in, data (N, 2) out, with its noise."""
    return torch.stack([x[:, 0] + x[:, 1], x[:, 0] * x[:, 1]], 1) + 0.1 * torch.randn(len(x), 2)


torch.manual_seed(0)
x = torch.randn(10_000, 2)  # draws from the prior
posterior = fokker.fit(x, simulator(x), steps=600)

# Sum 0.5 and product -0.3: (0.85, -0.35) or (-0.35, 0.85), nobody can tell which.
samples = posterior.sample(y=[0.5, -0.3], n=1000)
baseline = posterior.no_network().sample(y=[0.5, -0.3], n=1000)

if __name__ == "__main__":

    def near(value: float) -> str:
        """Share of the samples whose first entry is within 0.3 of a value."""
        return f"{((samples.samples[:, 0] - value).abs() < 0.3).float().mean():.0%}"

    print(f"mean {samples.mean()}, standard deviation {samples.std()}")
    print(f"x[0] near 0.85: {near(0.85)}, near -0.35: {near(-0.35)}, near 0.25, between the two: {near(0.25)}")
    print(f"without a network: standard deviation {baseline.std()}")
