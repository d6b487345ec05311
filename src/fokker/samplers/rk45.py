"""Adaptive Runge-Kutta of Dormand and Prince for the probability-flow ODE in u = log rho: dz/du = z - D(z; e^u).

Every sample has its own step size and its own error control, so a result never depends on who else is in the batch;
samples that have arrived leave it.

Source: Dormand and Prince 1980 (the 5(4) pair); Song et al. 2021 (its use for the probability-flow ODE).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.processes import NoiseProcess, check_positive
from fokker.samplers.base import Carried, StepNoise
from fokker.score import Cond, ScoreModel, State, column, row_mean

_A = [
    [1 / 5],
    [3 / 40, 9 / 40],
    [44 / 45, -56 / 15, 32 / 9],
    [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729],
    [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656],
    [35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84],
]
_C = [0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0]
# Fifth-order weights minus the embedded fourth-order ones.
_E = [71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40]


@dataclass(frozen=True)
class RK45:
    """Integrates each interval of the grid to a local error of rtol |z| + atol, root mean square over the entries.

    Entries where cond["mask"] is zero are padding and leave that mean. For a state of one part. `info` gives the
    evaluations each sample needed. max_evaluations bounds the work of one interval: beyond it FloatingPointError
    says where the slowest sample stands.
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    max_evaluations: int = 10_000
    adaptive = True

    def __post_init__(self) -> None:
        check_positive("rtol", self.rtol)
        check_positive("atol", self.atol)

    def init(self, model: ScoreModel, x: State) -> Carried:
        """Nothing to remember; InputError for a state of named parts."""
        if isinstance(x, dict):
            raise InputError("RK45: got a state of named parts, one tensor is accepted; use Heun or Transition")
        return Carried(x)

    def step(
        self, model: ScoreModel, state: Carried, t: float, s: float, noise: StepNoise, cond: Cond
    ) -> tuple[Carried, dict[str, Any]]:
        """Integrate from t to s; to s = 0 return the denoised value."""
        x, process = state.x, model.process
        assert isinstance(x, Tensor) and isinstance(process, NoiseProcess)
        ones = torch.ones(len(x), dtype=torch.int64, device=x.device)
        if s == 0:
            return Carried(model.denoise(x, t, cond)), {"evaluations": ones}
        u, end = (float(process.noise_to_signal(v).log()) for v in (t, s))
        z, evaluations = self._integrate(model, process, x / column(process.scale(t), x), u, end, cond)
        return Carried(z * column(process.scale(s), x)), {"evaluations": evaluations}

    def _integrate(
        self, model: ScoreModel, process: NoiseProcess, z: Tensor, start: float, end: float, cond: Cond
    ) -> tuple[Tensor, Tensor]:
        def slope(z: Tensor, u: Tensor, cond: Cond) -> Tensor:
            t = process.time_of(u.exp().cpu())
            denoised = model.denoise(z * column(process.scale(t), z), t, cond)
            assert isinstance(denoised, Tensor)
            return z - denoised

        result = z.clone()
        count = torch.zeros(len(z), dtype=torch.int64, device=z.device)
        rows = torch.arange(len(z), device=z.device)
        u = torch.full((len(z),), start, dtype=torch.float64, device=z.device)
        width = torch.full_like(u, (end - start) / 50)
        k1 = slope(z, u, cond)
        spent, too_short = 1, (end - start) * 1e-9
        count += 1
        while len(rows):
            if spent > self.max_evaluations:
                raise FloatingPointError(
                    f"RK45: {len(rows)} samples unfinished after {spent} evaluations, at rho = "
                    f"{float(u.max().exp()):.3g}; a larger tolerance may help"
                )
            width = torch.maximum(width, end - u)  # both negative: not beyond the end
            h = column(width, z)
            ks = [k1]
            for row, c in zip(_A, _C[1:]):
                stage = z + h * sum(a * k for a, k in zip(row, ks) if a)
                ks.append(slope(stage, (u + c * width).clamp(min=end), cond))
            spent += 6
            count[rows] += 6
            tolerance = self.atol + self.rtol * torch.maximum(z.abs(), stage.abs())
            error = h * sum(e * k for e, k in zip(_E, ks) if e) / tolerance
            error = row_mean(error.to(torch.float64).square(), cond).sqrt()
            accept = error <= 1
            z = torch.where(_wide(accept, z), stage, z)
            k1 = torch.where(_wide(accept, z), ks[-1], k1)  # the last stage is the next first one
            lost = error.isnan() & (width > too_short)  # however short the step, the model is not finite
            z = torch.where(_wide(lost, z), torch.nan, z)  # the loop names step and sample
            done = lost | (accept & (u + width <= end + 1e-12))
            u = torch.where(accept, u + width, u)
            width = width * (0.9 * error.clamp(min=1e-10) ** -0.2).clamp(0.2, 5.0).nan_to_num(nan=0.2)
            if bool(done.any()):
                result[rows[done]] = z[done]
                go = ~done
                rows, u, width, z, k1 = rows[go], u[go], width[go], z[go], k1[go]
                cond = {name: value[go] for name, value in cond.items()}
        return result, count

    def settings(self) -> dict[str, Any]:
        """Name and tolerances."""
        return {"name": "rk45", "rtol": self.rtol, "atol": self.atol}


def _wide(mask: Tensor, like: Tensor) -> Tensor:
    return mask.reshape(-1, *[1] * (like.ndim - 1))
