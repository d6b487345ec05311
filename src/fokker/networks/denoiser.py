"""A network as a score model: preconditioning, and the conditions it sees."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fokker.coordinates import Coordinates
from fokker.errors import InputError
from fokker.processes import NoiseProcess
from fokker.score import PARAMETRISATIONS, Cond, Denoiser, Moments, as_cond, column, skip_and_out

PRECONDITIONINGS = ("edm", *PARAMETRISATIONS)


class NetworkScore(Denoiser):
    """D(z; rho) from a network F, in one of these preconditionings.

    "edm" (Karras et al. 2022, table 1), in z and rho with d the standard deviation of the data:
        D = c_skip z + c_out F(c_in z, log(rho)/4, conditions), c_skip = d^2/(d^2 + rho^2),
        c_out = rho d / sqrt(d^2 + rho^2), c_in = 1 / sqrt(d^2 + rho^2).
    "eps" (the published form), "x0", "score", "v", "flow": F(x_t, t, conditions) is what `score.skip_and_out` calls so,
    in the coordinates and the time of the process it was trained on, whatever process it is sampled with.
    """

    def __init__(
        self,
        process: NoiseProcess,
        network: nn.Module,
        coordinates: Coordinates,
        moments: Moments,
        rho_range: tuple[float, float],
        *,
        preconditioning: str = "edm",
        data_std: float = 1.0,
        trained_on: NoiseProcess | None = None,
    ):
        if preconditioning not in PRECONDITIONINGS:
            raise InputError(
                f"preconditioning: got {preconditioning!r}, one of {', '.join(PRECONDITIONINGS)} is accepted"
            )
        self.process, self.network, self.coordinates = process, network, coordinates
        self.moments, self.rho_range = moments, rho_range
        self.preconditioning, self.data_std = preconditioning, data_std
        self.trained_on = process if trained_on is None else trained_on
        parameter = next(network.parameters())
        self.dtype, self.device = parameter.dtype, parameter.device

    def prepare(self, cond: Tensor | Cond | None) -> Cond:
        """The conditions and the network's embedding of them (or of ready "features"), one row per measurement."""
        cond = as_cond(cond)
        if "embedding" in cond:
            return cond
        features = cond["features"] if "features" in cond else self.coordinates.features(cond)
        features = features.to(self.device, self.dtype)
        return {**cond, "embedding": self.network.embed(features)}  # type: ignore[operator]

    def denoised(self, z: Tensor, rho: Tensor, cond: Cond) -> Tensor:
        """See the class; z (B, *shape) is flattened for the network."""
        embedding = self.prepare(cond)["embedding"]
        flat = z.flatten(1)
        if self.preconditioning != "edm":
            t = self.trained_on.time_of(rho)
            value = self.network(flat * column(self.trained_on.scale(t), flat), t.reshape(-1).to(flat), embedding)
            skip, out = skip_and_out(self.preconditioning, self.trained_on, rho, t)
            return (column(skip, flat) * flat + column(out, flat) * value).reshape(z.shape)
        total = rho**2 + self.data_std**2
        skip, out, enter = self.data_std**2 / total, rho * self.data_std / total.sqrt(), total**-0.5
        level = (rho.log() / 4).reshape(-1).to(flat)
        value = self.network(column(enter, flat) * flat, level, embedding)
        return torch.addcmul(column(skip, flat) * flat, column(out, flat), value).reshape(z.shape)
