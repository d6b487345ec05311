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
from fokker.samplers.dormand_prince import Parts, integrate
from fokker.score import ScoreModel
from fokker.states import Cond, State, column


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

        def slope(parts: Parts, u: Tensor, rows: Tensor, cond: Cond) -> Parts:
            z, t = parts[0], process.time_of(u.exp().cpu())
            denoised = model.denoise(z * column(process.scale(t), z), t, cond)
            assert isinstance(denoised, Tensor)
            return (z - denoised,)

        (z,), evaluations = integrate(
            slope,
            (x / column(process.scale(t), x),),
            u,
            end,
            cond,
            rtol=self.rtol,
            atol=self.atol,
            max_evaluations=self.max_evaluations,
            name="RK45",
        )
        return Carried(z * column(process.scale(s), x)), {"evaluations": evaluations}

    def settings(self) -> dict[str, Any]:
        """Name and tolerances."""
        return {"name": "rk45", "rtol": self.rtol, "atol": self.atol}
