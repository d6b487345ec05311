"""`fokker check`: a right posterior passes, wrong ones and strange measurements are named."""

import json
import warnings

import numpy as np
import pytest
import torch

import fokker
import fokker.from_files
from fokker import checking, cli
from fokker.check_rows import Rows
from fokker.checking import check
from fokker.errors import InputError
from fokker.posterior_coordinates import Posterior

MODEL = """
import numpy as np


def prior(rng, n):
    return rng.standard_normal((n, 2))


def simulate(x, rng):
    return x @ np.array([[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]]) + 0.5 * rng.standard_normal((len(x), 3))
"""
HERE: dict = {}
exec(MODEL, HERE)


class Linear:
    """The simulator above, as the library takes it."""

    simulate = staticmethod(HERE["simulate"])


def pairs(count, seed):
    rng = np.random.default_rng(seed)
    x = HERE["prior"](rng, count)
    return x, HERE["simulate"](x, rng)


@pytest.fixture(scope="module")
def posterior():
    """One step of training: the Gaussian of posterior coordinates, which is exact here."""
    return fokker.fit(*pairs(20_000, 0), steps=1)


@pytest.fixture(scope="module")
def rows():
    return Rows(*pairs(400, 1))


def scaled(posterior, factor):
    """The same posterior with a conditional deviation that is wrong by a factor."""
    right = posterior.coordinates
    wrong = Posterior(right.mean_x, right.mean_y, right.covariance.clone())
    split = right.mean_x.numel()
    gain = wrong.covariance[:split, split:] @ torch.linalg.inv(wrong.covariance[split:, split:])
    explained = gain @ wrong.covariance[split:, :split]
    wrong.covariance[:split, :split] = explained + factor**2 * (right.covariance[:split, :split] - explained)
    other = fokker.ConditionalPosterior(
        posterior.model, posterior.x_shape, posterior.y_shape, posterior.recipe, posterior.clip
    )
    other.model = type(posterior.model)(
        posterior.model.process,
        posterior.model.network,
        wrong,
        posterior.model.moments,
        posterior.model.rho_range,
        preconditioning="edm",
        data_std=1.0,
    )
    return other


def test_a_right_posterior_passes(posterior, rows):
    found = check(posterior, rows)
    assert found.verdict.calibrated and found.words[0].startswith("calibrated, as far as 400 rows")
    assert any("the network adds nothing" in text for text in found.words)
    assert any("posterior.no_network()" in text for text in found.steps)
    assert found.not_possible == ("a verdict on one measurement: none is given (--y FILE)",)
    json.dumps(found.numbers(), allow_nan=False)


@pytest.mark.parametrize(("factor", "word"), [(0.75, "over-confident"), (1.35, "under-confident")])
def test_a_wrong_width_is_named(posterior, rows, factor, word):
    found = check(scaled(posterior, factor), rows, names=["growth", "decay"])
    assert not found.verdict.calibrated
    for name in ("growth", "decay"):
        assert any(text.startswith(f"{name}: {word}") for text in found.words), found.words
    assert any("fit to more pairs" in text for text in found.steps)


def test_measurements_one_by_one(posterior, rows):
    y = np.array([[0.3, 0.2, -0.1], [9.0, -9.0, 9.0], [2.0, -2.5, 2.0]])
    found = check(posterior, rows, y=y, simulator=Linear())
    usual, far, contradictory = found.measured
    assert usual.p_like_training > 0.02 and usual.p_predictive > 0.02
    assert "looks like the training data" in usual.words[0]
    assert any("nothing wrong is seen (a shift of" in text for text in usual.words)
    assert any("its own posterior does not contradict it" in text for text in usual.words)
    for one in (far, contradictory):
        assert "lies outside the training data" in one.words[0] and "nothing is near it" in one.words[1]
        assert one.strange and one.p_predictive is None
    assert any("units or recording" in text for text in found.steps)


def test_a_measurement_that_its_own_posterior_does_not_explain(posterior, rows):
    """It looks like the training data, but the simulator that is asked again reads one more on every sensor."""

    class Shifted:
        def simulate(self, x, rng):
            return HERE["simulate"](x, rng) + 3.0

    (one,) = check(posterior, rows, y=np.array([[0.3, 0.2, -0.1]]), simulator=Shifted()).measured
    assert one.p_like_training > 0.02 and one.p_predictive < 0.01 and one.strange
    assert any("does not explain it" in text for text in one.words)


def test_false_alarms_of_one_measurement_stay_at_the_level(posterior, rows):
    """30 usual measurements: p <= 0.01 happens to each with a probability of 1 %; more than 3 once in 5,000."""
    _, y = pairs(30, 2)
    found = check(posterior, rows, y=y, simulator=Linear())
    for p in ([m.p_like_training for m in found.measured], [m.p_predictive for m in found.measured]):
        assert sum(value <= 0.01 for value in p) <= 3


def test_right_on_average_but_wrong_around_the_measurement(posterior, rows):
    """Truths moved up where y is high and down where it is low: around a high one samples lie too low."""
    x = rows.x + 0.35 * np.sign(rows.y[:, :1])
    high = rows.y[rows.y[:, 0].argsort()[-60:]].mean(0, keepdims=True)
    found = check(posterior, Rows(x, rows.y), y=high)
    assert any("around it x[0] lies too low" in text for text in found.measured[0].words)
    assert any("depends on the measurement" in text for text in found.verdict.words)


def test_gaps_in_the_measurement():
    x, y = pairs(4000, 3)
    posterior = fokker.fit(x, y, omega=fokker.RandomLayouts(0.7), steps=1)
    given = np.array([[0.3, np.nan, -0.1], [np.nan, np.nan, np.nan]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nothing is observed: the answer is the prior
        found = check(posterior, Rows(*pairs(300, 4)), y=given, simulator=Linear())
    assert found.measured[0].p_like_training > 0.01 and found.measured[0].p_predictive > 0.01
    assert "cannot be told" in found.measured[1].words[0]


def test_simulations_that_fail_are_told(posterior, rows):
    class Failing:
        def simulate(self, x, rng):
            return np.where(rng.random((len(x), 1)) < 0.3, np.nan, HERE["simulate"](x, rng))

    class Dead:
        def simulate(self, x, rng):
            return np.full((len(x), 3), np.nan)

    y = np.array([[0.3, 0.2, -0.1]])
    (some,) = check(posterior, rows, y=y, simulator=Failing()).measured
    assert some.p_predictive > 0.02 and any("simulations failed)" in text for text in some.words)
    (none,) = check(posterior, rows, y=y, simulator=Dead()).measured
    assert none.p_predictive is None and any("cannot be simulated (499 of 499" in text for text in none.words)


def test_too_few_rows(posterior, rows):
    with pytest.raises(InputError, match="at least 50 cases"):
        check(posterior, Rows(rows.x[:40], rows.y[:40]))


def test_many_entries_are_judged_in_part(monkeypatch, posterior, rows):
    monkeypatch.setattr(checking, "MOST", 1)
    found = check(posterior, rows)
    assert len(found.verdict.entries) == 1 and "evenly spaced" in found.not_possible[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("check")
    x, y = pairs(3000, 5)
    np.savez(out / "pairs.npz", theta=x, d=y)
    np.savez(out / "others.npz", theta=x[:200] + 1.0, d=y[:200])
    np.savez(out / "few.npz", theta=x[:20], d=y[:20])
    np.savez(out / "wrong.npz", theta=x[:, :1], d=y)
    np.save(out / "y.npy", y[0])
    (out / "model.py").write_text(MODEL)
    words = ["fit", str(out / "pairs.npz"), "--x", "theta", "--y", "d", "--steps", "1", "--quiet"]
    assert cli.command([*words, "--out", str(out / "model")]) == 0
    return out


def test_from_the_command_line(folder, tmp_path, capsys):
    capsys.readouterr()
    words = ["check", str(folder / "model"), "--y", str(folder / "y.npy"), "--simulator", str(folder / "model.py")]
    assert cli.command([*words, "--quiet", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "- calibrated, as far as 300 rows" in said and "measurement 0:" in said
    numbers = json.loads((tmp_path / "check.json").read_text())
    assert numbers["calibrated"] and [e["name"] for e in numbers["entries"]] == ["theta[0]", "theta[1]"]
    page = (tmp_path / "check.html").read_text()
    assert "On the rows of this check nothing is wrong." in page and "data:image/png" in page and "contraction" in page
    assert cli.command(["check", str(folder / "model"), "--data", str(folder / "others.npz"), "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "- theta[0]: samples lie too low, by" in said and "next: train longer" in said and "rows of" in said
    assert "It is wrong" in (folder / "model" / "check.html").read_text()


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["{here}/nowhere"], "there is no such file"),
        (["{here}/model", "--data", "{here}/few.npz"], "at least 50 are accepted"),
        (["{here}/model", "--data", "{here}/wrong.npz"], "x has rows of shape (1,), (2,) is accepted"),
        (["{here}/model", "--data", "{here}/y.npy"], "there is no 'theta'"),
        (["{here}/model", "--y", "{here}/pairs.csv"], "there is no such file"),
        (
            ["{here}/model", "--simulator", "{here}/pairs.npz"],
            "is no Python file, a Python file with the function simulate is",
        ),
        (["{here}/plain"], "no rows were held out"),
    ],
)
def test_wrong_words(words, part, folder, capsys, posterior):
    posterior.save(folder / "plain")
    assert cli.command(["check", *(word.format(here=folder) for word in words), "--quiet"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("fokker: ") and said.count("\n") == 1 and part in said, said


def test_a_simulator_that_is_wrong_is_told_at_once(posterior, rows):
    class Wrong:
        def __init__(self, what):
            self.simulate = what

    def raising(x, rng):
        raise ZeroDivisionError("no mesh")

    y = np.zeros((1, 3))
    for what, word in (
        (raising, "ZeroDivisionError: no mesh"),
        (lambda x, rng: x, "expected"),
        (lambda x, rng: HERE["simulate"](x, rng).T, "expected"),
        (lambda x, rng: None, "real numbers"),
        (lambda x, rng: 3.0, "expected"),
    ):
        with pytest.raises(InputError, match=word):
            check(posterior, rows, y=y, simulator=Wrong(what))


def test_rows_have_gaps_like_those_of_the_training(tmp_path, capsys):
    """And around a measurement with gaps the rows have the same."""
    x, y = pairs(2000, 6)
    np.savez(tmp_path / "p.npz", x=x, y=y)
    np.save(tmp_path / "y.npy", np.array([0.1, np.nan, np.nan]))
    words = ["fit", str(tmp_path / "p.npz"), "--missing", "0.5", "--steps", "1", "--quiet"]
    assert cli.command([*words, "--out", str(tmp_path / "m")]) == 0
    fitted, data = fokker.from_files.load_fit(tmp_path / "m")
    hidden = np.isnan(fokker.from_files.check_rows(tmp_path / "m", fitted, data, None).y)
    assert 0.4 < hidden.mean() < 0.6
    asked = []
    sample = type(fitted).sample

    def watched(self, y, *more, **named):
        asked.append(np.isnan(np.asarray(y)))
        return sample(self, y, *more, **named)

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setattr(type(fitted), "sample", watched)
        assert cli.command(["check", str(tmp_path / "m"), "--y", str(tmp_path / "y.npy"), "--quiet"]) == 0
    assert bool((asked[-1] == [False, True, True]).all()) and len(asked[-1]) > 10


def test_conditions_are_compared_by_name_in_whatever_order_they_come():
    x, y, a, b = np.zeros((2, 1)), np.ones((2, 3)), np.full((2, 1), 2.0), np.full((2, 2), 3.0)
    assert Rows(x, y, {"b": b, "a": a}).seen.tolist() == Rows(x, y, {"a": a, "b": b}).seen.tolist()
