"""One training loop, a generator: it yields a record at every validation, and the caller decides about the rest.

Randomness at step k comes from streams keyed by (seed, k), so a run that was interrupted and resumed from its last
record goes through the very same steps. Lengths are in steps, never in seconds.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fokker.errors import InputError
from fokker.losses import WEIGHTINGS, Levels, denoising, weight
from fokker.networks.denoiser import NetworkDenoiser
from fokker.rng import Independent, torch_generator
from fokker.score import Denoiser
from fokker.states import Cond

SCHEDULES = ("cosine", "constant", "plateau")
Batch = tuple[Tensor, Cond]  # x_0 in the coordinates of the model, and its conditions


@dataclass(frozen=True)
class TrainSettings:
    """steps of batch_size pairs, each pair with `copies` noise levels that share one embedding of its conditions.

    schedule of the learning rate after a linear warm-up: "cosine" to zero, "constant", or "plateau": constant until
    `patience` validations have brought no better score loss or a quarter of the steps is left; it then goes back to
    the best weights and falls to zero over a third of the steps so far. ema: decay of the averaged weights (0: none).
    Otherwise the run stops early once `patience` validations have brought nothing (0: never). keep_best: the model ends
    with the weights of the best validation, not with the last ones. relative: for fields with a heavy tail, r of
    `losses.denoising`: errors count relative to the value predicted, or few large values decide.
    """

    steps: int = 4000
    batch_size: int = 512
    copies: int = 4
    learning_rate: float = 2e-3
    warmup: int = 200
    schedule: str = "cosine"
    weight_decay: float = 0.0
    ema: float = 0.999
    weighting: str = "edm"
    validate_every: int = 100
    patience: int = 20
    keep_best: bool = True
    relative: float = 0.0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "copies", "validate_every"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name}: got {value!r}, an integer of at least 1 is accepted")
        if not 0 <= self.relative < math.inf:
            raise InputError(f"relative: got {self.relative!r}, a number of at least 0 is accepted")
        if self.schedule not in SCHEDULES:
            raise InputError(f"schedule: got {self.schedule!r}, one of {', '.join(SCHEDULES)} is accepted")
        if self.weighting not in WEIGHTINGS:
            raise InputError(f"weighting: got {self.weighting!r}, one of {', '.join(WEIGHTINGS)} is accepted")


@dataclass(frozen=True)
class TrainRecord:
    """Losses are averages since the last record (training) and over fixed pairs, levels and noise (validation)."""

    step: int
    steps: int
    training_loss: float
    validation_loss: float
    validation_levels: dict[str, float]  # score loss at fixed noise levels, rho in data standard deviations
    best_step: int
    seconds: float


class Trainer:
    """A model, its optimiser and averaged weights. `run()` is the loop; `state()` and `resume()` are exact."""

    def __init__(
        self,
        model: NetworkDenoiser,
        batch: Callable[[int], Batch],
        levels: Levels,
        validation: Batch,
        settings: TrainSettings,
        seed: int,
    ):
        self.model, self.batch, self.levels, self.settings, self.seed = model, batch, levels, settings, seed
        self.averaged = copy.deepcopy(model.network)
        self.best = copy.deepcopy(model.network)
        self.step, self.best_step, self.best_loss, self.seconds = 0, 0, math.inf, 0.0
        self.fall: tuple[int, int] | None = None  # the steps between which a learning rate on a plateau falls to zero
        self.records: list[TrainRecord] = []
        self.optimizer = torch.optim.AdamW(
            model.network.parameters(),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            betas=(0.9, 0.99),
            fused=True,
        )
        self._validation = validation

    def run(self) -> Iterator[TrainRecord]:
        """Train to the end; the model then holds the averaged weights, the best validated or the last."""
        settings, started, total, since = self.settings, time.perf_counter() - self.seconds, 0.0, 0
        if self.step == 0:  # the untrained network is a candidate too: one that learns nothing is not used
            by_level = validation_levels(self.model, self.best, self._validation, self.seed)
            self.best_loss = sum(by_level.values()) / len(by_level)
        while self.step < self._end and not (self._stalled() and settings.schedule != "plateau"):
            self._leave_plateau(False)
            total += float(self._one_step(self.step))
            self.step, since = self.step + 1, since + 1
            if self.step % settings.validate_every == 0 or self.step == self._end:
                self.seconds = time.perf_counter() - started
                record = self._validate(total / since)
                self._leave_plateau(self._stalled())
                yield record
                total, since = 0.0, 0
        chosen = self.best if self.settings.keep_best else self.averaged
        self.model.network.load_state_dict(chosen.state_dict())

    def _one_step(self, index: int) -> Tensor:
        settings, model = self.settings, self.model
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * self._rate(index)
        x_0, cond = self.batch(index)
        generator = torch_generator(self.seed, "train", index)
        prepared = model.prepare(cond)
        k = settings.copies
        loss = self._loss(
            x_0.repeat_interleave(k, 0), {n: v.repeat_interleave(k, 0) for n, v in prepared.items()}, generator
        ).mean()
        if not bool(torch.isfinite(loss)):
            raise FloatingPointError(f"the training loss is not finite at step {index}; a lower learning rate may help")
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            decay = min(settings.ema, (index + 1) / (index + 10))  # a young average forgets its start
            torch._foreach_lerp_(list(self.averaged.parameters()), list(model.network.parameters()), 1 - decay)
        return loss.detach()

    def _loss(self, x_0: Tensor, cond: Cond, generator: torch.Generator) -> Tensor:
        model = self.model
        rho = self.levels(len(x_0), generator)
        noise = drawn_noise(model, x_0, cond, generator)
        per_row = denoising(model, x_0, rho, noise, cond, self.settings.relative)
        return per_row * weight(self.settings.weighting, rho, model.process, model.data_std).to(per_row)

    def _rate(self, index: int) -> float:
        warm = min(1.0, (index + 1) / max(1, self.settings.warmup))
        if self.settings.schedule == "constant" or (self.settings.schedule == "plateau" and self.fall is None):
            return warm
        if self.fall is not None:
            first, last = self.fall
            return (last - index) / (last - first)
        return warm * 0.5 * (1 + math.cos(math.pi * index / self.settings.steps))

    @property
    def _end(self) -> int:
        return self.settings.steps if self.fall is None else self.fall[1]

    def _leave_plateau(self, stalled: bool) -> None:
        """Begin to lower a learning rate that has been constant, where it is time."""
        if self.settings.schedule != "plateau" or self.fall is not None or self.step >= self.settings.steps:
            return
        if stalled:
            for network in (self.model.network, self.averaged):
                network.load_state_dict(self.best.state_dict())
        elif self.step < 0.75 * self.settings.steps:
            return
        self.fall = self.step, min(self.settings.steps, self.step + max(1, self.step // 3))

    def _stalled(self) -> bool:
        waited = self.step - self.best_step
        return 0 < self.settings.patience <= waited // self.settings.validate_every

    @torch.no_grad()
    def _validate(self, training_loss: float) -> TrainRecord:
        by_level = validation_levels(self.model, self.averaged, self._validation, self.seed)
        loss = sum(by_level.values()) / len(by_level)
        if loss < self.best_loss:
            self.best_loss, self.best_step = loss, self.step
            self.best.load_state_dict(self.averaged.state_dict())
        record = TrainRecord(
            self.step, self.settings.steps, training_loss, loss, by_level, self.best_step, self.seconds
        )
        self.records.append(record)
        return record

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and plain values from which `resume` continues exactly."""
        tensors = {}
        for name, network in self._networks():
            tensors.update({f"{name}.{key}": value for key, value in network.state_dict().items()})
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors.update({f"optimizer.{index}.{key}": value for key, value in state.items()})
        values = {
            "step": self.step, "best_step": self.best_step, "best_loss": self.best_loss, "seconds": self.seconds,
            "fall": self.fall,
            "settings": asdict(self.settings), "seed": self.seed, "records": [asdict(r) for r in self.records],
        }  # fmt: skip
        return {name: value.detach().clone().contiguous() for name, value in tensors.items()}, values

    def resume(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Continue from what `state` gave; InputError where it belongs to other settings."""
        for name, mine in (("settings", asdict(self.settings)), ("seed", self.seed)):
            if values.get(name) != mine:
                raise InputError(f"checkpoint: its {name} are {values.get(name)!r}, this run has {mine!r}")
        for name, network in self._networks():
            head = f"{name}."
            network.load_state_dict({k[len(head) :]: v for k, v in tensors.items() if k.startswith(head)})
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, entry = key.split(".")
                state.setdefault(int(index), {})[entry] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.step, self.best_step, self.best_loss = values["step"], values["best_step"], values["best_loss"]
        self.seconds = values["seconds"]
        self.fall = None if values["fall"] is None else tuple(values["fall"])
        self.records = [TrainRecord(**record) for record in values["records"]]

    def _networks(self) -> list[tuple[str, nn.Module]]:
        return [("network", self.model.network), ("averaged", self.averaged), ("best", self.best)]


def checked_device(device: str | torch.device) -> torch.device:
    """The device; InputError where there is none of that name on this machine."""
    try:
        found = torch.device(device)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:  # torch says it in any of these ways
        said = str(error).strip().split("\n")[0]
        raise InputError(f"device: got {device!r} ({said}), 'cpu' or a device of this machine is accepted") from error
    return found


@contextmanager
def suitable_threads(network: nn.Module) -> Iterator[None]:
    """One thread for a network of fewer than a million weights: more only wait for each other. Restored at the end."""
    before, size = torch.get_num_threads(), sum(p.numel() for p in network.parameters())
    torch.set_num_threads(1 if size < 1_000_000 else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def drawn_noise(model: Denoiser, x_0: Tensor, cond: Cond, generator: torch.Generator) -> Tensor:
    """Noise of the model's law for each row of x_0."""
    noise = model.process.noise
    if noise.white:
        return torch.randn(x_0.shape, generator=generator, dtype=x_0.dtype).to(x_0.device)
    return noise.sample(x_0, Independent(generator, len(x_0)), cond.get("points"))


@torch.no_grad()
def validation_levels(model: NetworkDenoiser, network: nn.Module, validation: Batch, seed: int) -> dict[str, float]:
    """E |D - x_0|^2 (rho^2 + d^2) / (rho d)^2 of `network` at fixed noise levels, with fixed noise.

    The weight is the same for every way of training, so models trained differently can be compared; a Gaussian denoiser
    with the right mean and covariance has 1 at every level when the data are standardised.
    """
    judged = copy.copy(model)
    judged.network = network
    x_0, cond = validation
    prepared, out = judged.prepare(cond), {}
    highest = float(judged.process.noise_to_signal(judged.time_range[1]))
    for index, level in enumerate((0.02, 0.1, 0.3, 1.0, 3.0, 10.0)):
        if level * model.data_std > highest:
            break  # the process ends before
        rho = torch.full((len(x_0),), level * model.data_std, dtype=torch.float64)
        generator = torch_generator(seed, "validation", index)
        per_row = denoising(judged, x_0, rho, drawn_noise(judged, x_0, prepared, generator), prepared)
        out[f"{level:g}"] = float((per_row * weight("edm", rho, model.process, model.data_std).to(per_row)).mean())
    return out
