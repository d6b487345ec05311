"""The networks that the field problems are given to: regressions, and diffusion without our Gaussian part."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fokker.losses import LogNormalLevels
from fokker.networks.build import build
from fokker.networks.denoiser import NetworkDenoiser
from fokker.noise import OnGrid
from fokker.problems.field_data import SHIFT, FieldProblem, Fields
from fokker.processes import NoiseProcess, VarianceExploding
from fokker.random_fields import CosineField
from fokker.rng import torch_generator
from fokker.score import RHO_RANGE
from fokker.states import Cond, Moments, column
from fokker.training import Trainer, TrainSettings

FNO, DEEPONET, WHITE, COLOURED = "FNO", "DeepONet", "DiffusionPDE form", "FunDPS form"
REGRESSIONS, GUIDED = (FNO, DEEPONET), (WHITE, COLOURED)
BATCH = 16
ROUGHNESS = 1.5  # alpha of the trace-class noise: rougher than the fields, whose alpha is 2
NETWORKS = {
    FNO: {"kind": "fourier_operator", "width": 24, "modes": 12, "depth": 6},  # our own network's sizes
    DEEPONET: {"kind": "deeponet", "width": 256, "depth": 4, "terms": 128},
    WHITE: {"kind": "unet", "width": 16, "levels": 4, "widest": 64},
    COLOURED: {"kind": "fourier_operator", "width": 20, "modes": 12, "depth": 4},
}
RATES = {FNO: 4e-3, DEEPONET: 1e-3, WHITE: 2e-3, COLOURED: 4e-3}
LEVELS = (-0.4, 1.4)  # mean and standard deviation of log rho in training: as our own networks
RELATIVE = 0.01  # the noise of the equations
HELD = 64  # of the training fields, for validation


@dataclass(frozen=True)
class Scales:
    """Mean and standard deviation by which each channel of a joint field is made one of variance 1, (c, 1, 1)."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Scales:
        """Those of training fields (N, c, n, n)."""
        dims = (0, 2, 3)
        mean = x.mean(dims)[:, None, None]
        return cls(mean, (x - mean).square().mean(dims).sqrt()[:, None, None])

    def there(self, x: Tensor) -> Tensor:
        """(x - mean) / std."""
        return (x - self.mean) / self.std

    def back(self, z: Tensor) -> Tensor:
        """The inverse, in float64."""
        return z.double() * self.std + self.mean


class GridScore(NetworkDenoiser):
    """Fields (B, c, n, n) of variance 1 by the preconditioning of Karras et al. 2022 alone, for noise of variance 1.

    D = z / (1 + rho^2) + rho / sqrt(1 + rho^2) F(z / sqrt(1 + rho^2), log(rho)/4)
    """

    def __init__(self, process: NoiseProcess, network: nn.Module, shape: tuple[int, int, int]):
        self.process, self.network, self.x_shape = process, network, shape
        parameter = next(network.parameters())
        self.dtype, self.device = parameter.dtype, parameter.device
        self.moments = Moments(torch.zeros(shape), torch.ones(shape))
        self.data_std, self.rho_range = 1.0, RHO_RANGE

    def denoised(self, z: Tensor, rho: Tensor, cond: Cond) -> Tensor:
        """See the class."""
        total = 1 + rho**2
        value = self.network(z * column(total.rsqrt(), z), (rho.log() / 4).reshape(-1).to(z))
        return column(1 / total, z) * z + column(rho * total.rsqrt(), z) * value


def process_of(method: str, n: int) -> NoiseProcess:
    """White noise on the grid, or the trace-class noise of mean variance 1."""
    if method == WHITE:
        return VarianceExploding(RHO_RANGE[1])
    rough = CosineField(modes=n, dimension=2, tau=3.0, alpha=ROUGHNESS)
    scaled = CosineField(modes=n, dimension=2, tau=3.0, alpha=ROUGHNESS, amplitude=rough.mean_variance**-0.5)
    return VarianceExploding(RHO_RANGE[1], noise=OnGrid(scaled, (n, n)))


class Regression(nn.Module):
    """E[wanted given what is seen]: by values with zero where nothing is seen, the mask of points, and the noise."""

    def __init__(self, method: str, n: int):
        super().__init__()
        own: dict[str, object] = {"c_in": 2, "c_out": 1}
        if method == DEEPONET:
            own["sensors"] = n**2
        self.network = build({**NETWORKS[method], **own})
        axis = (torch.arange(n) + 0.5) / n
        self.points: Tensor
        self.register_buffer("points", torch.cartesian_prod(axis, axis)[None], persistent=False)
        self.sets, self.x_shape = method == DEEPONET, (n, n)

    def forward(self, values: Tensor, mask: Tensor, noise: Tensor) -> Tensor:
        """values, mask (B, n, n), noise (B,) in deviations of the seen field -> (B, n, n)."""
        noise = noise / RELATIVE
        x = torch.stack([values * mask, mask], 1)
        if self.sets:
            return self.network(x.flatten(2).mT, self.points, noise, self.points)[..., 0].unflatten(1, mask.shape[1:])
        return self.network(x, noise)[:, 0]


@dataclass(frozen=True)
class Trained:
    """A network, the scales of the joint field, and what its training took."""

    method: str
    model: GridScore | Regression
    scales: Scales
    steps: int
    seconds: float
    loss: float  # of held-out fields: for GridScore that of `validation_levels`, else the mean square of variance 1

    def record(self) -> dict[str, Any]:
        """For the results."""
        size = sum(p.numel() for p in self._network().parameters())
        return {"steps": self.steps, "batch": BATCH, "seconds": self.seconds, "loss": self.loss, "parameters": size}

    def save(self, path: Path) -> None:
        """All of it."""
        plain = {name: getattr(self, name) for name in ("method", "steps", "seconds", "loss")}
        scales = {"mean": self.scales.mean, "std": self.scales.std}
        torch.save(
            {**plain, "n": self.model.x_shape[-1], "scales": scales, "state": self._network().state_dict()}, path
        )

    @classmethod
    def load(cls, path: Path) -> Trained:
        """What `save` wrote."""
        found = torch.load(path)
        state, n, scales = found.pop("state"), found.pop("n"), Scales(**found.pop("scales"))
        out = cls(model=untrained(found["method"], n, len(scales.mean)), scales=scales, **found)
        out._network().load_state_dict(state)
        return out

    def predicted(self, problem: FieldProblem, points: Tensor, y: Tensor) -> Tensor:
        """The wanted field (n, n) by a regression, for y (m,) at the points (m,)."""
        assert isinstance(self.model, Regression)
        (seen, wanted), grid = channels(problem), (problem.n, problem.n)
        mean, std = self.scales.mean.flatten(), self.scales.std.flatten()
        mask, values = torch.zeros(problem.n**2), torch.zeros(problem.n**2)
        mask[points], values[points] = 1.0, ((y - mean[seen]) / std[seen]).float()
        level = torch.tensor([problem.noise_std / float(std[seen])])
        with torch.no_grad():
            out = self.model(values.reshape(1, *grid), mask.reshape(1, *grid), level)[0]
        return out.double() * std[wanted] + mean[wanted]

    def _network(self) -> nn.Module:
        return self.model.network


def channels(problem: FieldProblem) -> tuple[int, int]:
    """Of the joint field: what is seen, what is wanted."""
    return {"inverse": (1, 0), "forward": (0, 1), "direct": (0, 0)}[problem.task]


def joint(problem: FieldProblem, fields: Fields) -> Tensor:
    """(N, c, n, n), float64: (g, u) of the equations, x itself of the others."""
    if problem.family not in SHIFT:
        return fields.wanted[:, None]
    pair = (fields.wanted, fields.seen) if problem.task == "inverse" else (fields.seen, fields.wanted)
    return torch.stack(pair, 1)


def untrained(method: str, n: int, channels: int, seed: int = 0) -> GridScore | Regression:
    """With weights from the seed; channels: of the joint field."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if method in REGRESSIONS:
            return Regression(method, n)
        network = build({**NETWORKS[method], "c_in": channels, "c_out": channels})
    return GridScore(process_of(method, n), network, (channels, n, n))


def train(method: str, problem: FieldProblem, fields: Fields, steps: int, seed: int = 0) -> Trained:
    """By any of `NETWORKS`, from training fields of the problem.

    A regression learns for both levels of noise of an equation, which it is told.
    """
    x = joint(problem, fields)
    scales = Scales.of(x)
    z = scales.there(x).float()
    model = untrained(method, problem.n, x.shape[1], seed)
    if isinstance(model, GridScore):
        seconds, loss = _fit_score(model, method, z, steps, seed)
    else:
        seen, wanted = channels(problem)
        levels = (0.0, RELATIVE) if problem.family in SHIFT else (problem.noise_std / float(scales.std[seen]),)
        seconds, loss = _fit_regression(model, method, z[:, seen], z[:, wanted], problem.count, levels, steps, seed)
    return Trained(method, model, scales, steps, seconds, loss)


def _fit_score(model: GridScore, method: str, z: Tensor, steps: int, seed: int) -> tuple[float, float]:
    """By fokker's loop: seconds of CPU and validation loss."""
    held, shown = z[-HELD:], z[:-HELD]
    settings = TrainSettings(
        steps=steps, batch_size=BATCH, copies=1, learning_rate=RATES[method], validate_every=max(50, steps // 5),
        patience=0,
    )  # fmt: skip

    def batch(step: int) -> tuple[Tensor, Cond]:
        return shown[torch.randint(len(shown), (BATCH,), generator=torch_generator(seed, "rows", step))], {}

    trainer = Trainer(model, batch, LogNormalLevels(RHO_RANGE, 1.0, *LEVELS), (held, {}), settings, seed)
    started = time.process_time()
    loss = [record.validation_loss for record in trainer.run()][-1]
    return time.process_time() - started, loss


def _fit_regression(
    model: Regression, method: str, seen: Tensor, wanted: Tensor, count: int, levels: tuple[float, ...], steps: int,
    seed: int,
) -> tuple[float, float]:  # fmt: skip
    """By least squares, points and noise drawn anew for each field: seconds of CPU and validation loss."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=RATES[method], weight_decay=1e-4, betas=(0.9, 0.99), fused=True
    )
    started = time.process_time()

    def loss(rows: Tensor | slice, generator: torch.Generator) -> Tensor:
        values, mask, level = drawn(seen[rows], count, levels, generator)
        return (model(values, mask, level) - wanted[rows]).square().mean()

    for step in range(steps):
        generator = torch_generator(seed, f"regression/{method}", step)
        for group in optimizer.param_groups:
            group["lr"] = RATES[method] * min(1.0, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * step / steps))
        value = loss(torch.randint(len(seen) - HELD, (BATCH,), generator=generator), generator)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    with torch.no_grad():
        held = float(loss(slice(len(seen) - HELD, None), torch_generator(seed, "held regression")))
    return time.process_time() - started, held


def drawn(
    seen: Tensor, count: int, levels: tuple[float, ...], generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Noisy values and mask (B, n, n), and the noise (B,), of fields seen at `count` points of their own."""
    rows = len(seen)
    order = torch.rand(rows, seen[0].numel(), generator=generator).argsort(1)[:, :count]
    mask = torch.zeros(rows, seen[0].numel()).scatter_(1, order, 1.0).reshape(seen.shape)
    level = torch.tensor(levels)[torch.randint(len(levels), (rows,), generator=generator)]
    noisy = seen + level[:, None, None] * torch.randn(seen.shape, generator=generator)
    return noisy, mask, level
