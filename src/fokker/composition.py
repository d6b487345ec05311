"""Scores made of scores: weighted sums, classifier-free guidance (and, in `tilted`, p(y given x_t) added to a prior).

All of them are score models and go wherever one goes: `sample`, Langevin samplers, `log_prob`.

A score belongs to a marginal, and the marginal to a process, a law of noise and coordinates. Sums of scores of
different ones mean nothing and are refused. Even where they are accepted, the sum over i of w_i grad log p_i,t is the
score of the product of the *noised* densities, not of the noised product: a Langevin sampler at one level targets that
product exactly, the reverse process of a sum does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fokker.coordinates import Affine
from fokker.errors import InputError
from fokker.posterior_coordinates import Posterior
from fokker.processes import NoiseProcess, Time, as_time
from fokker.rng import Key
from fokker.score import Joint, ScoreModel
from fokker.states import Cond, State, as_cond, column, over_parts

NEEDED = "'standard', 'minmax' or 'none'"


class Composed(ScoreModel):
    """What a composition takes over from the first of its models."""

    def __init__(self, first: ScoreModel):
        self._first = first
        self.process, self.data_std = first.process, first.data_std
        self.dtype, self.device = first.dtype, first.device

    @property
    def coordinates(self) -> Any:
        """Those of the models, None for models of plain x."""
        return getattr(self._first, "coordinates", None)

    @property
    def data_mean(self) -> Any:
        """The first model's."""
        return self._first.data_mean

    @property
    def time_range(self) -> tuple[float, float]:
        """The first model's."""
        return self._first.time_range

    def start(self, shape: Any, t: float, key: Key, cond: Cond) -> State:
        """The first draw of the first model."""
        return self._first.start(shape, t, key, cond)

    def start_log_prob(self, x_t: Tensor, t: float, cond: Cond) -> Tensor:
        """That of the first model."""
        return self._first.start_log_prob(x_t, t, cond)


class SumScore(Composed):
    """The score sum_i w_i s_i, that is D = z + sum_i w_i (D_i - z): of the product of the densities p_i,t^w_i.

    conds: for each model, conditions that replace those given when sampling, None for none. Terms that share a
    model go through it in one batch; a term of weight 0 is not evaluated. The first draw is that of the first model.

    Raises InputError where the processes, the laws of noise or the coordinates of the models differ (`model.on`
    brings denoisers to one process), as scores of different marginals do not add: so do, in coordinates "posterior",
    conditions with other values or other observed entries of y. See also `classifier_free`.

    Source: Du et al. 2023 (arXiv 2302.11552; what sums of scores do and do not sample).
    """

    def __init__(
        self,
        models: Sequence[ScoreModel],
        weights: Sequence[float],
        conds: Sequence[Tensor | Cond | None] | None = None,
    ):
        models, weights = list(models), list(weights)
        own = [as_cond(cond) for cond in ([None] * len(models) if conds is None else conds)]
        if not models:
            raise InputError("models: got none, at least one is accepted")
        if len(weights) != len(models) or not all(map(_is_number, weights)):
            raise InputError(f"weights: got {weights} for {len(models)} models, one finite number for each is accepted")
        if len(own) != len(models):
            raise InputError(f"conds: got {len(own)} for {len(models)} models, one (or None) for each is accepted")
        for index, model in enumerate(models[1:], 1):
            _check_same(models[0], model, f"models[{index}]")
        _check_conditions(models, own)
        super().__init__(models[0])
        self.models, self.weights, self.conds = models, weights, own
        self._active: dict[int, float] = {}  # term: weight, with terms that are the same thing taken together
        for index, weight in enumerate(weights):
            alike = (i for i in self._active if models[i] is models[index] and not own[i] and not own[index])
            term = next(alike, index)
            self._active[term] = self._active.get(term, 0.0) + weight

    @property
    def time_range(self) -> tuple[float, float]:
        """The times at which every model may be called."""
        ranges = [model.time_range for model in self.models]
        return max(low for low, _ in ranges), min(high for _, high in ranges)

    def on(self, process: NoiseProcess) -> SumScore:
        """Every model on the same other process."""
        moved = {id(model): model.on(process) for model in self.models}
        return SumScore([moved[id(model)] for model in self.models], self.weights, self.conds)

    def prepare(self, cond: Tensor | Cond | None) -> Cond:
        """What each term needs beside the conditions as given, under the name of the term."""
        cond = as_cond(cond)
        if any(name.startswith(_head(index)) for name in cond for index in range(len(self.models))):
            return cond
        out = dict(cond)
        for index, (model, own) in enumerate(zip(self.models, self.conds)):
            prepared = model.prepare({**cond, **own})
            out |= {_head(index) + name: v for name, v in prepared.items() if v is not cond.get(name)}
        return out

    def start(self, shape: Any, t: float, key: Key, cond: Cond) -> State:
        """The first draw of the first model."""
        return self._first.start(shape, t, key, self._of_term(0, self.prepare(cond)))

    def start_log_prob(self, x_t: Tensor, t: float, cond: Cond) -> Tensor:
        """That of the first model."""
        return self._first.start_log_prob(x_t, t, self._of_term(0, self.prepare(cond)))

    def denoise(self, x_t: State, t: Time, cond: Tensor | Cond | None = None) -> State:
        """z + sum_i w_i (D_i - z)."""
        t, cond = as_time(t), self.prepare(cond)

        def rest(process: NoiseProcess, x: Tensor) -> Tensor:
            return (1 - math.fsum(self.weights)) * (x / column(process.scale(t), x))

        total = over_parts(rest, self.process, x_t)
        groups: dict[int, list[int]] = {}
        for index, weight in self._active.items():
            if weight != 0:
                groups.setdefault(id(self.models[index]), []).append(index)
        for terms in groups.values():
            local = [self._of_term(index, cond) for index in terms]
            for index, d in zip(terms, _together(self.models[terms[0]], x_t, t, local)):
                total = over_parts(lambda a, d, w=self._active[index]: a + w * d, total, d)
        return total

    def _of_term(self, index: int, cond: Cond) -> Cond:
        heads = tuple(_head(other) for other in range(len(self.models)))
        shared = {name: v for name, v in cond.items() if not name.startswith(heads)}
        mine = _head(index)
        return shared | {name[len(mine) :]: v for name, v in cond.items() if name.startswith(mine)}


def classifier_free(
    model: ScoreModel, weight: float, cond: Tensor | Cond | None = None, null_cond: Tensor | Cond | None = None
) -> SumScore:
    """Classifier-free guidance, D = D_null + weight (D_cond - D_null), both through the model in one batch.

    cond: the conditions, or None for those given when sampling. null_cond: what replaces them, name by name, for "no
    condition". A network trained with missing entries of y has one, no entry observed:

        posterior = fokker.fit(x, y_with_nan, coordinates="standard")
        nothing = {"omega": torch.zeros(1, *posterior.y_shape, dtype=torch.bool)}
        guided = fokker.classifier_free(posterior.model, 2.0, null_cond=nothing)

    (`posterior.sample(y, n, guidance=2.0)` does just that.) weight 1 is the conditional model, 0 the one without
    condition. Beyond 1 the samples are of no density p(x given y)^w p(x)^(1 - w): see the head of this module.

    Raises InputError without a null_cond, and for coordinates "posterior", in which x is diffused differently for
    different conditions; "standard", "minmax" and "none" are accepted.

    Source: Ho and Salimans 2022 (arXiv 2207.12598), with weight = 1 + their w.
    """
    if not _is_number(weight):
        raise InputError(f"weight: got {weight!r}, a finite number is accepted")
    if not as_cond(null_cond):
        raise InputError(
            "null_cond: got none, the conditions that stand for 'no condition' are accepted, such as {'omega': zeros} "
            "for a network trained with missing entries of y (`posterior.sample(y, n, guidance=w)` gives them itself)"
        )
    null = {**as_cond(cond), **as_cond(null_cond)}
    return SumScore([model, model], [weight, 1 - weight], [cond, null])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _head(index: int) -> str:
    return f"term{index}/"


def _together(model: ScoreModel, x_t: State, t: Tensor, conds: list[Cond]) -> list[State]:
    """The model at x_t under each of the conditions, in one batch where they have the same names and shapes."""
    rows = len(next(iter(x_t.values())) if isinstance(x_t, dict) else x_t)
    kinds = [{name: (v.shape[1:], v.dtype) for name, v in cond.items()} for cond in conds]
    if len(conds) == 1 or any(kind != kinds[0] for kind in kinds):
        return [model.denoise(x_t, t, cond) for cond in conds]
    joined = {name: torch.cat([cond[name].expand(rows, *cond[name].shape[1:]) for cond in conds]) for name in conds[0]}
    many = over_parts(lambda x: torch.cat([x] * len(conds)), x_t)
    found = model.denoise(many, t.expand(rows).repeat(len(conds)) if t.ndim else t, joined)
    parts = over_parts(lambda d: d.split(rows), found)
    if isinstance(parts, dict):
        return [{name: part[i] for name, part in parts.items()} for i in range(len(conds))]
    return list(parts)


def _check_same(first: ScoreModel, other: ScoreModel, name: str) -> None:
    """InputError where the scores of two models are not of the same marginals."""
    one, two = (_by_part(m.process) for m in (first, other))
    if one.keys() != two.keys():
        raise InputError(f"{name}: has other named parts than models[0], the same are accepted")
    for part, process in one.items():
        if process.noise != two[part].noise:
            raise InputError(f"{name}: its noise has another law than that of models[0], the same is accepted")
        if process != two[part] and process.settings() != two[part].settings():
            raise InputError(
                f"{name}: its process {two[part].settings()} is not that of models[0], {process.settings()}; the same "
                "is accepted (model.on(process) changes it)"
            )
    for part, mine in _coordinates(first).items():
        theirs = _coordinates(other)[part]
        if mine.keys() != theirs.keys() or not all(torch.equal(v, theirs[key].to(v)) for key, v in mine.items()):
            raise InputError(
                f"{name}: its coordinates are not those of models[0], so their scores are of different marginals; "
                "models fitted in the same coordinates are accepted"
            )


def _check_conditions(models: list[ScoreModel], own: list[Cond]) -> None:
    """InputError where terms in posterior coordinates have conditions of their own that differ."""
    if not any(isinstance(getattr(part, "coordinates", None), Posterior) for part in _parts(models[0])):
        return
    for cond in own[1:]:
        if cond.keys() != own[0].keys() or not all(_equal(v, cond[name]) for name, v in own[0].items()):
            raise InputError(
                "coordinates: got 'posterior' with conditions that differ between the terms, for which x is diffused "
                f"differently, so their scores are of different marginals; coordinates {NEEDED} are accepted"
            )


def _equal(one: Tensor, two: Tensor) -> bool:
    """Equality in which NaN, a missing entry, equals itself."""
    return one.shape == two.shape and bool(((one == two) | ((one != one) & (two != two))).all())


def _parts(model: ScoreModel) -> list[ScoreModel]:
    while isinstance(model, Composed):
        model = model._first
    return list(model.models.values()) if isinstance(model, Joint) else [model]


def _by_part(process: Any) -> dict[str, NoiseProcess]:
    return process if isinstance(process, dict) else {"": process}


def _coordinates(model: ScoreModel) -> dict[str, dict[str, Tensor]]:
    """For each part, what decides how x is diffused: nothing for plain x."""
    out: dict[str, dict[str, Tensor]] = {}
    for name, part in zip(_by_part(model.process), _parts(model)):
        mine = getattr(part, "coordinates", None)
        if isinstance(mine, Affine):
            plain = not bool(mine.shift_x.any()) and bool((mine.scale_x == 1).all())
            out[name] = {} if plain else {"shift_x": mine.shift_x, "scale_x": mine.scale_x}
        else:
            out[name] = {} if mine is None else mine.tensors()
    return out
