"""Sensors in a channel with growth: the nonlinear solver as a differentiable operator, by its adjoint."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from fokker.operators.forward import ForwardOperator

Array = NDArray[np.float64]


class Solver(Protocol):
    """What is needed of a nonlinear model; `fokker.pde.reaction.LogisticReaction` is one."""

    channel: Any

    def solve(self, flux: ArrayLike) -> Array:
        """States (B, N) for fluxes (B, n)."""

    def evaluate(self, concentration: Array, points: ArrayLike) -> Array:
        """Values (B, m) of states at points (m, 2)."""

    def vjp(self, concentration: Array, cotangent: ArrayLike, points: ArrayLike | None = None) -> Array:
        """J^T g (B, n) at states, for cotangents g (B, m)."""

    def jacobian(self, concentration: Array, points: ArrayLike | None = None) -> Array:
        """J (B, m, n) at states."""


class ChannelSensors(ForwardOperator):
    """y (..., m) = concentrations at m points for wall fluxes x (..., n), by a solver of the nonlinear channel.

    Backwards by the solver's discrete adjoint, one adjoint solve for each row; forwards (jvp) by its Jacobian. Both are
    exact for the discrete equations, in float64 on the CPU whatever the dtype and device of x; second derivatives are
    not available. A flux without a solution (it draws from the channel) has y and gradient NaN.

    solver: fokker.pde.reaction.LogisticReaction. points: (m, 2) in the channel, its sensors by default. Raises
    InputError for points outside the channel and a flux that is not finite. For the linear channel take `SensorArray`.
    """

    def __init__(self, solver: Solver, points: ArrayLike | None = None) -> None:
        self.solver = solver
        self.points = np.array(solver.channel.sensors if points is None else points, dtype=np.float64)
        solver.evaluate(solver.solve(np.zeros(solver.channel.n_fluxes)), self.points)  # refuses wrong points now
        super().__init__((solver.channel.n_fluxes,), (len(self.points),))

    def _apply(self, x: Tensor) -> Tensor:
        return _Solve.apply(x, self)[0]


class _Solve(torch.autograd.Function):
    """(y, states) of fluxes; the states are kept for the derivatives."""

    @staticmethod
    def forward(x: Tensor, operator: ChannelSensors) -> tuple[Tensor, Tensor]:
        states = operator.solver.solve(_array(x))
        return _like(operator.solver.evaluate(states, operator.points), x), torch.from_numpy(states)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ChannelSensors], output: tuple[Tensor, Tensor]) -> None:
        ctx.operator = inputs[1]
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])
        ctx.save_for_forward(output[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, cotangent: Tensor, _: Tensor) -> tuple[Tensor, None]:
        (states,) = ctx.saved_tensors
        gradient = ctx.operator.solver.vjp(states.numpy(), _array(cotangent), ctx.operator.points)
        return _like(gradient, cotangent), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> tuple[Tensor, None]:
        (states,) = ctx.saved_tensors
        jacobian = ctx.operator.solver.jacobian(states.numpy(), ctx.operator.points)
        return _like(np.einsum("bmn,bn->bm", jacobian, _array(tangent)), tangent), None


def _array(value: Tensor) -> Array:
    return value.detach().cpu().double().numpy()


def _like(array: Array, like: Tensor) -> Tensor:
    return torch.from_numpy(array).to(like)
