"""A known p(y given x_t) added to a prior's score."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fokker.composition import Composed
from fokker.errors import InputError
from fokker.processes import NoiseProcess, Time, as_time
from fokker.score import ScoreModel
from fokker.states import Cond, State, as_cond, column, over_parts

LogLikelihood = Callable[[Any, Tensor, Cond], Tensor]


class TiltedScore(Composed):
    """The score of p(x_t) p(y given x_t): grad log p_t(x_t) + grad log p(y given x_t).

    log_likelihood(x_t, t, cond) -> (B,) is any function that torch can differentiate in x_t (B, *shape) (a dict of
    them for a model of named parts); t is a float64 tensor, a scalar or (B,); row i of its value may depend on row i of
    x_t alone. Over time it has to be p(y given x_t) itself, which is known for Gaussian and mixture priors with
    linear-Gaussian data; a function that does not depend on t is meant for Langevin samplers at one level. x_t is
    in the coordinates that the model diffuses. The denoiser becomes D + (sigma^2/m) C grad; the model is evaluated
    once. The first draw is the model's own: where the data move the mean of x by k standard deviations of the
    prior, samples of the ODE are off by about k/20 of theirs (alpha = 1 forgets it).

    Raises InputError, when called, where the function returns another shape or nothing that depends on x_t.

    Source: Song et al. 2021, section 5 (conditional sampling by Bayes' rule for scores).
    """

    def __init__(self, model: ScoreModel, log_likelihood: LogLikelihood):
        if not callable(log_likelihood):
            raise InputError(f"log_likelihood: got {type(log_likelihood).__name__}, a function is accepted")
        _check_arguments(log_likelihood)
        super().__init__(model)
        self.model, self.log_likelihood = model, log_likelihood

    def on(self, process: NoiseProcess) -> TiltedScore:
        """The tilted model on another process; the function is given that process's x_t and t."""
        return TiltedScore(self.model.on(process), self.log_likelihood)

    def prepare(self, cond: Tensor | Cond | None) -> Cond:
        """As the model prepares them."""
        return self.model.prepare(cond)

    def denoise(self, x_t: State, t: Time, cond: Tensor | Cond | None = None) -> State:
        """D + (sigma^2/m) C grad log p(y given x_t), detached unless x_t itself is being differentiated."""
        t, cond = as_time(t), as_cond(cond)
        gradient = self._gradient(x_t, t, cond)

        def part(process: NoiseProcess, d: Tensor, g: Tensor) -> Tensor:
            gain = column(process.sigma(t) ** 2 / process.scale(t), g)
            return d + gain * process.noise.apply(g, cond.get("points"))

        return over_parts(part, self.process, self.model.denoise(x_t, t, cond), gradient)

    def _gradient(self, x_t: State, t: Tensor, cond: Cond) -> State:
        names = list(x_t) if isinstance(x_t, dict) else [""]
        given = list(x_t.values()) if isinstance(x_t, dict) else [x_t]
        kept = torch.is_grad_enabled() and any(v.requires_grad for v in given)
        inputs = [v if kept and v.requires_grad else v.detach().requires_grad_() for v in given]
        rows = len(given[0])
        with torch.enable_grad():
            value = self.log_likelihood(dict(zip(names, inputs)) if isinstance(x_t, dict) else inputs[0], t, cond)
            if not isinstance(value, Tensor) or value.shape != (rows,):
                found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise InputError(f"log_likelihood: returned {found}, a tensor of shape ({rows},) is accepted")
            gradients: Sequence[Tensor | None] = [None] * len(inputs)
            if value.requires_grad:
                gradients = torch.autograd.grad(value.sum(), inputs, create_graph=kept, allow_unused=True)
        if all(g is None for g in gradients):
            raise InputError("log_likelihood: its value does not depend on x_t, a differentiable function is accepted")
        filled = [torch.zeros_like(v) if g is None else g for v, g in zip(inputs, gradients)]
        return dict(zip(names, filled)) if isinstance(x_t, dict) else filled[0]


def _check_arguments(log_likelihood: LogLikelihood) -> None:
    try:
        signature = inspect.signature(log_likelihood)
    except ValueError:  # a function written in C has none
        return
    try:
        signature.bind(None, None, None)
    except TypeError:
        raise InputError(f"log_likelihood: takes {signature}, a function of (x_t, t, cond) is accepted") from None
