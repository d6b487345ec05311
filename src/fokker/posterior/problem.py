"""A prior, a forward operator and a likelihood: the inverse problem that every guided method is given."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fokker.coordinates import Coordinates
from fokker.errors import InputError, told
from fokker.operators.base import LinearOperator
from fokker.posterior.conditional import ConditionalPosterior
from fokker.posterior.samples import as_measurements
from fokker.processes import NoiseProcess
from fokker.rng import Key, Rows
from fokker.score import Denoiser, ScoreModel
from fokker.states import Cond

Forward = Callable[[Tensor], Tensor]
ASTRAY = 1e6  # standard deviations of the data, beyond which x is a failure of the sampler
BEYOND = 30.0  # the same where the operator has no finite value: a law of finite variance has at most 1/900 out there
PROBES = 64  # draws of the prior at which a gradient that is zero at its mean is looked for
CHECKED = 16  # draws at which the gradient is compared with differences
STEP = 1e-3  # of these, in standard deviations of the data
MISMATCH = 0.2  # relative; a kink between the two ends of a difference concerns few draws, a detached part all
MEASURED = "measurement"  # the condition that holds y, beside those of the prior


class Problem:
    """p(x) p(y given forward(x)).

    prior: a score model of plain x, as `fit_prior` gives or `MixtureScore` is; or a `ConditionalPosterior`, p(x given
    other data), which is diffused in its own coordinates xi: the forward operator is then composed with xi -> x.
    forward: any differentiable callable (B, *x_shape) -> (B, *y_shape), rows independent. likelihood: p(y given clean).

    Raises InputError where the operator does not take x, gives something that is not finite at the prior's mean, or
    loses the gradient.
    """

    def __init__(self, prior: Any, forward: Any, likelihood: Any):
        self.given = prior if isinstance(prior, ConditionalPosterior) else None
        model = prior.model if isinstance(prior, ConditionalPosterior) else prior
        if not isinstance(model, ScoreModel):
            got, accepted = type(prior).__name__, "a score model (fit_prior, MixtureScore) or a posterior is accepted"
            if getattr(prior, "kind", None) == "function_prior":
                accepted = "prior.at(grid or points) is accepted, and by FunctionPosterior.of_values the prior itself"
            raise InputError(f"prior: got {got}, {accepted}")
        if not callable(forward):
            raise InputError(f"forward: got {type(forward).__name__}, a differentiable function of x is accepted")
        if isinstance(likelihood, type) or not all(
            hasattr(likelihood, name) for name in ("log_prob", "slope", "sample")
        ):
            got = f"the class {likelihood.__name__}" if isinstance(likelihood, type) else type(likelihood).__name__
            raise InputError(f"likelihood: got {got}, one such as fokker.Gaussian(0.05) is accepted")
        self.model, self.forward, self.likelihood = model, forward, likelihood
        self.x_shape = prior.x_shape if self.given is not None else _shape_of(model, forward)
        self.y_shape = self._probe()

    @property
    def linear(self) -> LinearOperator | None:
        """The operator, where what is diffused is x itself and the operator is known to be linear."""
        return self.forward if self.given is None and isinstance(self.forward, LinearOperator) else None

    def clean(self, x_0: Tensor, cond: Cond) -> Tensor:
        """forward(x) (B, *y_shape) of what is diffused (B, *x_shape).

        Where it is not finite: FloatingPointError if x is more than 30 standard deviations of the data away there,
        which is the sampler's failure; InputError if it is nearer.
        """
        out = self.called(self.to_x(x_0, cond))
        if not math.isfinite(float(out.detach().sum())) and not bool(torch.isfinite(out.detach()).all()):
            lost = x_0[~torch.isfinite(out.detach()).flatten(1).all(1)]
            nearest = self._reached(lost).argmin()
            self.check_near(lost[nearest : nearest + 1], BEYOND)
            raise InputError("forward: gave NaN or infinity for a finite x, finite numbers are accepted")
        return out

    def check_near(self, x_0: Tensor, most: float = ASTRAY) -> None:
        """FloatingPointError where what is diffused (B, *x_shape) is more than so many deviations of the data away: a
        sampler that diverged.
        """
        reached = float(self._reached(x_0).max())
        if not reached <= most * self.model.data_std:  # type: ignore[operator]
            raise FloatingPointError(f"x reached {reached:.3g}")

    def rough_draws(self, n: int) -> Tensor:
        """What is diffused, (n, *x_shape), with the mean of the prior and twice its variance."""
        model = self.model
        assert isinstance(model.process, NoiseProcess) and isinstance(model.data_std, float)
        t = float(model.process.time_of(model.data_std))
        drawn = model.start((n, *self.x_shape), t, Key(0, Rows.grid(1, n)), {})
        assert isinstance(drawn, Tensor)
        return drawn / model.process.scale(t).to(drawn)

    def _reached(self, x_0: Tensor) -> Tensor:
        """The largest distance of an entry from the prior's mean, for each row (B,)."""
        mean = self.model.moments.mean.to(x_0) if isinstance(self.model, Denoiser) else torch.zeros_like(x_0[:1])
        return (x_0.detach() - mean).abs().flatten(1).amax(1)

    def to_x(self, x_0: Tensor, cond: Cond) -> Tensor:
        """x of what is diffused, rows with their conditions; differentiable."""
        if self.given is None:
            return x_0
        coordinates: Coordinates = self.given.coordinates
        x = coordinates.inverse(x_0, cond)
        x = x if self.given.support is None else self.given.support.from_line(x)
        return x if self.given.clip is None else x.clamp(*self.given.clip)

    def measurements(self, y: Any) -> tuple[Tensor, bool]:
        """y as (M, *y_shape) in float64, and whether it came so; InputError for what the likelihood cannot have."""
        out, batched = as_measurements(y, self.y_shape, as_what=", as forward gives")
        if bool(out.isnan().any()):
            raise InputError("y: got NaN; y without its missing entries is accepted, and an operator without them")
        check = getattr(self.likelihood, "check", None)
        if check is not None:
            check(out)
        return out, batched

    def conditions(self, y: Tensor, given: Mapping[str, Any] | None) -> Cond:
        """The conditions of the loop: y, and those of a conditional prior (`given`: y, omega, cond of its `sample`)."""
        if self.given is None:
            if given is not None:
                raise InputError("given: this prior takes no conditions, None is accepted")
            return {MEASURED: y}
        if given is None or "y" not in given:
            raise InputError("given: this prior is p(x given y), given={'y': its measurement} is accepted")
        cond, rows, _ = self.given._conditions(given["y"], given.get("omega"), given.get("cond"))
        if len(rows) not in (1, len(y)):
            raise InputError(f"given: got {len(rows)} measurements for {len(y)} of y, 1 or as many are accepted")
        return {**{name: value.expand(len(y), *value.shape[1:]) for name, value in cond.items()}, MEASURED: y}

    def called(self, x: Tensor) -> Tensor:
        """forward(x) (B, *y_shape) as it is, NaN or not; InputError unless it is such a tensor of real numbers."""
        out = self.forward(x)
        if not isinstance(out, Tensor) or out.ndim < 2 or len(out) != len(x):
            found = f"shape {tuple(out.shape)}" if isinstance(out, Tensor) else type(out).__name__
            wanted = f"a tensor ({len(x)}, m) or ({len(x)}, *y_shape)"
            raise InputError(f"forward: gave {found} for x {tuple(x.shape)}, {wanted} is accepted")
        if out.is_complex():
            raise InputError(f"forward: gave {out.dtype}, real numbers are accepted, such as torch.view_as_real gives")
        return out

    def _probe(self) -> tuple[int, ...]:
        mean = self.model.moments.mean if isinstance(self.model, Denoiser) and self.given is None else torch.zeros(())
        x = mean.to(self.model.device, self.model.dtype).expand(2, *self.x_shape).clone()
        x[1] += 0.1 * self.model.data_std  # type: ignore[operator]
        x.requires_grad_()
        with torch.enable_grad():
            try:
                out, alone = self.called(x), self.called(x[:1])
            except InputError:
                raise
            except Exception as error:  # a user's function may fail in any way
                raise InputError(f"forward: fails on x of shape {tuple(x.shape)}: {told(error)}") from error
        if not out.requires_grad:
            raise InputError("forward: its value has lost the gradient; torch operations without detach are accepted")
        if not bool(torch.isfinite(out[0]).all()):
            raise InputError("forward: gave NaN or infinity at the prior's mean, finite numbers are accepted")
        self._check_gradient(x, out)
        out, alone = out.detach(), alone.detach()
        same = out.shape[1:] == alone.shape[1:]
        if not same or (
            out.numel() and float((out[0] - alone[0]).abs().max()) > 1e-3 * float(out[0].abs().max()) + 1e-6
        ):
            raise InputError(
                "forward: gave another value for a row when it came alone; rows that depend neither on each other nor "
                "on chance are accepted"
            )
        return tuple(out.shape[1:])

    def _check_gradient(self, x: Tensor, out: Tensor) -> None:
        """InputError where values change from draw to draw of the prior, and the gradient is zero at all of them; a
        UserWarning where it is not that of the values, as when a part is detached.
        """
        if self.given is not None or isinstance(self.forward, LinearOperator):
            return
        if not isinstance(self.model.process, NoiseProcess):
            return
        flat = not bool(_slope(out, x).any())
        x = self.rough_draws(PROBES if flat else CHECKED).requires_grad_()
        try:
            with torch.enable_grad():
                out = self.called(x)
                slope = _slope(out, x)
            mismatch = self._mismatch(x.detach(), slope, out.detach())
        except InputError:
            raise
        except Exception:  # outside its domain, where the posterior may never be
            return
        if flat and not bool(slope.any()) and bool((out != out[:1]).any()):
            raise InputError(
                "forward: its values change and its gradient is zero everywhere tried; a differentiable function is "
                "accepted"
            )
        if mismatch > MISMATCH:
            warnings.warn(
                "forward: its gradient is not that of its values, by differences at draws of the prior; is a part of "
                "it detached or rounded?",
                stacklevel=5,
            )

    def _mismatch(self, x: Tensor, slope: Tensor, out: Tensor) -> float:
        """The median over rows of the relative difference between derivatives by autograd and by central differences,
        along a random direction; 0 where values are not finite or hardly change.
        """
        along = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x)
        step = STEP * float(self.model.data_std)  # type: ignore[arg-type]
        weight = _weight(out)
        ahead, behind = (self._weighed(x + sign * step * along, weight) for sign in (1, -1))
        differences = (ahead - behind).double().sum(1) / (2 * step)
        own = (slope * along).flatten(1).double().sum(1)
        size = torch.maximum(differences.abs(), own.abs())
        # digits that the difference of rounded values has lost
        lost = 100 * torch.finfo(out.dtype).eps * (out * weight).flatten(1).double().abs().sum(1) / step
        told = (size > lost) & size.isfinite()
        if 2 * int(told.sum()) < len(x):
            return 0.0
        return float(((differences - own).abs() / size)[told].median())

    def _weighed(self, x: Tensor, weight: Tensor) -> Tensor:
        """forward(x) weight (B, m), called as for a gradient: an operator may ask for one itself."""
        with torch.enable_grad():
            return (self.called(x.requires_grad_()).detach() * weight).flatten(1)


def _weight(out: Tensor) -> Tensor:
    return torch.randn(out.shape, generator=torch.Generator().manual_seed(0)).to(out)


def _slope(out: Tensor, x: Tensor) -> Tensor:
    """The gradient by x of a random projection of every row of `out`."""
    try:
        (slope,) = torch.autograd.grad(out, x, _weight(out), retain_graph=True, allow_unused=True)
    except Exception as error:  # a user's function may fail in any way
        raise InputError(f"forward: its gradient fails: {told(error)}") from error
    return torch.zeros_like(x) if slope is None else slope


def _shape_of(model: ScoreModel, forward: Any) -> tuple[int, ...]:
    """x_shape, as the prior or else the operator tells."""
    found = getattr(model, "x_shape", None)
    if found is None and isinstance(model, Denoiser) and model.moments.mean.ndim:
        found = model.moments.mean.shape
    wanted = getattr(forward, "x_shape", None)
    if found is None and wanted is None:
        raise InputError("prior: does not tell the shape of x; an operator with x_shape is accepted")
    if found is not None and wanted is not None and tuple(found) != tuple(wanted):
        raise InputError(f"forward: takes x of shape {tuple(wanted)}, the prior has {tuple(found)}")
    return tuple(wanted) if wanted is not None else tuple(found)  # type: ignore[arg-type]
