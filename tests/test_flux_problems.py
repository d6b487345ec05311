"""Sensors that may be off, growth in the channel, other kinds of noise: small runs, and what they measure against what
is known.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exact import limit
from fokker import cli
from fokker.errors import InputError
from fokker.likelihoods import Gaussian, LogNormal, Saturating
from fokker.posterior import recipes
from fokker.problems import flux_run
from fokker.problems.boundary_flux import BoundaryFlux
from fokker.problems.boundary_flux_reaction import LEVELS, BoundaryFluxReaction, ReactionSimulator
from fokker.problems.boundary_flux_sensors import COUNTS, BoundaryFluxSensors
from fokker.problems.flux_cases import Case
from fokker.problems.flux_metrics import calibration, closeness, paired_z
from fokker.problems.flux_settings import FluxRun
from fokker.problems.flux_summary import BLOCK, Summary
from fokker.problems.flux_tests import test_sets as sets_of
from fokker.report import flux_layout_figures, flux_noise_figures, flux_page
from fokker.simulation.store import simulate
from fokker.storage import read_json

KINDS: dict[str, type[FluxRun]] = {k.problem: k for k in (BoundaryFlux, BoundaryFluxSensors, BoundaryFluxReaction)}
SIZES = {"train": 150, "training-steps": 20, "test": 5, "samples": 30, "reference": 2, "mesh": "24 8", "workers": 1}
TINY = " ".join(f"--{name} {value}" for name, value in SIZES.items()).split()


# What the problems say


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_presets_survive_their_settings(kind: type[FluxRun]) -> None:
    presets = kind.presets()
    assert next(iter(presets)) == "quick" and presets["quick"] == kind()
    for run in presets.values():
        found = json.loads(json.dumps(run.settings()))
        assert found.pop("problem") == kind.problem
        assert kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}) == run
        assert {m.name for case in run.cases() for m in case.methods} >= {"ve.ode"}
    both = {"ve.ode", "ve.sde"} if kind is BoundaryFluxReaction else {"ve.ode", "ve.sde", "vp2.ode", "vp2.sde"}
    assert {m.name for m in presets["paper"].cases()[0].methods} == both
    assert len({model.folder for case in presets["paper"].cases() for model in case.models}) == len(
        presets["paper"].cases()
    )  # VE and VP share one model


def test_kinds_of_noise() -> None:
    assert BoundaryFlux().likelihood(0.5) == Gaussian(0.5)
    assert BoundaryFlux(sensors="lognormal").likelihood(0.05) == LogNormal(0.05)
    assert BoundaryFlux(sensors="saturating", saturation=90.0).likelihood(2.0) == Saturating(2.0, 90.0)
    assert BoundaryFlux(sensors="lognormal").pairs(2.0) > BoundaryFlux().pairs(2.0)


def test_noise_of_the_reaction_is_that_of_its_sensors() -> None:
    """The levels are those of the linear channel in proportion to how much clean sensors vary (SCALE is 1 / 200)."""
    rng = np.random.default_rng(0)
    linear, reaction = (kind(mesh=(64, 24)).simulator(2.0) for kind in (BoundaryFlux, BoundaryFluxReaction))
    x = linear.prior(rng, 300)
    ratio = reaction.simulate(x, rng).std(0).mean() / linear.simulate(x, rng).std(0).mean()
    assert ratio == pytest.approx(1 / 200, rel=0.1)
    assert LEVELS[1] == 0.005


def test_the_reaction_s_jacobian_is_its_derivative() -> None:
    simulator = ReactionSimulator(2.0, (24, 8), 2)
    rng = np.random.default_rng(0)
    x, way = simulator.prior(rng, 3), rng.standard_normal((3, 30))
    step = 1e-4
    ahead, behind = (simulator.simulate(x + sign * step * way, rng) for sign in (1, -1))
    np.testing.assert_allclose(
        np.einsum("ikd,id->ik", simulator.jacobian(x), way), (ahead - behind) / (2 * step), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("mean", [2.0, 0.3])
def test_standard_deviation_of_the_prior(mean: float) -> None:
    x = BoundaryFlux(mesh=(24, 8)).simulator(mean).prior(np.random.default_rng(0), 40_000)
    assert flux_noise_figures.prior_std(mean) == pytest.approx(x.std(), rel=0.01)


# Test cases


@pytest.fixture(scope="module")
def sensors(tmp_path_factory: pytest.TempPathFactory) -> tuple[Case, Any]:
    run = BoundaryFluxSensors(test=300, reference=10, per_count=20, mesh=(24, 8))
    store = simulate(run.simulator(2.0), run.test_rows, tmp_path_factory.mktemp("store") / "test", seed=1)
    return run.cases()[0], store


def test_layouts_of_the_test_cases(sensors: tuple[Case, Any]) -> None:
    case, store = sensors
    own, *more = sets_of(case, store)
    assert (own.name, own.reference, len(own.x)) == ("", 10, 300)
    assert own.omega is not None
    z = (own.omega.mean() - 0.7) / (0.21 / own.omega.size) ** 0.5
    assert abs(z) < limit(1)
    assert [test.name for test in more] == [f"sensors={count}" for count in COUNTS]
    for test, count in zip(more, COUNTS):
        seen = ~test.y.isnan()
        assert bool((seen.sum(1) == count).all()) and test.reference == len(test.x) == 20
    x = np.concatenate([test.x for test in (own, *more)])
    assert len(np.unique(x, axis=0)) == len(x)  # no flux is used twice
    again = sets_of(case, store)
    assert all(torch.equal(a.y.nan_to_num(-1), b.y.nan_to_num(-1)) for a, b in zip((own, *more), again))


def test_what_the_published_encoding_shows(sensors: tuple[Case, Any]) -> None:
    case, store = sensors
    published = replace(case.run, encoding="minus-one")
    own = sets_of(case, store)[0]
    shown = published.encoded(own.y)
    assert bool((shown[own.y.isnan()] == -1).all()) and torch.equal(shown[~own.y.isnan()], own.y[~own.y.isnan()])
    assert not published.redrawn(2.0) and case.run.redrawn(2.0)


def test_which_counts_are_extrapolation() -> None:
    run = BoundaryFluxSensors()
    assert [count for count in COUNTS if run.extrapolates(count)] == [5, 10, 30]
    assert "the prior" in run.describe("sensors=0") and "hardly" in run.describe("sensors=5")


# What is measured


def summary(samples: np.ndarray, truth: np.ndarray) -> Summary:
    return Summary.of(samples, truth, truth.mean(0) + 0 * truth)


@pytest.fixture(scope="module")
def drawn() -> dict[str, Any]:
    """Exact samples of N(centre, 1), another set shifted by 0.2 and 1.1 times as wide."""
    rng = np.random.default_rng(0)
    centre = rng.standard_normal((2 * BLOCK + 50, 30))
    truth = centre + rng.standard_normal(centre.shape)
    exact, other = (centre[:, None] + rng.standard_normal((len(centre), 400, 30)) for _ in range(2))
    wrong = centre[:, None] + 0.2 + 1.1 * rng.standard_normal(exact.shape)
    return {"truth": truth} | {
        name: summary(samples, truth) for name, samples in (("exact", exact), ("other", other), ("wrong", wrong))
    }


def test_summaries_do_not_depend_on_blocks(drawn: dict[str, Any]) -> None:
    assert drawn["exact"].mean.shape == (2 * BLOCK + 50, 30) and drawn["exact"].samples.shape == (20, 400, 30)
    assert drawn["exact"].covered.shape == (3, 2 * BLOCK + 50, 30) and int(drawn["exact"].draws) == 400


def test_distance_and_ratio_of_spreads(drawn: dict[str, Any]) -> None:
    cases = np.arange(len(drawn["truth"]))
    count = 30 * len(cases)
    near, far = (closeness(drawn[name], drawn["exact"], cases) for name in ("other", "wrong"))
    noise = (2 / 400) ** 0.5  # of the difference of two means of 400 draws
    assert near["mean_distance"] == pytest.approx(noise, rel=limit(3) / (2 * count) ** 0.5 + 0.005)
    assert abs(near["std_ratio"] - 1) < limit(3) * (1 / 400 / count) ** 0.5 + 1 / 400  # a ratio's mean is above 1
    assert far["mean_distance"] == pytest.approx((0.04 + (1 + 1.21) / 400) ** 0.5, rel=0.02)
    assert far["std_ratio"] == pytest.approx(1.1, abs=0.005)
    assert closeness(drawn["wrong"], drawn["exact"], cases[:0]) == {}


def test_calibration_flags_what_is_wrong_and_passes_what_is_right(drawn: dict[str, Any]) -> None:
    """Kolmogorov's distance of 450 cases: beyond 0.105 for one of 32 tests at a rate of 1e-4 (2 exp(-2 M d^2))."""
    bound = (np.log(2 * 32 / 1e-4) / (2 * 450)) ** 0.5
    right, wrong = calibration(drawn["other"]), calibration(drawn["wrong"])
    assert set(right) == {"sbc_deviation", "tarp_deviation", "tarp_from_y_deviation"}
    assert max(right.values()) < bound < wrong["sbc_deviation"]


def test_paired_z(drawn: dict[str, Any]) -> None:
    assert paired_z(drawn["wrong"].crps, drawn["exact"].crps) > 5
    assert abs(paired_z(drawn["other"].crps, drawn["exact"].crps)) < limit(1)
    some = drawn["wrong"].crps[:50]  # a competitor that has fewer cases
    assert paired_z(some, drawn["exact"].crps) == paired_z(some, drawn["exact"].crps[:50])


# Small runs


@pytest.fixture
def serial() -> Iterator[pytest.MonkeyPatch]:
    """Stages in turn, short trainings and chains."""

    def in_turn(tasks: list[Any], progress: Any, at_once: int = 2) -> None:
        for task in tasks:
            task.function(*task.arguments, progress)

    with pytest.MonkeyPatch.context() as patch:
        short = replace(recipes.DEFAULT.training, batch_size=32, validate_every=10)
        patch.setattr(flux_run, "run_side_by_side", in_turn)
        patch.setitem(recipes.RECIPES, "default", replace(recipes.DEFAULT, training=short))
        patch.setattr(flux_run, "REFERENCE_SAMPLES", 100)
        yield patch


def run(problem: str, out: Path, *options: str) -> int:
    return cli.command(["run", problem, *TINY, "--quiet", "--out", str(out), *options])


def test_sensors_that_may_be_off(tmp_path: Path, serial: pytest.MonkeyPatch, capsys: Any) -> None:
    out = tmp_path / "run"
    assert run("boundary-flux-sensors", out, "--per-count", "2", "--noise", "1", "20") == 0
    said = capsys.readouterr()
    assert said.err == "" and "no sensor on (the answer is the prior)" in said.out
    metrics, page = read_json(out / "metrics.json"), (out / "report.html").read_text()
    for count in COUNTS:
        for method in ("ve.ode", "exact", "no_network"):
            assert metrics[f"mean2.{method}.noise=1.sensors={count}.error_percent"] > 0
        assert f"mean2.ve.ode.noise=20.sensors={count}.error_percent" not in metrics
    assert "Without any sensor the answer is the prior" in page
    names = {path.stem for path in (out / "figures").iterdir()}
    assert {"sensors", "noise-mean2", "noise-error-mean2", "noise-std-mean2"} <= names
    assert run("boundary-flux-sensors", out, "--per-count", "2", "--noise", "1", "20") == 0
    assert read_json(out / "metrics.json") == metrics


def test_the_published_encoding_runs(tmp_path: Path, serial: pytest.MonkeyPatch) -> None:
    assert run("boundary-flux-sensors", tmp_path / "run", "--per-count", "0", "--encoding", "minus-one") == 0
    metrics = read_json(tmp_path / "run" / "metrics.json")
    assert metrics["mean2.ve.ode.noise=1.crps_all"] > 0
    assert not flux_layout_figures.counts_of(BoundaryFluxSensors(per_count=0).cases()[0])


@pytest.mark.parametrize("options", ["--sensors lognormal --noise 0.05", "--sensors saturating --noise 1"])
def test_other_kinds_of_noise(options: str, tmp_path: Path, serial: pytest.MonkeyPatch, capsys: Any) -> None:
    assert run("boundary-flux", tmp_path / "run", "--prior-mean", "2", *options.split()) == 0
    assert capsys.readouterr().err == ""
    metrics = read_json(tmp_path / "run" / "metrics.json")
    noise = options.split()[-1]
    assert metrics[f"mean2.exact.noise={noise}.cases"] + metrics[f"mean2.exact.noise={noise}.unresolved"] == 2
    assert metrics[f"mean2.ve.ode.noise={noise}.crps_all"] > 0
    assert "No target is set" in (tmp_path / "run" / "report.html").read_text()


def test_growth_in_the_channel(tmp_path: Path, serial: pytest.MonkeyPatch, capsys: Any) -> None:
    """With some simulations that fail: they are left out, counted and told."""
    solve = ReactionSimulator.simulate

    def failing(self: ReactionSimulator, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        y = solve(self, x, rng)
        y[17::100] = np.nan
        return y

    serial.setattr(ReactionSimulator, "simulate", failing)
    serial.setattr(flux_run, "MOST_FAILED", 0.2)
    out = tmp_path / "run"
    assert run("boundary-flux-reaction", out) == 0
    said = capsys.readouterr()
    assert said.err == "" and "simulations have failed and are left out" in said.out
    metrics, page = read_json(out / "metrics.json"), (out / "report.html").read_text()
    assert metrics["mean2.simulate.failed"] == 2
    for name in ("mean_distance", "std_ratio"):
        assert {f"mean2.{method}.noise=0.005.{name}" for method in ("ve.ode", "no_network", "laplace")} <= set(metrics)
    for name in ("sbc_deviation_all", "tarp_deviation_all", "tarp_from_y_deviation_all", "crps_z_laplace"):
        assert f"mean2.ve.ode.noise=0.005.{name}" in metrics
    assert "Laplace posterior" in page and "failed and left out" in page


def test_too_many_failures_are_one_line(tmp_path: Path, serial: pytest.MonkeyPatch, capsys: Any) -> None:
    serial.setattr(ReactionSimulator, "simulate", lambda self, x, rng: np.where(x[:, :1] > 2, np.nan, x))
    assert run("boundary-flux-reaction", tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "simulations are not finite" in said


def test_where_simulations_are_made() -> None:
    linear, reaction = BoundaryFlux(), BoundaryFluxReaction()
    assert flux_run.Compute().options(linear) == {"workers": 1}
    assert flux_run.Compute().options(reaction)["workers"] >= 1
    assert flux_run.Compute(workers=3).options(linear) == {"workers": 3}
    assert flux_run.Compute(scheduler="tcp://here:1").options(reaction) == {"scheduler": "tcp://here:1"}
    for bad in ({"workers": -1}, {"workers": 2, "scheduler": "tcp://here:1"}):
        with pytest.raises(InputError, match="workers: got"):
            flux_run.Compute(**bad)  # type: ignore[arg-type]


def test_a_scheduler_that_is_not_there_is_one_line(tmp_path: Path, capsys: Any) -> None:
    words = ["--workers", "0", "--scheduler", "tcp://127.0.0.1:1"]
    assert run("boundary-flux-reaction", tmp_path / "run", *words) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "127.0.0.1:1" in said
    assert not (tmp_path / "run" / "config.json").exists(), "other settings may follow where nothing was made"


def test_pages_of_another_problem_are_refused(tmp_path: Path, serial: pytest.MonkeyPatch) -> None:
    assert run("boundary-flux-sensors", tmp_path / "run", "--per-count", "0") == 0
    with pytest.raises(InputError, match="not of a boundary-flux-reaction run"):
        flux_page.write(BoundaryFluxReaction, tmp_path / "run")
