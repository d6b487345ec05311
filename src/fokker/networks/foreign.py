"""Networks from elsewhere: an epsilon network with integer indices as a score model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fokker.ddpm import DDPM
from fokker.errors import InputError
from fokker.score import Denoiser
from fokker.states import Cond, Moments, column


class EpsilonScore(Denoiser):
    """D = z - rho eps(x_i, i - 1), i the index of the DDPM process whose log rho is nearest. See `wrap_eps`."""

    def __init__(
        self, network: Callable[..., Tensor], process: DDPM, moments: Moments, dtype: torch.dtype, device: torch.device
    ):
        self.network, self.process, self.moments = network, process, moments
        self.dtype, self.device = dtype, device
        self.data_std = _spread(moments)
        levels = process.noise_to_signal(process.time(torch.arange(1, process.steps + 1)))
        self.rho_range = float(levels[0]), float(levels[-1])
        # Between two of these lies one index.
        self._borders = (levels[1:].log() + levels[:-1].log()) / 2

    def denoised(self, z: Tensor, rho: Tensor, cond: Cond) -> Tensor:
        """See the class; z (B, *shape)."""
        index = torch.searchsorted(self._borders, rho.cpu().log()).expand(len(z)).to(z.device)
        x = z / column((1 + rho**2).sqrt(), z)
        return z - column(rho, z) * self.network(x, index, **cond)


def wrap_eps(
    network: Callable[..., Tensor],
    process: DDPM,
    *,
    mean: float | Tensor = 0.0,
    std: float | Tensor = 1.0,
    moments: Moments | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> EpsilonScore:
    """A score model from a network that predicts the noise: eps = network(x_i, i - 1, **cond).

    x_i (B, *shape) = sqrt(abar_i) x_0 + sqrt(1 - abar_i) eps, and the network's own index i - 1 = 0 ... N - 1 comes as
    an integer tensor (B,); conditions by name, a single tensor as y=. D = (x_i - sigma eps) / m, which serves `sample`
    and, by `.on`, every other process. Between two indices the nearer in log rho is used, with z rescaled to the
    variance it has there for data N(0, I): x = z / sqrt(1 + rho^2); on `DDPMIndices` this is exact.

    mean and std (numbers, or tensors of x_shape) or `moments` of the data give the first draw; 0 and 1 make it
    DDPM's own N(0, I). dtype and device are those of the network's parameters, else float32 on the CPU.
    InputError for a process that is not DDPM, or a std that is not positive.
    """
    if not isinstance(process, DDPM):
        raise InputError(
            f"process: got a {type(process).__name__}, the DDPM process the network was trained on is needed"
        )
    if not process.noise.white:
        raise InputError("process: got correlated noise, white noise is accepted")
    if moments is None:
        spread = torch.as_tensor(std, dtype=torch.float64)
        if not bool(((spread > 0) & spread.isfinite()).all()):
            raise InputError(f"std: got {spread.tolist()}, finite values > 0 are accepted")
        moments = Moments(torch.as_tensor(mean, dtype=torch.float64), spread)
    parameter = next(network.parameters(), None) if isinstance(network, nn.Module) else None
    if dtype is None:
        dtype = torch.float32 if parameter is None else parameter.dtype
    if device is None:
        device = "cpu" if parameter is None else parameter.device
    return EpsilonScore(network, process, moments, dtype, torch.device(device))


def _spread(moments: Moments) -> float:
    factor = moments.factor.double()
    if factor.ndim == 2 and moments.mean.ndim == 1:
        return float(factor.square().sum().div(len(factor)).sqrt())
    return float(factor.square().mean().sqrt())
