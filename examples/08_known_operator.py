"""A prior learned once, any measurement afterwards: where on a round island's shore is the walker?

Shore positions are the prior. A radio tells the distance to a mast, with noise: two places answer to it. The same prior
then serves another instrument, a counter of clicks that come the faster the nearer it is. Nothing is trained again.
"""

import numpy as np
import torch

import fokker

rng = np.random.default_rng(0)
angle, radius = rng.uniform(0, 2 * np.pi, 4000), 1 + 0.03 * rng.standard_normal(4000)
shore = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
prior = fokker.fit_prior(shore, steps=2000)

mast = torch.tensor([0.8, 0.0])


def distance(x):
    return (x - mast).norm(dim=1, keepdim=True)


def clicks(x):
    return 1 / (0.1 + distance(x) ** 2)


radio = fokker.guided(prior, distance, fokker.Gaussian(0.05))
print(radio.why)
places = radio.sample([1.2], 1000)
north = float((places.samples[:, 1] > 0).float().mean())
print(f"two places, {100 * north:.0f} % north of the mast; evidence {float(places.log_evidence.exp()):.2f}")

counter = fokker.guided(prior, clicks, fokker.Poisson(gain=10, background=1.0))
heard = counter.sample([8], 1000)
print(f"eight clicks: {distance(heard.samples).mean():.2f} +- {distance(heard.samples).std():.2f} from the mast")
