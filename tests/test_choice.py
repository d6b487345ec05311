"""`fokker.guided` takes what the committed results of the guidance battery found best for its cost."""

import json
from functools import lru_cache
from pathlib import Path

import pytest

import fokker
from fokker.choice import PARTICLES, STRAIGHT, bend
from fokker.composition import Composed
from fokker.posterior.problem import Problem
from fokker.problems.battery_cases import all_cases
from fokker.problems.battery_methods import METHODS
from fokker.problems.battery_summary import EXACT_PRIORS, rows

METRICS = json.loads((Path(__file__).parent.parent / "benchmarks/results/guidance_battery.json").read_text())["metrics"]
CASES = [name for name in all_cases() if any(key.startswith(f"{name}.") for key in METRICS)]
NAMES = {fokker.KnownLikelihood: "known", fokker.MomentMatching: "moments", fokker.PiGDM: "pigdm", fokker.DAPS: "daps"}
NAMES |= {fokker.DPS: "dps"}
WITHIN = 1.15  # of the nearest for that cost; chance moves a distance by a tenth


class Learned(Composed):
    """A prior that hides its closed form, as one that was learned has none."""

    def __init__(self, first):
        super().__init__(first)
        self.x_shape = tuple(first.moments.mean.shape)

    def denoise(self, x_t, t, cond=None):
        return self._first.denoise(x_t, t, cond)

    def on(self, process):
        return Learned(self._first.on(process))


@lru_cache
def chosen(case, learned):
    """The name of the method that is taken for a case, and its number of steps: the most in the battery that are no
    more than its own.
    """
    built = all_cases()[case].build()
    prior = Learned(built.prior) if learned else built.prior
    found = fokker.guided(prior, built.forward, built.likelihood)
    name = NAMES.get(type(found))
    if isinstance(found, fokker.TwistedSMC):
        assert found.particles == PARTICLES
        name = f"smc-{NAMES[type(found.guided)]}"
    return name, max(k for k in METHODS[name].steps if k <= found.steps)


def groups(learned):
    """(kind, method, steps): cases of one kind of problem for which the same is taken."""
    out = {}
    for case in CASES:
        out.setdefault((all_cases()[case].kind, *chosen(case, learned)), []).append(case)
    return out


def beside(cases, name, steps, learned):
    """Whether a method is beaten on these cases by one that costs no more, in words; empty where it is not."""
    found = rows({key: value for key, value in METRICS.items() if key.startswith(tuple(f"{case}." for case in cases))})
    able = [row for row in found if row.cases == len(cases) and not row.diverged]
    mine = next((row for row in able if (row.method, row.steps) == (name, steps)), None)
    if mine is None:
        return f"{name} diverges or refuses one of {', '.join(cases)}"
    others = [row for row in able if row.seconds <= mine.seconds and not (learned and row.method in EXACT_PRIORS)]
    nearest = min(others, key=lambda row: row.apart)
    if mine.apart <= WITHIN * max(1.0, nearest.apart):  # nearer than exact samples is chance
        return ""
    return f"{name} {mine.apart:.2f}, {nearest.method} with {nearest.steps} steps {nearest.apart:.2f}"


@pytest.mark.parametrize("learned", [False, True])
def test_the_choice_is_the_nearest_for_its_cost(learned):
    """For a prior with a closed form, and for one that hides it."""
    told = [(kind, beside(cases, *method, learned)) for (kind, *method), cases in groups(learned).items()]
    assert told and not any(text for _, text in told), told


def test_a_worse_choice_would_be_told():
    """Control: other methods in place of what is taken are beaten in every kind, or diverge."""
    for cases in groups(learned=True).values():
        assert beside(cases, "daps", 40, learned=True) and beside(cases, "dps", 128, learned=True)


def test_the_bend_of_a_denoiser_tells_a_gaussian_prior_from_a_mixture():
    bends = {}
    for case in ("flux-5", "gaussian-64-under-0.3", "mixture-64-under-0.3"):
        built = all_cases()[case].build()
        bends[case] = bend(Problem(built.prior, built.forward, built.likelihood))
    assert max(bends["flux-5"], bends["gaussian-64-under-0.3"]) < 1e-12
    assert bends["mixture-64-under-0.3"] > STRAIGHT
