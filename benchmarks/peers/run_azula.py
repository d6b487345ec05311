"""azula: a denoiser and DDIM or DDPM, trained as its documentation does; it has no training loop of its own.

Schedule, preconditioning, Adam at 1e-3 and t ~ U(0, 1) as in its README; embeddings that are added, batches of 64 and
15,000 updates (16 epochs of 60,000 images there, 97 epochs of 10,000 pairs here) as in its first tutorial. The network
is ours, for it offers none for vectors: three hidden layers of 256.
"""

from __future__ import annotations

import copy
import math
from itertools import pairwise

import numpy as np
import torch
from azula.denoise import KarrasDenoiser
from azula.noise import VPSchedule
from azula.sample import DDIMSampler, DDPMSampler
from job import Job, Outcome, Watch
from torch import Tensor, nn

BATCH, UPDATES, RATE, WIDTH, EMBEDDING = 64, 15_000, 1e-3, 256, 64
SAMPLERS = {"ddim": DDIMSampler, "ddpm": DDPMSampler}  # 64 steps by default


class Backbone(nn.Module):
    """b(x_t, log(sigma / alpha), y)."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(1, EMBEDDING), nn.SiLU(), nn.Linear(EMBEDDING, EMBEDDING))
        self.data = nn.Sequential(nn.Linear(1, EMBEDDING), nn.SiLU(), nn.Linear(EMBEDDING, EMBEDDING))
        sizes = (1 + EMBEDDING, WIDTH, WIDTH, WIDTH)
        hidden = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.SiLU())]
        self.body = nn.Sequential(*hidden, nn.Linear(WIDTH, 1))

    def forward(self, x_t: Tensor, level: Tensor, y: Tensor) -> Tensor:
        embedding = self.time(level[..., None]) + self.data(y)
        return self.body(torch.cat([x_t, embedding], dim=-1))


def main() -> None:
    job = Job.from_command_line()
    torch.set_num_threads(1)
    torch.manual_seed(job.seed)
    x, y, at = (torch.from_numpy(a) for a in (job.x, job.y, job.at))
    (x_mean, x_std), (y_mean, y_std) = (x.mean(), x.std()), (y.mean(), y.std())
    x, y, at = (x - x_mean) / x_std, (y - y_mean) / y_std, (at - y_mean) / y_std
    denoiser = KarrasDenoiser(Backbone(), VPSchedule())
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=RATE)
    per_epoch = len(x) // BATCH
    epochs, done = math.ceil(UPDATES / per_epoch), 0
    watch = Watch(job)
    for epoch in range(epochs):
        order = torch.randperm(len(x))[: per_epoch * BATCH].view(per_epoch, BATCH)
        for rows in order:
            loss = denoiser.loss(x[rows], torch.rand(BATCH), y=y[rows])
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        done = epoch + 1
        if done < epochs and watch.over(done, lambda: copy.deepcopy(denoiser.state_dict())):
            break
    outcome = Outcome(
        job,
        {
            "what": "KarrasDenoiser, VPSchedule, MLP 3x256",
            "rule": f"has none: {epochs} epochs, the number of updates of its first tutorial",
            "weights": sum(p.numel() for p in denoiser.parameters()),
        },
        ("azula", "torch", "numpy"),
        training=watch.clock.seconds() | {"epochs": done, "updates": done * per_epoch, "cut": watch.cut},
    )

    def draw(kind: type) -> np.ndarray:
        sampler = kind(denoiser.eval(), silent=True)
        drawn = [sampler(sampler.init((job.draws, 1)), y=row.expand(job.draws, 1)) for row in at]
        return (torch.stack(drawn)[..., 0] * x_std + x_mean).numpy()

    for name, kind in SAMPLERS.items():
        outcome.draw(name, lambda kind=kind: draw(kind), evaluations=64)
    for epoch, seconds, weights in watch.kept:
        denoiser.load_state_dict(weights)
        outcome.checkpoint(epoch, seconds, "ddim", lambda: draw(DDIMSampler))
    outcome.write()


if __name__ == "__main__":
    main()
