"""fokker's side: the shared denoiser as a prior, the operators, and a call that samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from guidance_cases import BETAS, BLUR, box
from torch import Tensor, nn

import fokker
from fokker import operators
from fokker.operators.kernels import gaussian_kernel
from fokker.score import Denoiser
from fokker.states import Cond, Moments

Sample = Callable[[Tensor, int, int], Tensor]  # y (M, *y_shape), samples of each, seed -> (M, samples, C, H, W)


class Shared(Denoiser):
    """The prior whose denoiser is the shared module; data of mean 0 and standard deviation 1."""

    def __init__(self, module: nn.Module, shape: tuple[int, ...], process: Any):
        self.module, self.process = module, process
        self.moments, self.data_std = Moments(torch.zeros(shape), torch.ones(())), 1.0
        self.rho_range = (1e-3, 1e3)
        self.dtype, self.device = torch.float32, torch.device("cpu")

    def denoised(self, z: Tensor, rho: Tensor, cond: Cond) -> Tensor:
        """D(z, rho)."""
        return self.module(z, rho.to(z).expand(len(z)))


def operator(name: str, shape: tuple[int, int, int]) -> operators.LinearOperator:
    """One of OPERATORS for images of this shape."""
    first, side = box(shape[-1])
    match name:
        case "denoising":
            return operators.Identity(shape)
        case "box":
            return operators.Inpainting.box(shape, first, first, side, side)
    return operators.Blur(gaussian_kernel(BLUR), shape)


def times(steps: int) -> Tensor:
    """Falling uniformly from 1 to 0."""
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


def levels(steps: int) -> list[float]:
    """The levels rho of `times`, 0 at the end."""
    process = fokker.VariancePreserving(2.0, *BETAS)
    return [float(process.noise_to_signal(t)) for t in times(steps)[:-1]] + [0.0]


def sampler(
    method: str, module: nn.Module, shape: tuple[int, int, int], forward: str, noise: float, steps: int
) -> Sample:
    """`method` by DDPM's ancestral step on `times`, or, for "... defaults", by the default sampler and grid."""
    name, *options = method.split()
    defaults = "defaults" in options
    process = fokker.VariancePreserving(2.0, *BETAS)
    given: dict[str, Any] = {"forward": operator(forward, shape), "likelihood": fokker.Gaussian(noise)}
    scales = [float(option) for option in options if option != "defaults"]
    if scales:
        given["scale"] = scales[0]
    posterior = getattr(fokker, name)(Shared(module, shape, process), **given)
    how: dict[str, Any] = (
        {"steps": steps} if defaults else {"sampler": fokker.Transition(alpha=1.0), "grid": times(steps)}
    )

    def draw(y: Tensor, count: int, seed: int) -> Tensor:
        return posterior.sample(y, count, seed, **how).samples

    return draw
