"""Sensors in a channel with growth: the nonlinear solver as a differentiable operator, by its adjoint."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fokker.errors import InputError
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
        return _Solve.apply(x, _Call(self))


class _Call:
    """One call of an operator, and the solutions it found, which its derivatives need."""

    def __init__(self, operator: ChannelSensors) -> None:
        self.solver, self.points = operator.solver, operator.points
        self.states: Array = np.empty((0, 0))


class _Solve(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, call: _Call) -> Tensor:
        call.states = call.solver.solve(_array(x))
        return _like(call.solver.evaluate(call.states, call.points), x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, _Call], output: Tensor) -> None:
        ctx.call = inputs[1]
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        return _Adjoint.apply(cotangent, ctx.saved_tensors[0], ctx.call), None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        jacobian = ctx.call.solver.jacobian(ctx.call.states, ctx.call.points)
        return (_like(jacobian, tangent) @ tangent[..., None])[..., 0]


class _Adjoint(torch.autograd.Function):
    """The gradient, tied to x so that nobody takes it for a constant: differentiating it is an error."""

    @staticmethod
    def forward(cotangent: Tensor, x: Tensor, call: _Call) -> Tensor:
        return _like(call.solver.vjp(call.states, _array(cotangent), call.points), cotangent)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, _Call], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise InputError("ChannelSensors: second derivatives are asked for, only first ones are available")


def _array(value: Tensor) -> Array:
    return value.detach().cpu().double().numpy()


def _like(array: Array, like: Tensor) -> Tensor:
    return torch.from_numpy(array).to(like)
