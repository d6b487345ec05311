"""What the guided posteriors share: a prior that is sampled while its denoiser is drawn to the data.

With D = E[x_0 given x_t] and g = grad log p(y given x_t), the denoiser of the posterior is

    D_y = D + (sigma^2 / m) C g          (C the covariance of the noise, the identity unless told otherwise),

exactly where p(y given x_t) is exact. The methods differ in how they approximate it.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from fokker.composition import Composed
from fokker.errors import Diverges, InputError
from fokker.posterior.doubts import tell
from fokker.posterior.evaluation import At
from fokker.posterior.gaussian_data import has_gaussian
from fokker.posterior.problem import Problem
from fokker.posterior.samples import PosteriorSamples, check_count
from fokker.processes import NoiseProcess, Time, as_time
from fokker.rng import Rows
from fokker.samplers.base import Sampler
from fokker.samplers.gaussian_transition import GaussianTransition
from fokker.samplers.loop import sample
from fokker.score import ScoreModel
from fokker.states import Cond, State, as_cond, column
from fokker.time_grid import Grid

Guide = Callable[[At], tuple[Tensor, Tensor]]  # the gradient by x_t, and log p(y given x_t) (B,)


class GuidedPosterior(ABC):
    """p(x given y) from a prior, a known forward operator and a likelihood; nothing is trained.

    See `posterior.problem.Problem` for the three. A subclass says what the loop runs: `model` and, where it is not the
    one asked for, `run_by`.
    """

    steps: ClassVar[int] = 64
    without_data: ClassVar[bool] = False  # whether none at all, which leaves the prior, are accepted
    why: str = ""  # this method was chosen, where `fokker.guided` chose it

    def __init__(self, prior: Any, *, forward: Any, likelihood: Any):
        self.problem = Problem(prior, forward, likelihood)
        if 0 in self.problem.y_shape and not self.without_data:
            raise InputError("forward: gives no data, at least one number is accepted; FunctionPosterior takes none")
        self.check()

    def __repr__(self) -> str:
        problem, shapes = self.problem, f"x_shape={self.problem.x_shape}, y_shape={self.problem.y_shape}"
        prior = type(problem.model if problem.given is None else problem.given).__name__
        forward = getattr(problem.forward, "__name__", type(problem.forward).__name__)
        return f"{type(self).__name__}({prior}, {forward}, {problem.likelihood!r}, {shapes})"

    def check(self) -> None:  # noqa: B027 - a method may take every problem
        """InputError for an operator or a likelihood that this method cannot serve; it names the methods that can."""

    @property
    def sampler(self) -> Sampler:
        """The default: stochastic, so that the first draw, which does not know y, is forgotten."""
        return GaussianTransition(alpha=1.0)

    @abstractmethod
    def model(self) -> ScoreModel:
        """What is sampled, given the condition `measurement`."""

    def run_by(self, sampler: Sampler, count: int) -> Sampler:
        """The sampler that makes the steps, `count` rows for each measurement."""
        return sampler

    def count(self, n: int) -> int:
        """Rows that are run for n samples of a measurement."""
        return n

    def finished(self, found: PosteriorSamples, n: int, first: int) -> PosteriorSamples:
        """What is returned of the rows that were run."""
        return found

    def sample(
        self,
        y: Any,
        n: int,
        seed: int = 0,
        *,
        given: Mapping[str, Any] | None = None,
        sampler: Sampler | None = None,
        grid: Grid | Tensor | None = None,
        steps: int | None = None,
        first: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> PosteriorSamples:
        """n samples for y (*y_shape), or for each of (M, *y_shape).

        given: the conditions of a prior that is itself a conditional posterior: {"y": ...}, and "omega" and "cond" as
        its own `sample` takes them, one row or one for each measurement. sampler, grid, steps: as for `fokker.sample`.
        A sample depends on the seed and on the index of its measurement, not on how many are drawn at once; first: the
        index of the first measurement.

        A `Doubt`, a UserWarning, says of which measurements the samples neither fit y nor the prior, or where single
        ones went astray: see `posterior.doubts`.

        Raises InputError for a wrong shape, NaN in y, n < 1, a wrong grid, an operator that gives NaN, and
        `errors.Diverges` where samples go astray (the method's steps are too long for this noise) or no particle is
        left.
        """
        check_count(n)
        measured, batched = self.problem.measurements(y)
        model = self.model()
        count = self.count(n)
        chosen = self.run_by(self.sampler if sampler is None else sampler, count)
        cond = self.problem.conditions(measured.to(model.device, model.dtype), given)
        started = time.perf_counter()
        try:
            result = sample(
                model,
                (len(measured) * count, *self.problem.x_shape),
                sampler=chosen,
                steps=self.steps if steps is None else steps,
                grid=grid,
                seed=seed,
                cond=cond,
                rows=Rows.grid(len(measured), count, first),
                progress=progress,
            )
            self.problem.check_near(result.samples)
        except FloatingPointError as error:
            what = f"{type(self).__name__}: diverges for this noise and number of steps ({error})"
            raise Diverges(f"{what}; {self.remedy()}") from error
        drawn = result.samples.unflatten(0, (len(measured), count))[:, torch.arange(n) * count // n]
        tell(self.problem, drawn, cond, first, self.remedy())
        rows = {name: value.repeat_interleave(count, 0) for name, value in cond.items()}
        x = self.problem.to_x(result.samples, rows).cpu().reshape(len(measured), count, *self.problem.x_shape)
        lead = (len(measured), count) if batched else (count,)
        found = PosteriorSamples(
            samples=x if batched else x[0],
            y=measured if batched else measured[0],
            batched=batched,
            nfe=result.nfe,
            seconds=time.perf_counter() - started,
            settings={**result.settings, **self.settings()},
            info={name: value.cpu().reshape(lead) for name, value in result.info.items()},
        )
        return self.finished(found, n, first)

    def remedy(self) -> str:
        """What to try where samples go astray: more steps, or a method that is not this one and takes the noise."""
        others = ["PiGDM"] * has_gaussian(self.problem.likelihood, self.problem) + ["DAPS"]
        *first, last = ["more steps", *(name for name in others if name != type(self).__name__)]
        return f"{', '.join(first)} or {last} may do better" if first else f"{last} may do better"

    def settings(self) -> dict[str, Any]:
        """The method and its parameters."""
        return {"method": type(self).__name__, "likelihood": repr(self.problem.likelihood)}


class GuidedScore(Composed):
    """The prior with the guided denoiser D_y: one evaluation of the prior, one backward pass through it."""

    def __init__(self, problem: Problem, guide: Guide, prior: ScoreModel | None = None):
        super().__init__(problem.model if prior is None else prior)
        self.prior, self.problem, self.guide = self._first, problem, guide

    def on(self, process: NoiseProcess) -> GuidedScore:
        """The guided model on another process."""
        return GuidedScore(self.problem, self.guide, self.prior.on(process))

    def prepare(self, cond: Tensor | Cond | None) -> Cond:
        """As the prior prepares them, and y."""
        return self.prior.prepare(cond)

    def denoise(self, x_t: State, t: Time, cond: Tensor | Cond | None = None) -> Tensor:
        """D + (sigma^2 / m) C grad log p(y given x_t), detached."""
        return self.both(x_t, t, cond)[1]

    def both(self, x_t: State, t: Time, cond: Tensor | Cond | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """D, D_y and log p(y given x_t) (B,) as the method approximates it, all detached."""
        t, cond = as_time(t), as_cond(cond)
        assert isinstance(x_t, Tensor) and isinstance(self.process, NoiseProcess)
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            d = self.prior.denoise(x, t, cond)
            assert isinstance(d, Tensor)
            at = At(self.problem, self.process, x, d, t, cond)
            gradient, value = self.guide(at)
        # the sum is not finite if any entry is not: one pass, no mask in the usual case
        if not math.isfinite(float(gradient.sum())) and bool(gradient.isnan().any()) and bool(x_t.isfinite().all()):
            self.problem.check_near(d)
            raise InputError(
                "forward: its gradient or that of the likelihood is NaN for a finite x, numbers are accepted"
            )
        shift = column(at.gain, d) * at.coloured(gradient)
        return d.detach(), d.detach() + shift, value
