"""What `fokker check` advises: the simulator first where it disagrees with rows, longer training where it pays."""

from types import SimpleNamespace

import numpy as np
import pytest

from fokker import cli
from fokker.check_advice import Fitted, advice, other_simulator
from fokker.check_measurement import Measured
from fokker.check_simulator import arranged, prior_of
from fokker.cli.check import by_measurement
from fokker.diagnostics.calibration import Verdict
from fokker.errors import InputError
from fokker.from_files import fitted, load_fit
from fokker.simulation.programs import ModelFile
from fokker.storage import read_sealed, write_sealed

MODEL = """
import numpy as np


def prior(rng, n):
    return rng.standard_normal((n, 2))


def simulate(x, rng):
    return x @ np.array([[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]]) + 0.3 * rng.standard_normal((len(x), 3))
"""
RIGHT, WRONG = Verdict(100, (), {}, ()), Verdict(100, (), {}, ("x[0] is wrong",))
ADDS, NOTHING = {"crps": (1.0, 2.0, 9.0)}, {"crps": (1.0, 1.0, 0.5)}
AROUND = Measured(0.5, 0.5, None, False, (), True, {"simulations": 200})
ON_ROWS = Measured(0.5, None, None, False, (), True, None)
UNEXPLAINED = Measured(0.5, 0.002, None, True, ())
OUTSIDE = Measured(0.002, None, None, True, ())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("advice")
    (out / "line.py").write_text(MODEL)
    (out / "other.py").write_text(MODEL.replace("+ 0.3", "+ 1.5 + 0.3"))
    assert cli.command(["simulate", str(out / "line.py"), "-n", "1000", "--out", str(out / "sims"), "--quiet"]) == 0
    words = ["fit", str(out / "sims"), "--steps", "1", "--quiet", "--out", str(out / "model")]
    assert cli.command(words) == 0
    np.savez(out / "pairs.npz", x=np.random.default_rng(0).normal(size=(200, 2)), y=np.ones((200, 3)) * np.nan)
    np.save(out / "y.npy", np.array([0.3, 0.2, -0.1]))
    return out


def checked(folder, simulator, capsys):
    words = ["check", str(folder / "model"), "--y", str(folder / "y.npy"), "--simulator", str(folder / simulator)]
    assert cli.command([*words, "--near", "50", "--quiet"]) == 0
    return capsys.readouterr().out


def test_another_simulator_than_that_of_the_pairs_is_told(folder, capsys):
    different = "other.py differs from the file that made the pairs of the fit (line.py, by its SHA-256)"
    said = checked(folder, "other.py", capsys)
    assert f"\n- {different}: where it and the posterior disagree, either may be wrong\n" in said
    first = next(line for line in said.splitlines() if line.startswith("next: "))
    assert first.startswith(f"next: check with the simulator of the pairs first: {different}; on the rows")
    said = checked(folder, "line.py", capsys)
    assert "differs" not in said and "the simulator" not in said


def test_what_a_fit_records_of_its_simulator_and_its_training(folder):
    _, data = load_fit(folder / "model")
    assert data.simulator == ModelFile.read(folder / "line.py").settings
    found = fitted(folder / "model", data)
    assert found == Fitted(True, True, data.simulator) and other_simulator(None, found) == ""
    assert fitted(folder, None) == Fitted()
    program = Fitted(simulator={**data.simulator, "program": "./solver {x.csv} {y.csv}"})
    assert "by the program './solver {x.csv} {y.csv}', not by simulate of line.py" in other_simulator(
        ModelFile.read(folder / "line.py"), program
    )


@pytest.mark.parametrize(
    ("step", "steps", "best", "cut", "short"),
    [
        (4000, 4000, 3900, True, False),
        (4000, 4000, 3600, False, False),  # its best step came before its end
        (4000, 4000, 0, False, False),  # nothing was ever learned
        (5200, 16_000, 5100, False, False),  # it stopped by itself
        (400, 400, 400, True, True),
        (400, 400, 100, False, True),
        (400, 400, 0, True, True),  # it has not begun
    ],
)
def test_when_longer_training_can_help(folder, tmp_path, step, steps, best, cut, short):
    found = {k: v for k, v in read_sealed(folder / "model" / "training.json").items() if not k.startswith("fokker")}
    assert found["settings"]["recipe"]["training"]["patience"] == 10
    found["records"] = [found["records"][0] | {"step": step, "steps": steps, "best_step": best}]
    write_sealed(tmp_path / "training.json", found)
    assert fitted(tmp_path, None) == Fitted(cut, short)


@pytest.mark.parametrize(
    ("fit", "scores", "longer"),
    [
        (Fitted(), ADDS, True),
        (Fitted(), NOTHING, False),
        (Fitted(True), ADDS, True),
        (Fitted(True), NOTHING, False),
        (Fitted(True, True), NOTHING, True),
        (Fitted(False), ADDS, False),
        (Fitted(False, True), ADDS, False),
    ],
)
def test_longer_training_is_advised_where_it_pays(fit, scores, longer):
    for verdict, measured in ((WRONG, []), (RIGHT, [ON_ROWS])):
        steps = " ".join(advice(verdict, scores, measured, fit, None))
        assert ("train longer" in steps) == longer and "fit to more pairs" in steps
        assert ("other coordinates" in steps) == (verdict is WRONG and not longer)


@pytest.mark.parametrize("one", [AROUND, UNEXPLAINED])
def test_rows_that_are_right_put_the_simulator_first(folder, one):
    anything, file = SimpleNamespace(), ModelFile.read(folder / "line.py")
    for simulator, fit, text in (
        (anything, Fitted(), "make sure of that first"),
        (file, Fitted(), "make sure of that first"),
        (file, Fitted(simulator=file.settings), "make sure first that nothing line.py imports or reads has changed"),
    ):
        first = advice(RIGHT, ADDS, [one], fit, simulator)[0]
        assert first.startswith("the simulator may not be the one that made the pairs: ") and text in first
        assert "may not be" not in " ".join(advice(WRONG, ADDS, [one], fit, simulator))
    for other in (ON_ROWS, OUTSIDE):
        assert "may not be" not in " ".join(advice(RIGHT, ADDS, [other], Fitted(), anything))


def test_the_network_that_is_told_of(folder, tmp_path, capsys):
    """What summarises a signal; and the untrained network where that is what is kept."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 1))
    y = x[:, :, None] * np.ones((1, 1, 80)) + rng.standard_normal((200, 1, 80))
    np.savez(tmp_path / "signals.npz", x=x, y=y)
    words = ["fit", str(tmp_path / "signals.npz"), "--steps", "2", "--quiet", "--out", str(tmp_path / "m")]
    assert cli.command(words) == 0
    assert ", y (1 x 80) summarised by convolutions in 32 numbers; batches of 128\n" in capsys.readouterr().out
    np.savez(tmp_path / "noise.npz", x=x, y=rng.standard_normal((200, 1)))
    words = ["fit", str(tmp_path / "noise.npz"), "--steps", "300", "--quiet", "--out", str(tmp_path / "n")]
    assert cli.command(words) == 0
    said = capsys.readouterr().out
    best = read_sealed(tmp_path / "n" / "training.json")["records"][-1]["best_step"]
    kept = "none of 300 steps was better than the untrained network, which is kept"
    assert (kept if best == 0 else f"weights of step {best} of 300 kept") in said and "convolutions" not in said


def test_what_measurements_have_in_common_is_told_once():
    """With everything that is their own, in its order; a single one as it is."""
    words = [("p = 0.1", "fine"), ("p = 0.2", "fine"), ("outside", "nothing"), ("p = 0.3", "fine"), ("fine", "fine")]
    assert by_measurement(words) == [
        ("measurement 0", ["p = 0.1"]), ("measurement 1", ["p = 0.2"]), ("measurement 2", ["outside", "nothing"]),
        ("measurement 3", ["p = 0.3"]), ("measurements 0, 1, 3, 4", ["fine"]),
    ]  # fmt: skip
    assert by_measurement([("one", "two")]) == [("measurement 0", ["one", "two"])] and by_measurement([]) == []
    assert by_measurement([("a", "b")] * 5)[0] == ("measurements 0 to 4", ["a", "b"])


NAMED = """
x_names, y_names = ("slope", "offset"), ("left", "middle", "right")
""" + MODEL.replace("[0.0, 0.5, 1.0]", "[0.0, 0.5, 3.0]")  # in another order, x and y have other laws


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    out = tmp_path_factory.mktemp("named")
    (out / "line.py").write_text(NAMED)
    (out / "other.py").write_text(NAMED.replace('"slope"', '"gradient"').replace('"right"', '"top"'))
    words = ["simulate", str(out / "line.py"), "-n", "1000", "--out", str(out / "sims"), "--quiet"]
    assert cli.command(words) == 0
    return out


def checked_by_name(named, simulator, x, y):
    """What a check says, of a model of these x and y, and its exit status."""
    words = ["fit", str(named / "sims"), "--x", x, "--y", y, "--steps", "1", "--quiet", "--out", str(named / x)]
    assert (named / x).exists() or cli.command(words) == 0
    np.save(named / "one.npy", np.array([0.3, 0.2] if "," in y else [0.3, 0.2, -0.1]))
    words = ["check", str(named / x), "--y", str(named / "one.npy"), "--simulator", str(named / simulator)]
    return cli.command([*words, "--near", "60", "--quiet"])


def test_a_simulator_in_the_order_of_the_fit():
    """By name: any order of x, any part of y; what has no names, or the same, is left as it is."""

    class Counting:
        x_names, y_names = ("a", "b", "c"), ("p", "q", "r")

        def prior(self, rng, n):
            return np.tile([1.0, 2.0, 3.0], (n, 1))

        def simulate(self, x, rng):
            return x @ np.diag([1.0, 10.0, 100.0])

    given, rng = Counting(), np.random.default_rng(0)
    found = arranged(given, {"x": ["c", "a", "b"], "y": ["r", "p"]})
    assert prior_of(found)(rng, 2).tolist() == [[3, 1, 2]] * 2
    assert found.simulate(np.array([[3.0, 1.0, 2.0]]), rng).tolist() == [[300, 1]]
    assert arranged(given, {"x": ["a", "b", "c"], "y": ["p", "q"]}).simulate(np.ones((1, 3)), rng).tolist() == [[1, 10]]
    for names in ({}, {"x": ["a", "b", "c"], "y": ["p", "q", "r"]}, {"x": ["a", "b", "d"]}):
        assert arranged(given, names) is given
    nameless = SimpleNamespace(simulate=given.simulate)
    assert arranged(nameless, {"x": ["a"]}) is nameless
    assert prior_of(arranged(SimpleNamespace(simulate=given.simulate, y_names=("p", "q")), {"y": ["q"]})) is None
    for names, text in (
        ({"x": ["a", "c"]}, "x is a, b, c in Counting and a, c"),
        ({"y": ["p", "s"]}, "y is p, q, r in"),
    ):
        with pytest.raises(InputError, match=text):
            arranged(given, names)


def test_a_check_follows_the_order_of_the_fit(named, capsys):
    """The model without a training is the Gaussian, exact here."""
    assert checked_by_name(named, "line.py", "offset,slope", "right,left") == 0
    said = capsys.readouterr().out
    assert "nothing wrong is seen (a shift" in said and "does not contradict it" in said and "differs" not in said


def test_a_simulator_of_more_than_the_fit_is_refused(named, capsys):
    assert checked_by_name(named, "line.py", "slope", "y") == 2
    assert capsys.readouterr().err == (
        "fokker: simulator: x is slope, offset in line.py and slope in the fit; a model fitted to all x of the "
        "simulator is accepted\n"
    )


def test_the_names_that_differ_are_told(named, capsys):
    assert checked_by_name(named, "other.py", "x", "y") == 0
    text = "by its SHA-256), and its x has gradient where the fit has slope, its y has top where the fit has right"
    assert text in capsys.readouterr().out
