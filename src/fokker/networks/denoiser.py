"""A network as a score model: preconditioning, and the conditions it sees."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from fokker import coordinates as coordinate_kinds
from fokker.coordinates import Coordinates
from fokker.errors import InputError
from fokker.networks.build import build
from fokker.parametrisations import PARAMETRISATIONS, skip_and_out
from fokker.processes import NoiseProcess, process_from_settings, saved_settings
from fokker.score import Denoiser
from fokker.states import Cond, Moments, as_cond, column

PRECONDITIONINGS = ("edm", *PARAMETRISATIONS)


class NetworkDenoiser(Denoiser):
    """A denoiser with a network that can be trained."""

    network: nn.Module

    def entry_weights(self, rho: Tensor, cond: Cond) -> Tensor | None:
        """What the squared error of each entry counts in the loss, (B, *shape); None where all count alike."""
        return None


class NetworkScore(NetworkDenoiser):
    """D(z; rho) from a network F, in one of these preconditionings.

    "edm" (Karras et al. 2022, table 1), in z and rho with mu the mean of the data and d their standard deviation:
        D = mu + c_skip (z - mu) + c_out F(c_in (z - mu), log(rho)/4, conditions), c_skip = d^2/(d^2 + rho^2),
        c_out = rho d / sqrt(d^2 + rho^2), c_in = 1 / sqrt(d^2 + rho^2).
    "eps" (the published form), "x0", "score", "v", "flow": F(x_t, t, conditions) is what `skip_and_out` calls so,
    in the coordinates and the time of the process it was trained on, whatever process it is sampled with.

    coordinates: the map between x and what is diffused, given the conditions; None for a model of plain x without
    conditions.
    """

    def __init__(
        self,
        process: NoiseProcess,
        network: nn.Module,
        coordinates: Coordinates | None,
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
        mean = moments.mean.flatten()
        self._centre = mean if preconditioning == "edm" and bool(mean.any()) else None
        parameter = next(network.parameters())
        self.dtype, self.device = parameter.dtype, parameter.device

    def prepare(self, cond: Tensor | Cond | None) -> Cond:
        """The conditions and the network's embedding of them (or of ready "features"), one row per measurement."""
        cond = as_cond(cond)
        if "embedding" in cond:
            return cond
        features = cond.get("features")
        if features is None:
            features = torch.zeros(1, 0) if self.coordinates is None else self.coordinates.features(cond)
        return {**cond, "embedding": self.network.embed(features.to(self.device, self.dtype))}  # type: ignore[operator]

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
        centred = flat if self._centre is None else flat - self._centre.to(flat)
        value = self.network(centred * column(enter, flat), level, embedding)
        if rho.ndim == 0:
            inner = (centred * float(skip)).add_(value, alpha=float(out))
        else:
            inner = torch.addcmul(column(skip, flat) * centred, column(out, flat), value)
        return (inner if self._centre is None else inner + self._centre.to(flat)).reshape(z.shape)

    def tensors(self) -> dict[str, Tensor]:
        """All arrays that `restore` needs."""
        out = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        if self.coordinates is not None:
            out |= {f"coordinates.{k}": v for k, v in self.coordinates.tensors().items()}
        out |= {"moments.mean": self.moments.mean, "moments.factor": self.moments.factor}
        return {name: value.contiguous() for name, value in out.items()}

    def settings(self) -> dict[str, Any]:
        """All that `restore` needs beside the arrays; InputError for what no file can hold."""
        if not self.process.noise.white:
            raise InputError("process: a model with correlated noise cannot be saved yet, only white noise is accepted")
        return {
            "coordinates": None if self.coordinates is None else self.coordinates.name,
            "preconditioning": self.preconditioning,
            "process": saved_settings(self.process),
            "trained_on": saved_settings(self.trained_on),
            "network": self.network.settings(),  # type: ignore[operator]
            "data_std": self.data_std,
            "rho_range": list(self.rho_range),
        }

    @classmethod
    def restore(cls, settings: dict[str, Any], tensors: dict[str, Tensor], device: torch.device, **more: Any) -> Self:
        """The model that `settings` and `tensors` described, its network on `device`; more: for the constructor.

        KeyError, TypeError or RuntimeError where they do not belong together.
        """
        network = build(settings["network"])
        network.load_state_dict(_under("network.", tensors))
        kind = settings["coordinates"]
        low, high = settings["rho_range"]
        return cls(
            process_from_settings(settings["process"]),
            network.to(device),
            None if kind is None else coordinate_kinds.restore(kind, _under("coordinates.", tensors)),
            Moments(tensors["moments.mean"], tensors["moments.factor"]),
            (low, high),
            preconditioning=settings["preconditioning"],
            data_std=settings["data_std"],
            trained_on=process_from_settings(settings["trained_on"]),
            **more,
        )


def _under(head: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(head) :]: value for name, value in tensors.items() if name.startswith(head)}
