"""Local calibration by new simulations near a measurement: exact posteriors pass at the stated rate, wrong ones do not.

Posteriors are exact in closed form, or by summing over a fine grid of x; wrong ones are made from these.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import ndtr, ndtri
from scipy.stats import binom

import fokker
from fokker import cli
from fokker.check_local import ROUNDS, Local
from fokker.check_region import CHUNK, LEAST, Regions
from fokker.check_rows import Rows
from fokker.checking import check
from fokker.diagnostics.calibration import judge
from fokker.errors import InputError
from fokker.rng import Key
from fokker.rng import Rows as Numbered
from fokker.support import Support

QUIET = lambda *_: None  # noqa: E731


class Linear:
    """x N(0, I), y = A x + noise."""

    def __init__(self, operator, noise):
        self.operator, self.noise = operator, noise

    def prior(self, rng, n):
        return rng.standard_normal((n, self.operator.shape[1]))

    def simulate(self, x, rng):
        return x @ self.operator.T + self.noise * rng.standard_normal((len(x), len(self.operator)))


class Gaussian:
    """Its exact posterior; with deviations too large by a factor, means shifted by deviations, or y ignored."""

    support = None

    def __init__(self, simulator, scale=1.0, shift=lambda y: 0.0, ignoring=False):
        a = simulator.operator / (1e9 if ignoring else 1.0)
        self.x_shape, self.y_shape, self.scale, self.shift = a.shape[1:], a.shape[:1], scale, shift
        covariance = np.linalg.inv(np.eye(a.shape[1]) + a.T @ a / simulator.noise**2)
        self.gain = covariance @ a.T / simulator.noise**2
        self.factor, self.std = np.linalg.cholesky(covariance), np.sqrt(np.diag(covariance))

    def sample(self, y, n, seed=0, *, first=0, keep_going=False):
        rows = Numbered.grid(len(y), n, first)
        z = Key(seed, rows, part="exact").normal(self.x_shape).double().numpy().reshape(len(y), n, -1)
        x = (y @ self.gain.T + self.std * self.shift(y))[:, None] + self.scale * z @ self.factor.T
        return SimpleNamespace(samples=torch.from_numpy(x))


class Scalar:
    """x by its quantiles, y N(f(x), s(x)^2), and the exact posterior as sums over a fine grid."""

    x_shape, y_shape = (1,), (1,)

    def __init__(self, quantile, mean, std, support=None):
        self.quantile, self.mean, self.std, self.support = quantile, mean, std, support
        self.grid = quantile((np.arange(20_000) + 0.5) / 20_000)

    def prior(self, rng, n):
        return self.quantile(rng.random(n))

    def simulate(self, x, rng):
        return (self.mean(x) + self.std(x) * rng.standard_normal(x.shape))[:, None]

    def sample(self, y, n, seed=0, *, first=0, keep_going=False):
        u = ndtr(Key(seed, Numbered.grid(len(y), n, first), part="exact").normal(()).double().numpy())
        log = -0.5 * ((y - self.mean(self.grid)) / self.std(self.grid)) ** 2 - np.log(self.std(self.grid))
        weight = np.exp(log - log.max(1, keepdims=True)).cumsum(1)
        found = [np.searchsorted(w / w[-1], v) for w, v in zip(weight, u.reshape(len(y), n))]
        return SimpleNamespace(samples=torch.from_numpy(self.grid[np.minimum(found, 19_999)][..., None]))


TWO = Linear(np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]), 0.5)
PLACES = np.linspace(0, 1, 30)
FLUX = Linear(  # a smooth function at 30 places, seen blurred by 12 sensors
    np.exp(-(((np.linspace(0, 1, 12)[:, None] - PLACES) / 0.1) ** 2))
    @ np.linalg.cholesky(np.exp(-0.5 * ((PLACES[:, None] - PLACES) / 0.15) ** 2) + 1e-6 * np.eye(30))
    * 0.5,
    0.1,
)
SCALARS = {
    "two modes": Scalar(lambda u: 2 * u - 1, lambda x: x**2, lambda x: 0.1 + 0 * x),
    "noise that varies": Scalar(ndtri, lambda x: x, lambda x: 0.02 + np.abs(x)),
    "atoms": Scalar(lambda u: np.maximum(ndtri(u), 0.0), lambda x: x, lambda x: 0.5 + 0 * x),
    "bounds": Scalar(lambda u: np.exp(2 * ndtri(u)), np.log, lambda x: 0.3 + 0 * x, Support.of((0, None), (1,))),
}


def around(simulator, posterior, y, seed=0, count=200):
    names = [f"x[{i}]" for i in range(posterior.x_shape[0])]
    local = Local(posterior, simulator, simulator.prior, names, np.arange(len(names)), count, seed, QUIET)
    return local.around(0, y, posterior.sample(y[None], 499, seed).samples[0].numpy())


def measurement(simulator, seed):
    rng = np.random.default_rng(seed)
    return simulator.simulate(simulator.prior(rng, 1), rng)[0]


def few(count):
    """Alarms of `count` exact posteriors that are exceeded once in 10,000 at a rate of 1 %."""
    return binom.isf(1e-4, count, 0.01)


def test_exact_posteriors_pass_at_the_stated_rate():
    """At most 1 % of 120; more than 6 happens once in 10,000."""
    wrong = [around(TWO, Gaussian(TWO), measurement(TWO, s), s, 100).wrong for s in range(120)]
    assert sum(wrong) <= few(120)


@pytest.mark.parametrize("problem", SCALARS.values(), ids=SCALARS)
def test_exact_posteriors_of_other_shapes_pass(problem):
    """At most 1 % of 30, each; more than 4 happens once in 10,000."""
    wrong = [around(problem, problem, measurement(problem, s), s, 60).wrong for s in range(30)]
    assert sum(wrong) <= few(30)


def test_thirty_dimensions_and_few_directions():
    """The prior has hardly anything where the posterior lies: slabs in a few directions keep a thousandth of it."""
    found = [around(FLUX, Gaussian(FLUX), measurement(FLUX, s), s) for s in range(10)]
    assert sum(one.wrong for one in found) <= few(10)
    for one in found:
        assert 1 <= one.numbers["directions"] <= 6 and one.numbers["simulations"] == 200
        assert one.numbers["part_of_prior"] >= LEAST and one.numbers["set_aside"] < 30
    narrow = around(FLUX, Gaussian(FLUX, 1 / 1.3), measurement(FLUX, 0))
    assert narrow.wrong and sum("is over-confident: samples should be 1." in text for text in narrow.words) > 10


BAD = {
    "over-confident": (Gaussian(TWO, 1 / 1.5), "x[0] is over-confident: samples should be 1."),
    "under-confident": (Gaussian(TWO, 1.5), "x[1] is under-confident: samples should be 0."),
    "shifted": (Gaussian(TWO, shift=lambda y: 0.4), "x[0] lies too high, by 0."),
    "ignoring y": (Gaussian(TWO, ignoring=True), "x[0]: where its samples lie is wrong in a way that depends"),
    "elsewhere": (Gaussian(TWO, 0.3, lambda y: 8.0), "the posterior is grossly wrong: none of 2048 samples"),
}


@pytest.mark.parametrize(("posterior", "words"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_named(posterior, words):
    for seed in range(3):
        found = around(TWO, posterior, measurement(TWO, seed), seed)
        assert found.wrong and any(words in text for text in found.words), found.words
        where = "from the whole prior" if "depends" in words else "near it"
        assert f"200 simulations {where}" in found.words[0]


def test_a_width_and_a_shift_of_the_stated_size_are_mostly_found():
    """1.3 times too narrow, 0.4 deviations off: 20 measurements each."""
    for posterior in (Gaussian(TWO, 1 / 1.3), Gaussian(TWO, shift=lambda y: 0.4)):
        assert sum(around(TWO, posterior, measurement(TWO, s), s).wrong for s in range(20)) >= 15


def test_wrong_around_the_measurement_only():
    """Shifted by a deviation within 0.6 of y_0, by nothing far away: 600 rows of the whole prior pass, simulations near
    do not; around another measurement they do.
    """
    precise = Linear(TWO.operator, 0.2)
    place = precise.simulate(np.array([[1.8, -1.2]]), np.random.default_rng(0))[0]
    posterior = Gaussian(precise, shift=lambda y: np.exp(-0.5 * ((y - place) ** 2).sum(-1, keepdims=True) / 0.6**2))
    rng = np.random.default_rng(1)
    x = precise.prior(rng, 600)
    y = precise.simulate(x, rng)
    assert judge(posterior.sample(y, 99).samples.numpy(), x, y).calibrated
    found = around(precise, posterior, place)
    assert found.wrong and any("lies too high" in text for text in found.words)
    assert not around(precise, posterior, -place).wrong


def test_failing_simulations_are_set_aside_and_counted():
    class Failing(Linear):
        def simulate(self, x, rng):
            y = super().simulate(x, rng)
            return np.where(y[:, :1] > 0.5, np.inf, y)

    problem = Failing(TWO.operator, 0.5)
    found = around(problem, Gaussian(problem), np.zeros(3))
    assert not found.wrong and found.numbers["failed"] > 20
    assert f"(200 simulations near it, {found.numbers['failed']} failed" in found.words[0]
    problem.simulate = lambda x, rng: np.full((len(x), 3), np.nan)
    found = around(problem, Gaussian(TWO), np.zeros(3))
    assert not found.wrong and "(200 simulations near it, 200 failed) nothing can be told" in found.words[0]


def test_what_the_measurement_misses_is_hidden_and_the_rest_is_judged():
    """The posterior given two of three entries, exact; it is never shown the third."""
    part, shown = Linear(TWO.operator[:2], 0.5), []

    class Masked(Gaussian):
        y_shape = (3,)

        def sample(self, y, n, seed=0, *, first=0, keep_going=False):
            shown.append(np.isnan(y))
            return super().sample(y[:, :2], n, seed, first=first, keep_going=keep_going)

    found = around(TWO, Masked(part), np.array([0.3, -0.1, np.nan]))
    assert not found.wrong and all((gaps == [False, False, True]).all() for gaps in shown)


def test_the_answer_does_not_depend_on_groups(monkeypatch):
    y = measurement(TWO, 5)
    whole = around(TWO, Gaussian(TWO, 1 / 1.3), y, count=60)
    monkeypatch.setattr("fokker.check_local.AT_ONCE", 4 * ROUNDS[0] * 2 * 7)  # seven cases at a time
    assert around(TWO, Gaussian(TWO, 1 / 1.3), y, count=60) == whole


def test_a_region_where_the_prior_is_hardly_ever_is_widened():
    rng = np.random.default_rng(0)
    regions = Regions(lambda name, c: np.random.default_rng([c, len(name)]).standard_normal((CHUNK, 2)), np.copy, QUIET)
    far = regions.around(np.array([6.0, 0.0]) + 1e-4 * rng.standard_normal((499, 2)))
    x, part = regions.inside(far, 100, "cases")
    assert len(x) == 100 and LEAST <= far.part < 2 * LEAST and 0.3 * LEAST < part < 1.5 * LEAST
    assert regions.holds(far, np.array([[6.0, 0.0], [np.nan, 0.0], [-6.0, 0.0]])).tolist() == [True, False, False]
    for prior, words in (
        (np.full((CHUNK, 2), np.nan), "0 of 4096 draws are finite"),
        (np.ones((CHUNK, 2)), "all the same"),
    ):
        with pytest.raises(InputError, match=words):
            Regions(lambda name, c, prior=prior: prior, np.copy, QUIET)


@pytest.fixture(scope="module")
def posterior():
    """One step of training: the Gaussian of posterior coordinates, which is exact here."""
    rng = np.random.default_rng(0)
    x = TWO.prior(rng, 5000)
    return fokker.fit(x, TWO.simulate(x, rng), steps=1)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(1)
    x = TWO.prior(rng, 100)
    return Rows(x, TWO.simulate(x, rng))


def test_in_the_whole_check(posterior, rows):
    stages = []
    y = np.array([[0.3, 0.2, -0.1]])
    found = check(posterior, rows, y=y, simulator=TWO, near=60, progress=lambda *what: stages.append(what))
    (one,) = found.measured
    assert not one.wrong_around and one.local["simulations"] == 60 and found.not_possible == ()
    assert sum(text.startswith("around it") for text in one.words) == 1 and "(60 simulations near it" in one.words[1]
    assert ("simulations near measurement 0", 60, 60) in stages and ("samples near measurement 0", 60, 60) in stages

    class Other(Linear):
        """Not what the posterior has learned."""

        def simulate(self, x, rng):
            return super().simulate(x, rng) + 0.8

    found = check(posterior, rows, y=y, simulator=Other(TWO.operator, 0.5))
    assert found.measured[0].wrong_around and any("wrong around a measurement" in text for text in found.steps)


def test_what_is_not_possible_is_said(posterior, rows):
    y = np.array([[0.3, 0.2, -0.1]])
    for given, words in (
        ({}, "local re-simulation: no simulator (--simulator FILE)"),
        (
            {"simulator": SimpleNamespace(simulate=TWO.simulate)},
            "local re-simulation: the simulator has no prior(rng, n)",
        ),
        ({"simulator": TWO, "near": 0}, "local re-simulation: no simulations near a measurement are asked for"),
    ):
        found = check(posterior, rows, y=y, **given)
        assert words in found.not_possible and any("of 100 rows" in text for text in found.measured[0].words)


def test_further_conditions_and_many_measurements(posterior, rows, monkeypatch):
    rng = np.random.default_rng(2)
    x, cond = TWO.prior(rng, 300), {"age": rng.standard_normal((300, 1))}
    other = fokker.fit(x, TWO.simulate(x, rng), cond=cond, steps=1)
    few_rows = Rows(rows.x, rows.y, {"age": cond["age"][:100]})
    found = check(other, few_rows, y=rows.y[:1], cond={"age": np.zeros((1, 1))}, simulator=TWO)
    assert "local re-simulation: simulate(x, rng) knows nothing of further conditions" in found.not_possible
    for module in ("check_measurement", "checking"):
        monkeypatch.setattr(f"fokker.{module}.LOCAL", 1)
    found = check(posterior, rows, y=np.array([[0.3, 0.2, -0.1], [0.1, 0.2, 0.3]]), simulator=TWO, near=50)
    assert [m.local is not None for m in found.measured] == [True, False]
    assert found.not_possible == ("local re-simulation of 2 measurements: the first 1 are served",)


@pytest.mark.parametrize(
    ("simulator", "near", "words"),
    [
        (TWO, 20, "near: got 20, 0 or at least 50 simulations are accepted"),
        (
            SimpleNamespace(simulate=TWO.simulate, prior=lambda rng, n: np.zeros((n, 3))),
            200,
            r"prior returned an array",
        ),
        (SimpleNamespace(simulate=TWO.simulate, prior=lambda n: np.zeros((n, 3))), 200, "prior raised TypeError"),
    ],
)
def test_wrong_input_is_told_at_once(posterior, rows, simulator, near, words):
    with pytest.raises(InputError, match=words):
        check(posterior, rows, y=rows.y[:1], simulator=simulator, near=near)


MODEL = """
import numpy as np


def prior(rng, n):
    return rng.gamma(2.0, 1.0, n)


def simulate(x, rng):
    return np.log(x.reshape(len(x))) + 0.3 * rng.standard_normal(len(x))
"""


def test_from_the_command_line_one_number_within_bounds(tmp_path, capsys):
    """A model file of scalars, with a prior and without; a positive x."""
    (tmp_path / "model.py").write_text(MODEL)
    (tmp_path / "plain.py").write_text(MODEL.replace("def prior", "def other"))
    here: dict = {}
    exec(MODEL, here)
    rng = np.random.default_rng(0)
    x = here["prior"](rng, 2000)
    np.savez(tmp_path / "pairs.npz", x=x, y=here["simulate"](x, rng))
    np.save(tmp_path / "y.npy", np.array([0.5]))
    words = ["fit", str(tmp_path / "pairs.npz"), "--positive", "x", "--steps", "1", "--quiet"]
    assert cli.command([*words, "--out", str(tmp_path / "m")]) == 0
    capsys.readouterr()
    words = ["check", str(tmp_path / "m"), "--y", str(tmp_path / "y.npy"), "--near", "100", "--quiet"]
    assert cli.command([*words, "--simulator", str(tmp_path / "model.py")]) == 0
    said = capsys.readouterr().out
    assert "(100 simulations near it" in said and "not possible" not in said
    assert "100 simulations near it" in (tmp_path / "m" / "check.html").read_text()
    assert cli.command([*words, "--simulator", str(tmp_path / "plain.py")]) == 0
    assert "not possible: local re-simulation: the simulator has no prior(rng, n)" in capsys.readouterr().out
