"""The density that a score model stands for, by its probability-flow ODE.

In z = x_t / m and u = log rho, from rho_min to rho_max,

    dz/du = z - D(z; e^u),      d log p/du = -(d - tr dD/dz),      log p = log N(mean, Cov + rho^2 C)  at rho_max,

the last being the law that sampling starts from: the result is the density of what an exact ODE sampler returns.

Sources: Song et al. 2021 (section 4.3: likelihood by the flow); Chen et al. 2018 (its instantaneous change of
variables); Hutchinson 1989 and Grathwohl et al. 2019 (the trace by random probes).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.processes import NoiseProcess, check_positive
from fokker.rng import Key, Rows, check_seed
from fokker.samplers.dormand_prince import Parts, integrate
from fokker.samplers.loop import CHUNK, rows_of_cond
from fokker.score import Joint, ScoreModel
from fokker.states import Cond, column, kept_entries

EXACT_SIZE = 256  # entries of x up to which the divergence is exact unless probes are asked for
PROBES = 16  # probes beyond that size
MAX_EVALUATIONS = 10_000


@torch.no_grad()
def log_prob(
    model: ScoreModel,
    x: Any,
    cond: Tensor | Cond | None = None,
    seed: int = 0,
    *,
    probes: int | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    rows: Rows | None = None,
) -> Tensor:
    """log density (B,) in float64 of x (B, *shape), or of a dict of named parts for a `Joint` (the sum over parts).

    It is the density of x_0 + rho_min z, z ~ N(0, C), with rho_min the lowest level that the model knows: no model is
    called below it. x is in the coordinates that the model diffuses; `cond` has one row per row of x or one for all.
    Where cond["mask"] is zero there is padding: it is not counted.

    probes: None computes the divergence exactly, one vector-Jacobian product per entry of x, for up to 256
    entries, and with 16 probes beyond; an integer K estimates it with K Rademacher probes, keyed by `seed` and row:
    unbiased for log p, but exp(log p) is not, so importance weights need the exact one. rtol, atol: local errors of z
    and, by itself, of log p, for every row apart: a row never depends on its batch. rows: as for `sample`.

    Raises InputError for a wrong shape, NaN or infinities in x, or a model whose denoiser cannot be differentiated,
    FloatingPointError (naming the row) where the result is not finite.
    """
    if not isinstance(model, ScoreModel):
        what = "a score model is accepted; posteriors have a log_prob of their own"
        raise InputError(f"model: got {type(model).__name__}, {what}")
    check_seed(seed)
    check_positive("rtol", rtol)
    check_positive("atol", atol)
    if probes is not None and (isinstance(probes, bool) or not isinstance(probes, int) or probes < 1):
        raise InputError(f"probes: got {probes!r}, None or an integer of at least 1 is accepted")
    if isinstance(model, Joint):
        if not isinstance(x, dict) or x.keys() != model.models.keys():
            raise InputError(f"x: this model takes a dict with the parts {', '.join(model.models)}")
        if len({len(part) for part in x.values()}) != 1:
            raise InputError("x: its parts have different numbers of rows, as many for each are accepted")
        logs = [
            _Flow(part, model.time_range, probes, rtol, atol, seed, name)(x[name], cond, rows)
            for name, part in model.models.items()
        ]
        return torch.stack(logs).sum(0)
    if isinstance(model.process, dict):
        raise InputError(
            f"model: got {type(model).__name__} of named parts, a model of one part or a Joint is accepted"
        )
    return _Flow(model, model.time_range, probes, rtol, atol, seed)(x, cond, rows)


@dataclass(frozen=True)
class _Flow:
    """log_prob of a model of one part between two times."""

    model: ScoreModel
    times: tuple[float, float]
    probes: int | None
    rtol: float
    atol: float
    seed: int
    part: str = ""

    @property
    def _process(self) -> NoiseProcess:
        assert isinstance(self.model.process, NoiseProcess)
        return self.model.process

    def __call__(self, x: Any, cond: Tensor | Cond | None, rows: Rows | None) -> Tensor:
        prepared = self.model.prepare(cond)
        z, measured = numbers("x", x).to(self.model.device, self.model.dtype), rows is not None
        if z.ndim < 2 or len(z) == 0:
            raise InputError(f"x: got shape {tuple(z.shape)}, (B, *shape) with B >= 1 is accepted")
        rows = Rows.grid(1, len(z)) if rows is None else rows
        if len(rows) != len(z):
            raise InputError(f"rows: got {len(rows)}, x has {len(z)}")
        if "mask" in prepared:
            masks = {"mask": prepared["mask"].to(z.device)}
            masks = rows_of_cond(masks, rows, slice(0, len(z)), len(z), measured)
            z = torch.where(kept_entries(z, masks) > 0, z, 0.0)
        bad = (~z.isfinite()).flatten(1).any(1).nonzero().flatten()
        if len(bad):
            raise InputError(f"x: got NaN or an infinite entry in row {int(bad[0])}, finite numbers are accepted")
        out = []
        for start in range(0, len(z), CHUNK):
            where = slice(start, min(start + CHUNK, len(z)))
            local = rows_of_cond(prepared, rows[where], where, len(z), measured)
            out.append(self._chunk(z[where], local, Key(self.seed, rows[where], part=self.part)))
        result = torch.cat(out)
        lost = (~result.isfinite()).nonzero().flatten()
        if len(lost):
            raise FloatingPointError(f"log_prob is not finite, first in row {int(lost[0])} ({len(lost)} rows in all)")
        return result

    def _chunk(self, z: Tensor, cond: Cond, key: Key) -> Tensor:
        # The start refuses a wrong shape or a singular law before any work is done.
        self._start(z[:1], {name: value[:1] for name, value in cond.items()})
        process = self._process
        low, high = (float(process.noise_to_signal(t).log()) for t in self.times)
        kept = kept_entries(z, cond)
        size = kept.flatten(1).sum(1, dtype=torch.float64)
        exact = self.probes is None and z[0].numel() <= EXACT_SIZE
        signs = [] if exact else list(self._signs(z, key))

        def slope(parts: Parts, u: Tensor, rows: Tensor, cond: Cond) -> Parts:
            z, keep, t = parts[0].detach().requires_grad_(), kept[rows], process.time_of(u.exp().cpu())
            with torch.enable_grad():
                denoised = self.model.denoise(z * column(process.scale(t), z), t, cond)
            assert isinstance(denoised, Tensor)
            if denoised.grad_fn is None:
                raise InputError("model: its denoiser does not depend on x in a way that can be differentiated")
            vectors = _units(z) if exact else (sign[rows] for sign in signs)
            trace = torch.zeros_like(u)
            for vector in vectors:
                vector = vector * keep
                (pulled,) = torch.autograd.grad(denoised, z, vector, retain_graph=True)
                trace += (pulled * vector).flatten(1).sum(1, dtype=torch.float64)
            return keep * (z - denoised).detach(), size[rows] - trace / max(1, len(signs))

        (z, gained), _ = integrate(
            slope,
            (z, torch.zeros_like(size)),
            low,
            high,
            cond,
            rtol=self.rtol,
            atol=self.atol,
            max_evaluations=MAX_EVALUATIONS,
            name="log_prob",
        )
        return self._start(z, cond) + gained

    def _start(self, z: Tensor, cond: Cond) -> Tensor:
        """log density of z = x_t / m for the first draw x_t."""
        m = self._process.scale(self.times[1])
        log = self.model.start_log_prob(z * column(m, z), self.times[1], cond)
        return log + kept_entries(z, cond).flatten(1).sum(1) * m.log().to(log)

    def _signs(self, z: Tensor, key: Key) -> Iterator[Tensor]:
        """Rademacher probes of the shape of z, the same along the whole path of a row."""
        for index in range(self.probes or PROBES):
            draw = key.at(part=f"probe{index}").normal(tuple(z.shape[1:])).to(z)
            yield torch.where(draw < 0, -torch.ones_like(draw), torch.ones_like(draw))


def numbers(name: str, value: Any) -> Tensor:
    """An array of real numbers as a tensor; InputError for anything else."""
    try:
        value = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name}: got {type(value).__name__}, an array of numbers is accepted") from error
    if value.is_complex():
        raise InputError(f"{name}: got {value.dtype}, real numbers are accepted")
    return value.detach()


def _units(z: Tensor) -> Iterator[Tensor]:
    """Every unit vector of a row of z (*shape)."""
    size = z[0].numel()
    for index in range(size):
        unit = torch.zeros(size, dtype=z.dtype, device=z.device)
        unit[index] = 1
        yield unit.reshape(z.shape[1:])
