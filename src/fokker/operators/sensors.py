"""Sensors as a matrix: the linear forward operator y = B x."""

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from fokker.errors import InputError


class SensorArray:
    """The linear operator x -> B x from inputs (..., n_inputs) to sensor values (..., n_sensors).

    `matrix` is B (n_sensors, n_inputs), kept in float64, in units of the sensors over units of the inputs.
    Calls work in the dtype and on the device of their argument and are differentiable by autograd. For the
    channel of arXiv 2504.07437, section 6, B is `AdvectionDiffusion.sensor_matrix`.

    Raises `InputError` unless the matrix is two-dimensional, not empty and finite.
    """

    def __init__(self, matrix: ArrayLike | Tensor) -> None:
        # A copy: the operator must not change when the caller's array does.
        self.matrix = torch.as_tensor(matrix, dtype=torch.float64).detach().clone()
        if self.matrix.ndim != 2 or self.matrix.numel() == 0:
            raise InputError(
                f"sensors: the matrix has shape {tuple(self.matrix.shape)}; it must be (n_sensors, n_inputs)"
            )
        finite = self.matrix.isfinite()
        if not finite.all():
            where = tuple((~finite).nonzero()[0].tolist())
            raise InputError(f"sensors: matrix entry {where} is {self.matrix[where]:g}; it must be finite")

    @property
    def shape(self) -> tuple[int, int]:
        """(n_sensors, n_inputs)."""
        return (self.matrix.shape[0], self.matrix.shape[1])

    def __call__(self, x: Tensor) -> Tensor:
        """B x: (..., n_inputs) -> (..., n_sensors). Raises `InputError` for a wrong shape or dtype."""
        _check_last(x, self.shape[1], "x")
        return x @ self.matrix.to(x).T

    def adjoint(self, y: Tensor) -> Tensor:
        """B^T y: (..., n_sensors) -> (..., n_inputs). Raises `InputError` for a wrong shape or dtype."""
        _check_last(y, self.shape[0], "y")
        return y @ self.matrix.to(y)


def _check_last(value: Tensor, size: int, name: str) -> None:
    if not (isinstance(value, Tensor) and value.is_floating_point()):
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise InputError(f"sensors: {name} is of type {kind}; it must be a tensor of floating-point numbers")
    if value.ndim == 0 or value.shape[-1] != size:
        raise InputError(f"sensors: {name} has shape {tuple(value.shape)}; the last dimension must be {size}")
