"""Functions from a few of their values: where between the boreholes does sand change to clay?

Profiles of a two-valued ground, 0 for sand and 1 for clay, are the training data. Told values at boreholes anywhere,
the model draws whole profiles, sand or clay everywhere; `prior.no_network()`, the Gaussian of the same mean and
spectrum, draws profiles that are neither.
"""

import torch

import fokker

law = fokker.CosineField.matern(dimension=1, modes=64, length=0.2, nu=2.5)
cells = fokker.Grid((64,))


def profiles(count, seed):
    generator = torch.Generator().manual_seed(seed)
    heights = law.on_grid(torch.randn(count, law.size, generator=generator, dtype=torch.float64), cells.shape)
    return (heights > 0).float()


prior = fokker.fit_functions(profiles(5000, 0), observations=fokker.PointObservations(1, 8), steps=600)

boreholes = torch.tensor([[0.105], [0.32], [0.7], [0.945]])
posterior = fokker.FunctionPosterior.of_values(prior, boreholes, likelihood=fokker.Gaussian(0.01))
found = posterior.sample([0.0, 1.0, 1.0, 0.0], 500).samples
clay = found.mean(0)
print(f"at the boreholes {clay[[6, 20, 44, 60]].tolist()}; chance of clay half way: {clay[13]:.2f} and {clay[52]:.2f}")
print(f"{100 * ((found - found.round()).abs() < 0.1).float().mean():.0f} % of all cells are one or the other")
finer = prior.sample(3, (256,)).samples  # the prior, on another grid
