"""What a guided method may ask of one evaluation of the denoiser and the operator."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.posterior.gaussian_data import LinearData, as_gaussian
from fokker.posterior.normal_equations import DENSE
from fokker.posterior.problem import MEASURED, Problem
from fokker.processes import NoiseProcess
from fokker.states import Cond, column


class At:
    """One guided evaluation: x_t, D with its graph, t and the conditions, and the products a method needs of them.

    Vectors of data are (B, m), y flattened, in float64; those of x are (B, *x_shape).
    """

    def __init__(self, problem: Problem, process: NoiseProcess, x_t: Tensor, x_0_hat: Tensor, t: Tensor, cond: Cond):
        self.x_t, self.x_0_hat, self.cond, self.problem = x_t, x_0_hat, cond, problem
        assert isinstance(problem.model.data_std, float)
        self.noise, self.data_std = process.noise, problem.model.data_std
        self.t, self.rho = t, process.noise_to_signal(t)
        self.scale = process.scale(t)
        self.gain = process.sigma(t) ** 2 / self.scale  # sigma^2 / m

    @property
    def y(self) -> Tensor:
        """The measurement of each row."""
        return self.cond[MEASURED]

    @property
    def z(self) -> Tensor:
        """x_t / m."""
        return self.x_t / column(self.scale, self.x_t)

    @property
    def white(self) -> bool:
        """Whether C is the identity."""
        return self.noise.white

    def coloured(self, value: Tensor) -> Tensor:
        """C value."""
        return self.noise.apply(value, self.cond.get("points"))

    def linear_data(self, clean: Tensor) -> LinearData:
        """What the data say near forward(D) = clean, with Gaussian noise."""
        data, law = as_gaussian(self.problem.likelihood, self.y, clean.detach())
        return LinearData((data - clean.detach()).flatten(1).double(), law, self.y.shape)

    def clean(self) -> Tensor:
        """forward(D) with its graph; InputError where the operator has lost the gradient."""
        out = self.problem.clean(self.x_0_hat, self.cond)
        if not out.requires_grad:
            raise InputError("forward: its value has lost the gradient; torch operations without detach are accepted")
        return out

    def pull(self, value: Tensor, weight: Tensor | None = None, keep: bool = False) -> Tensor:
        """The gradient by x_t of sum(value weight): one backward pass through operator and denoiser."""
        return torch.autograd.grad(value, self.x_t, weight, retain_graph=keep)[0]

    def derivative_transposed(self, value: Tensor) -> Tensor:
        """J^T value, J = dD/dx_t."""
        return torch.autograd.grad(self.x_0_hat, self.x_t, value, retain_graph=True)[0]

    def linearised(self) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
        """v -> H^T v and x -> H x, H the derivative of the operator at D."""
        x, shape = self.x_0_hat.detach(), self.y.shape
        operator = self.problem.linear
        if operator is not None:
            return (
                lambda v: operator.adjoint(v.to(x).reshape(shape)),
                lambda value: operator(value).flatten(1).double(),
            )
        x = x.requires_grad_()
        out = self.problem.clean(x, self.cond).flatten(1)
        if out.shape[1] <= DENSE:
            rows = [torch.autograd.grad(out[:, k].sum(), x, retain_graph=True)[0] for k in range(out.shape[1])]
            h = torch.stack(rows, 1)  # (B, m, *x_shape)
            return (
                lambda v: torch.einsum("bk,bk...->b...", v.to(h), h),
                lambda value: torch.einsum("bkj,bj->bk", h.flatten(2).double(), value.flatten(1).double()),
            )
        w = torch.zeros_like(out, requires_grad=True)
        back = torch.autograd.grad(out, x, w, create_graph=True)[0]
        return (
            lambda v: torch.autograd.grad(out, x, v.to(out), retain_graph=True)[0],
            lambda value: torch.autograd.grad(back, w, value, retain_graph=True)[0].double(),
        )
