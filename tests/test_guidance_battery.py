"""The guidance battery: its references, its measures, its run and its page."""

import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from scipy.stats import multivariate_normal, norm

import fokker
from exact import limit
from fokker import cli
from fokker.errors import InputError
from fokker.problems.battery_cases import BOX, all_cases
from fokker.problems.battery_methods import METHODS
from fokker.problems.battery_run import EXACT, GuidanceBattery, compared, joined, run
from fokker.problems.battery_summary import Row, best, results, rows
from fokker.reference.mixture import LinearMixture
from fokker.reference.quadrature import Grid
from fokker.report import battery_page

TINY = GuidanceBattery(
    cases=("gaussian-2-over-0.3", "counts-10"), methods=("pigdm", "dps", "known", "ddrm"), measurements=2, draws=60,
    repeats=2,
)  # fmt: skip


def test_posterior_of_a_mixture_against_quadrature():
    weights, means = np.array([0.4, 0.6]), np.array([[0.5, -1.0], [-0.8, 0.7]])
    covariances = np.array([[[0.5, 0.2], [0.2, 0.3]], [[0.2, 0.0], [0.0, 0.6]]])
    a, r = np.array([[1.0, -0.5], [0.3, 0.8]]), np.array([[0.3, 0.1], [0.1, 0.2]])
    law, y = LinearMixture(weights, means, covariances, a, r), np.array([[0.4, 0.2], [-2.0, 1.0]])
    mean, std = law.moments(y)
    evidence = law.components(y)[2]
    axis = np.linspace(-6, 6, 601)  # the trapezoidal rule is exact to rounding for smooth laws that end inside
    x = np.stack(np.meshgrid(axis, axis, indexing="ij"), 2).reshape(-1, 2)
    prior = sum(w * multivariate_normal(m, c).pdf(x) for w, m, c in zip(weights, means, covariances))
    for row in range(2):
        joint = prior * multivariate_normal(np.zeros(2), r).pdf(y[row] - x @ a.T) * (axis[1] - axis[0]) ** 2
        total = joint.sum()
        middle = joint @ x / total
        assert_allclose(evidence[row], math.log(total), atol=1e-9)
        assert_allclose(mean[row], middle, atol=1e-9)
        assert_allclose(std[row], np.sqrt(joint @ (x - middle) ** 2 / total), atol=1e-9)
    draws = law.sample(y, 20_000, seed=1)
    z = (draws.mean(1) - mean) / std * 20_000**0.5
    assert np.abs(z).max() < limit(z.size)
    assert_allclose(law.sample(y[1:], 5, seed=1)[0].shape, (5, 2))


def test_posterior_on_a_grid():
    """A Gaussian away from the middle; a box that is too small is refused."""
    law = Grid(lambda x: norm(0.3, 0.4).logpdf(x[:, 0]) + norm(-1, 0.2).logpdf(x[:, 1]) + 2.5, BOX)
    assert_allclose([*law.mean, *law.std, law.log_total], [0.3, -1, 0.4, 0.2, 2.5], atol=2e-4)
    draws = law.sample(20_000, seed=3)
    z = (draws.mean(0) - law.mean) / law.std * 20_000**0.5
    assert np.abs(z).max() < limit(2) and not np.array_equal(draws[:5], law.sample(5, seed=3, case=1))
    for box in (((-6, 0), (-6, 6)), ((-6, 6), (-0.9, 6))):
        with pytest.raises(InputError, match="larger box"):
            Grid(lambda x: norm(0.3, 0.4).logpdf(x[:, 0]) + norm(-1, 0.2).logpdf(x[:, 1]), box)
    with pytest.raises(InputError, match="nowhere positive"):
        Grid(lambda x: np.full(len(x), -np.inf), BOX)


@pytest.mark.parametrize("given", [{"noise": 0.0}, {"means": np.zeros((3, 2))}, {"noise": -np.eye(2)}])
def test_bad_mixtures(given):
    parts = {
        "weights": [0.5, 0.5], "means": np.zeros((2, 2)), "covariances": np.stack([np.eye(2)] * 2),
        "operator": np.eye(2), "noise": 0.1,
    }  # fmt: skip
    with pytest.raises(InputError):
        LinearMixture(**{**parts, **given})


def test_measures_see_what_is_wrong():
    """Exact samples, and those that are shifted by half a deviation, twice as wide, or half as wide."""
    built = all_cases()["gaussian-2-over-0.3"].build()
    y = built.measurements(3).numpy()
    exact, draws = built.exact(y, 4096, 0), built.exact(y, 2000, 1).draws
    middle = exact.mean[:, None]
    fine = compared(draws, exact)
    assert fine["bias"] < 0.06 and abs(fine["variance_ratio"] - 1) < 0.1 and abs(fine["coverage_80"] - 0.8) < 0.02
    shifted = compared(draws + 0.5 * exact.std[:, None], exact)
    assert abs(shifted["bias"] - 0.5) < 0.06 and shifted["sliced_wasserstein"] > 3 * fine["sliced_wasserstein"]
    for factor in (0.5, 2.0):
        found = compared(middle + factor * (draws - middle), exact)
        assert_allclose(found["variance_ratio"], factor**2 * fine["variance_ratio"], rtol=1e-6)
        inside = 2 * norm.cdf(factor * norm.ppf(0.9)) - 1
        assert abs(found["coverage_80"] - inside) < 0.03


def test_every_case_can_be_built_and_is_measured_by_its_own_likelihood():
    for case in all_cases().values():
        if case.dimension > 8 and "flux" not in case.name:
            continue
        built = case.build()
        y = built.measurements(2)
        exact = built.exact(y.numpy(), 50, 0)
        assert exact.draws.shape == (2, 50, case.dimension) and np.isfinite(exact.evidence).all()
        clean = built.forward(torch.from_numpy(exact.draws.reshape(-1, case.dimension)))
        log = built.likelihood.log_prob(y.repeat_interleave(50, 0), clean)
        assert bool(torch.isfinite(log).all())
        assert sum(method.takes(case, built) for method in METHODS.values()) >= 5


def test_a_run_goes_on_where_it_stopped(tmp_path):
    first, told = run(TINY, tmp_path / "a", lambda *_: None), []
    keys = {name.rsplit(".", 1)[0] for name in first}
    assert {f"gaussian-2-over-0.3.{EXACT}", "counts-10.pigdm.steps=32", "gaussian-2-over-0.3.known.steps=32"} <= keys
    assert not any("counts-10.known" in name or "counts-10.ddrm" in name for name in keys)  # refused
    (tmp_path / "a" / "results" / "counts-10.json").unlink()
    damaged = tmp_path / "a" / "results" / "gaussian-2-over-0.3.json"
    damaged.write_text(damaged.read_text().replace("0.", "1.", 1))
    second = run(TINY, tmp_path / "a", lambda *given: told.append(given))
    assert {stage for stage, *_ in told} == {"counts-10", "gaussian-2-over-0.3"}
    for name, value in first.items():
        assert name.endswith("seconds") or second[name] == value
    told.clear()
    run(TINY, tmp_path / "a", lambda *given: told.append(given))
    assert not told
    battery_page.write(tmp_path / "a")
    page = (tmp_path / "a" / "report.html").read_text()
    assert "Which method for my problem" in page and "data:image/png" in page
    assert json.loads((tmp_path / "a" / "metrics.json").read_text()) == second


def test_a_run_that_is_ended_leaves_nothing_open(tmp_path):
    """By SIGTERM, as by a queueing system: no word of semaphores that are left, no processes."""
    code, out = "from fokker.cli import main; main()", tmp_path / "run"
    words = ["run", "guidance-battery", "--cases", "gaussian-8-over-0.3", "--out", str(out), "--quiet"]
    with subprocess.Popen([sys.executable, "-c", code, *words], stderr=subprocess.PIPE, text=True) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while process.poll() is None:  # until a worker has got its task and loads what it needs
            time.sleep(0.05)
            if any("libtorch" in Path(f"/proc/{pid}/maps").read_text() for pid in children.read_text().split()):
                break
        process.send_signal(signal.SIGTERM)
        error = process.communicate()[1]  # once all who can write there have ended
    assert (process.returncode, error) == (143, "")


@pytest.mark.parametrize(
    "given",
    [
        {"cases": ("nothing",)}, {"cases": ()}, {"methods": ("pigdm", "pigdm")}, {"methods": ("x",)}, {"draws": 5},
        {"measurements": 0}, {"repeats": 0}, {"seed": -1}, {"most_steps": 0},
    ],
)  # fmt: skip
def test_bad_settings(given):
    with pytest.raises(InputError, match=next(iter(given))):
        GuidanceBattery(**given)


@pytest.mark.parametrize(
    ("given", "near"), [("nonsense", "gaussian-2-under-0.05"), ("gausian-8-over", "gaussian-8-over-")]
)
def test_a_case_that_is_not_there(given, near, tmp_path, capsys):
    """The names that are like it, not all of them; every method, as these are few."""
    words = ["run", "guidance-battery", "--out", str(tmp_path / "run"), "--quiet"]
    assert cli.command([*words, "--cases", given]) == 2
    said = capsys.readouterr().err
    assert near in said and "40 in all, see --help" in said and len(said) < 200
    assert cli.command([*words, "--methods", given]) == 2
    assert f"one of {', '.join(METHODS)} is" in capsys.readouterr().err and not (tmp_path / "run").exists()


def row(method, apart, seconds, diverged=0, cases=2, steps=32):
    return Row("k", method, steps, cases, diverged, apart, apart, 0.1, (1, 1), 0.8, seconds, 32)


def test_the_best_method_is_able_near_and_cheap():
    found = [row("pigdm", 1.05, 1), row("moments", 1.0, 9), row("known", 0.95, 0.5), row("daps", 1.2, 0.1)]
    found += [row("dps", 0.9, 1, diverged=1), row("ddrm", 1, 0.1, cases=1)]
    assert best(found, "k").method == "pigdm" and best(found, "k", exact_prior=True).method == "known"


def test_repeats_and_keys():
    one = {"diverged": 0.0, "sliced_wasserstein": 1.0, "bias": 0.2}
    out = joined([one, {**one, "sliced_wasserstein": 3.0}, {"diverged": 1.0}])
    assert out == {"diverged": pytest.approx(1 / 3), "sliced_wasserstein": 2.0, "bias": 0.2, "reseed": 0.5}
    assert joined([{"diverged": 1.0}]) == {"diverged": 1.0}
    numbers = {
        "counts-10.exact.sliced_wasserstein": 0.1,
        "counts-10.dps.steps=32.diverged": 1.0,
        "counts-10.pigdm.steps=16.sliced_wasserstein": 0.2,
        **{f"counts-10.pigdm.steps=16.{name}": 1.0 for name in ("diverged", "bias", "variance_ratio", "coverage_80")},
        **{f"counts-10.pigdm.steps=16.{name}": 1.0 for name in ("seconds", "nfe")},
    }
    failed, fine = rows(numbers)
    assert failed.diverged == 1 and math.isnan(failed.apart) and fine.apart == pytest.approx(2.0)
    with pytest.raises(InputError, match="battery"):
        results({"something": 1.0})


def test_guided_posteriors_need_no_network_to_be_exact():
    """One row of the table once more, by hand: moment matching on the boundary flux, z-scores of 4 x 30 means."""
    built = all_cases()["flux-5"].build()
    y = built.measurements(4)
    found = fokker.MomentMatching(built.prior, forward=built.forward, likelihood=built.likelihood).sample(
        y, 400, steps=32
    )
    exact = built.exact(y.numpy(), 10, 0)
    z = (found.samples.numpy().mean(1) - exact.mean) / exact.std * 20
    assert np.abs(z).max() < limit(z.size)
