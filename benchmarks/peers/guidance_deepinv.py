"""deepinv's side: the shared denoiser as one of its own, the operators, and a call that samples."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from guidance_cases import BETAS, box
from torch import Tensor, nn

# deepinv imports torchvision, which beside a torch of another build fails for two operators that nobody calls here.
_VISION = Path(find_spec("torchvision").origin).with_name("version.py")
if torch.version.cuda is None and "+cu" in _VISION.read_text():
    _KEPT = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _KEPT.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

import deepinv as dinv  # noqa: E402

Sample = Callable[[Tensor, int, int], Tensor]


class Shared(dinv.models.Denoiser):
    """The shared module behind deepinv's call."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, x: Tensor, sigma: Any, **more: Any) -> Tensor:
        """D(x, sigma)."""
        return self.module(x, torch.as_tensor(sigma, dtype=x.dtype).reshape(-1).expand(len(x)))


def physics(name: str, shape: tuple[int, int, int], noise: float, kernel: Tensor) -> Any:
    """One of OPERATORS for images of this shape; kernel (h, w) of the blur."""
    law = dinv.physics.GaussianNoise(noise)
    match name:
        case "denoising":
            return dinv.physics.Denoising(law)
        case "box":
            (first, side), mask = box(shape[-1]), torch.ones(shape)
            mask[:, first : first + side, first : first + side] = 0
            return dinv.physics.Inpainting(img_size=shape, mask=mask, noise_model=law)
    return dinv.physics.BlurFFT(img_size=shape, filter=kernel.float()[None, None], noise_model=law)


def guidance(method: str) -> Any:
    """The data term of "DPS", "DPS 20", "DPS annealed", "PiGDM", "MomentMatching" or "MomentMatching 100"."""
    name, *options = method.split()
    match name, options:
        case "DPS", ["annealed"]:
            return dinv.sampling.DPSDataFidelity(guidance="annealed")
        case "DPS", _:
            return dinv.sampling.DPSDataFidelity(weight=float(options[0]) if options else 1.0)
        case "PiGDM", _:
            return dinv.sampling.PiGDMDataFidelity()
    return dinv.sampling.MomentMatchingDataFidelity(**({"cg_max_iter": int(options[0])} if options else {}))


def sampler(method: str, module: nn.Module, shape: tuple[int, int, int], op: Any, levels: list[float]) -> Sample:
    """`method` by DDPM's step on times falling uniformly from 1 to 0; DDRM on `levels`, which are theirs."""
    denoiser, steps = Shared(module), len(levels) - 1

    def draw(y: Tensor, count: int, seed: int) -> Tensor:
        many = y.repeat_interleave(count, 0)
        if method == "DDRM":
            found = dinv.sampling.DDRM(denoiser, sigmas=levels)(many, op, seed=seed + 1)  # it takes 0 for none
        else:
            found = diffusion(many, op, x_init=(len(many), *shape), seed=seed)
        return found.detach().reshape(len(y), count, *shape)

    if method != "DDRM":
        process = dinv.sampling.VariancePreservingDiffusion(beta_min=BETAS[0], beta_max=BETAS[1], alpha=1.0)
        new = hasattr(dinv.sampling, "DDPMSolver")
        kind = dinv.sampling.DDPMSolver if new else dinv.sampling.EulerSolver  # all there is before 0.5; not to t = 0
        times = torch.linspace(1, 0 if new else 1e-3, steps + 1, dtype=torch.float64)
        solver = kind(timesteps=times, rng=torch.Generator())
        diffusion = dinv.sampling.PosteriorDiffusion(
            data_fidelity=guidance(method), denoiser=denoiser, sde=process, solver=solver, minus_one_one=False
        )
    return draw
