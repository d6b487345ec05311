"""Functions of one variable: exact answers are exact, a run goes on to the same numbers, its page follows them.

Statistical limits: all z of one test together raise a false alarm with a probability of 1e-4 (`exact.limit`).
"""

import contextlib
import html
import math
import pickle
import re
import shutil

import numpy as np
import pytest
import torch

from exact import RATE, limit
from fokker import cli
from fokker.diagnostics.sbc import p_value, ranks
from fokker.errors import InputError
from fokker.fields.prior import FunctionPrior
from fokker.problems import regression_run
from fokker.problems.density_metrics import load, path_of
from fokker.problems.regression_families import FAMILIES, GRID, TITLES
from fokker.problems.regression_metrics import ratio
from fokker.problems.regression_settings import (
    AMORTIZED,
    METHODS,
    MOST,
    NO_NETWORK,
    OBSERVATIONS,
    PRIOR,
    Cases,
    RegressionRun,
    build,
)
from fokker.problems.shipped import SHIPPED
from fokker.report import regression_page
from fokker.storage import file_hash, read_json, read_sealed

TINY = ["--cases", "4", "--draws", "9", "--steps", "2", "--fields", "40", "--train", "3", "--quiet"]
RUN = ["run", "regression-1d", "--families", "switch", "waves", *TINY]


def in_turn(tasks, progress, at_once=2):
    """Stages without worker processes; that they could go to one is checked."""
    for task in tasks:
        assert pickle.loads(pickle.dumps(task)) == task
        task.function(*task.arguments, progress)


@pytest.fixture(scope="module", autouse=True)
def serial():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(regression_run, "run_side_by_side", in_turn)
        yield


@pytest.fixture(scope="module")
def plain(tmp_path_factory, serial):
    """A run that nothing disturbed, with its report."""
    out = tmp_path_factory.mktemp("plain") / "run"
    assert cli.command([*RUN, "--out", str(out)]) == 0
    return out


def result(out):
    return {name: value for name, value in read_json(out / "metrics.json").items() if not name.endswith("seconds")}


# --- Families and their exact posteriors


@pytest.mark.parametrize("name", FAMILIES)
def test_exact_posteriors_are_calibrated_and_those_of_other_data_are_not(name):
    """Ranks of the truth at 8 cells, 80 functions; control: answers to the function before."""
    run = RegressionRun(cases=80, seed=3)
    cases, family = Cases.of(run, name), FAMILIES[name]
    found = [family.posterior(*cases.told(case), 19, 5, case) for case in range(run.cases)]
    samples = torch.stack([answer.samples for answer in found])
    cells = torch.arange(8, 128, 16)
    for shift, fine in ((0, True), (1, False)):
        values = samples.roll(shift, 0)[..., cells]
        rank = ranks(values.numpy(), cases.truth[:, cells].numpy())
        assert (len(cells) * float(np.min(p_value(rank, 19))) > RATE) == fine
    gap = torch.stack([answer.mean for answer in found]) - cases.truth
    spread = torch.stack([answer.samples.std(0) for answer in found]).square().mean()
    assert 0.5 < float(gap.square().mean() / spread) < 2  # the mean is off by what the samples say


def test_the_mean_of_waves_is_that_of_a_fine_quadrature():
    """Against sums over 1,500 x 1,500 frequencies and phases and Gauss-Hermite in the height, by another formula."""
    family, points = FAMILIES["waves"], torch.tensor([0.13, 0.4, 0.72], dtype=torch.float64)
    y, std, where = torch.tensor([0.9, -0.8, 0.3], dtype=torch.float64), 0.2, torch.tensor([0.25, 0.55, 0.9])
    side = (torch.arange(1500, dtype=torch.float64) + 0.5) / 1500
    k, phase = torch.meshgrid(family.low + (family.high - family.low) * side, side, indexing="ij")

    def shape(x):
        return torch.tanh(family.sharp * torch.sin(2 * math.pi * (k * float(x) + phase)))

    nodes, masses = np.polynomial.hermite_e.hermegauss(12)
    total, sums = 0.0, torch.zeros(3, dtype=torch.float64)
    waves, seen = [shape(x) for x in where], [shape(x) for x in points]
    for node, mass in zip(nodes, masses):
        a = family.height + family.spread * node
        weight = mass * torch.exp(-sum((v - a * s).square() for v, s in zip(y, seen)) / (2 * std**2))
        total += weight.sum()
        sums += torch.stack([(weight * a * wave).sum() for wave in waves])
    found = family.posterior(points, y, std, 2000, 0)
    cells = (GRID.points[:, 0][:, None] - where).abs().argmin(0)
    near = torch.stack([found.mean[cells], found.mean[cells + 1], found.mean[cells - 1]])
    slack = 5 * (found.samples[:, cells].var(0) / found.ess).sqrt()
    wanted = sums / total
    assert (
        found.ess > 1000 and (near.min(0).values - slack < wanted).all() and (wanted < near.max(0).values + slack).all()
    )
    z = (found.samples.mean(0) - found.mean) / (found.samples.std(0) * (1 / 2000 + 1 / found.ess) ** 0.5)
    assert z.abs().max() < limit(128)


def test_the_mixture_knows_which_process_it_was():
    """With 16 values the weight of the true process is mostly near 1: its mean is then that of this process alone."""
    family, run = FAMILIES["switch"], RegressionRun(cases=48)
    cases = Cases.of(run, "switch")
    smooth = cases.truth.diff(dim=1).square().mean(1) < 0.01
    assert 10 < int(smooth.sum()) < 38  # of 48, half on average
    for case in range(15, 48, 16):
        alone = type(family)(family.fields[:1] if smooth[case] else family.fields[1:])
        own, other = (one.posterior(*cases.told(case), 2, 0).mean for one in (alone, family))
        assert (own - other).square().mean() < 0.1 * alone.draw(50, 0, "scale").cells.var()


@pytest.mark.parametrize("name", FAMILIES)
def test_an_exact_posterior_is_one_function_wherever_it_is_asked(name):
    points, y = torch.tensor([0.1, 0.4, 0.8]).double(), torch.tensor([1.0, -0.5, 0.3]).double()
    cells = FAMILIES[name].posterior(points, y, 0.1, 4, 0)
    some = FAMILIES[name].posterior(points, y, 0.1, 4, 0, where=GRID.points[[90, 3, 40], 0])
    torch.testing.assert_close(some.mean, cells.mean[[90, 3, 40]], rtol=1e-9, atol=1e-9)
    near = FAMILIES[name].posterior(points, y, 0.1, 4, 0, where=GRID.points[:, 0] + 1e-6)
    torch.testing.assert_close(near.mean, cells.mean, rtol=0, atol=1e-3)


def test_functions_at_points_are_those_on_cells():
    for family in FAMILIES.values():
        drawn = family.draw(5, 0, "some")
        there = drawn.at(GRID.points[:, 0].expand(5, -1))
        torch.testing.assert_close(there, drawn.cells, atol=1e-9, rtol=0)
        assert (family.draw(5, 0, "some").cells == drawn.cells).all() and (
            family.draw(5, 1, "some").cells != there
        ).any()
    assert set(TITLES) == set(FAMILIES)


def test_the_gaussian_without_a_network_is_exact_for_a_gaussian_process():
    """Means within 2 % of the posterior's spread plus Monte Carlo, where the spectrum comes from 20,000 functions."""
    from fokker.fields.fitting import fit_functions

    cases = Cases.of(RegressionRun(cases=8), "matern")
    prior = fit_functions(FAMILIES["matern"].draw(20_000, 0, "many").cells, steps=1)
    for case in (3, 7):
        points, y, std = cases.told(case)
        found = build(NO_NETWORK, prior, points, std).sample(y, 2000, seed=1, steps=16).samples.double()
        exact = FAMILIES["matern"].posterior(points, y, std, 2000, 0)
        gap = (found.mean(0) - exact.mean) / exact.samples.std(0)
        assert gap.abs().max() < 0.05 + limit(128) / 2000**0.5
        assert (found.std(0) / exact.samples.std(0) - 1).abs().max() < 0.15


def test_a_ratio_is_paired():
    limits = np.array([1.0, 2.0, 3.0])
    assert ratio(1.5 * limits, limits) == (1.5, 0.0)
    assert ratio(limits[::-1], limits)[1] > 0.3


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"families": ("matern", "fog")}, "families: got"),
        ({"families": ()}, "families: got"),
        ({"families": ("waves", "waves")}, "families: got"),
        ({"draws": 1}, "draws: got 1"),
        ({"cases": 1}, "cases: got 1"),
        ({"seed": -1}, "seed: got -1"),
        ({"train": -1}, "train: got -1"),
        ({"fields": 500}, "fields: got 500 for the weights of the package, 40000 is accepted"),
    ],
)
def test_bad_settings_are_told_in_one_line(change, told):
    with pytest.raises(InputError, match=told):
        RegressionRun(**change)


@pytest.mark.parametrize("kind", [AMORTIZED, PRIOR])
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_of_the_package_are_those_of_their_record(family, kind):
    folder = SHIPPED / f"regression-{family}-{kind}"
    record, prior = read_sealed(folder / "training.json"), FunctionPrior.load(folder)
    assert record["weights"] == file_hash(folder / "weights.safetensors")
    assert (folder / "weights.safetensors").stat().st_size < 4e6
    recipe = RegressionRun().recipe(family, kind)
    assert prior.recipe.settings() == recipe.settings() and record["records"][-1]["step"] == recipe.training.steps
    assert prior.observations == (OBSERVATIONS if kind == AMORTIZED else None)
    assert prior.grid.shape == GRID.shape and record["seconds"] < 15 * 60


def test_models_of_the_package_are_taken_unless_others_are_asked_for(tmp_path):
    run, progress = RegressionRun(fields=40, train=1), lambda *told: None
    taken = regression_run.learned(RegressionRun(), "waves", AMORTIZED, tmp_path / "taken", progress)
    trained = regression_run.learned(run, "waves", AMORTIZED, tmp_path / "trained", progress)
    first = SHIPPED / "regression-waves-amortized" / "weights.safetensors"
    assert file_hash(tmp_path / "taken" / "weights.safetensors") == file_hash(first)
    assert read_json(tmp_path / "trained" / "training.json")["records"][-1]["step"] == 1
    assert taken.network.settings() == trained.network.settings()


# --- Runs


def test_a_run_leaves_the_files_of_the_design(plain):
    config, metrics = read_json(plain / "config.json"), result(plain)
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items() if k not in ("problem", "versions")}
    run = RegressionRun(**options)
    for key in run.answers():
        found = load(path_of(plain, key, "samples"))
        assert found["samples"].shape == (4, 9, 128) and (plain / "posterior.zarr" / key).is_dir()
        assert 0 <= metrics[f"{key}.coverage95"] <= 1 and metrics[f"{key}.crps"] > 0
        assert (f"{key}.error_ratio" in metrics) == (not key.endswith(".exact"))
        assert key.endswith(".exact") or 0 <= metrics[f"{key}.doubted"] <= 1
    assert metrics["waves.exact.least_ess"] > 500 and "switch.exact.least_ess" not in metrics
    cases = Cases.of(run, "waves")
    assert cases.count.tolist() == [1, 2, 3, 4] and cases.shown.isnan().sum() == 4 * MOST - 10


def test_an_interrupted_and_damaged_run_ends_with_the_same_numbers(plain, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    monkeypatch.setattr(regression_page, "write", lambda out: None)
    words = [*RUN, "--out", str(out)]
    for stage in ("train waves.prior", "sample switch.amortized", "sample waves.exact"):

        def progress(name, now, total, stage=stage):
            if name == stage:
                raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cli.options, "bars", lambda quiet, progress=progress: contextlib.nullcontext(progress))
            assert cli.command(words) == 130, stage
    path = path_of(out, "waves.guided", "samples")
    path.write_bytes(path.read_bytes()[:100])
    assert cli.command(words) == 0
    assert result(out) == result(plain) and capsys.readouterr().err.count("interrupted") == 3
    before = path.read_bytes()
    assert cli.command(words) == 0 and path.read_bytes() == before  # a finished run computes nothing


def test_other_settings_in_the_same_folder(plain, capsys):
    assert cli.command([*RUN, "--seed", "1", "--out", str(plain)]) == 2
    assert "seed = 0, this one has 1" in capsys.readouterr().err


# --- The report


def test_the_page_is_whole_in_itself_and_tells_the_numbers(plain):
    text = html.unescape((plain / "report.html").read_text())
    figures = list((plain / "figures").iterdir())
    assert text.count("data:image/png;base64,") == len(figures) == 6
    assert not re.search(r'(src|href)="(?!data:)', text) and "http" not in text
    metrics = read_json(plain / "metrics.json")
    for method in METHODS:
        assert f"{metrics[f'waves.{method}.crps']:.4f}" in text


def test_verdicts_follow_the_numbers(plain):
    run, metrics = RegressionRun(families=("waves",)), {**read_json(plain / "metrics.json")}
    metrics |= {f"waves.{method}.crps_ratio": 1.2 for method in METHODS}
    assert "adds nothing" in regression_page.verdict(run, metrics)[0].text
    (check,) = regression_page.verdict(run, {**metrics, "waves.guided.crps_ratio": 1.1})
    assert "nearest to exact is guided, its CRPS 1.100" in check.text and "adds nothing" not in check.text
    del metrics["waves.no_network.crps_ratio"]
    with pytest.raises(InputError, match=re.escape("waves.no_network.crps_ratio")):
        regression_page.verdict(run, metrics)


@pytest.mark.parametrize(
    "damage",
    [
        lambda out: (out / "metrics.json").write_text("{}"),
        lambda out: path_of(out, "waves.guided", "samples").unlink(),
        lambda out: path_of(out, "waves.pigdm", "samples").write_bytes(b"no tensors"),
        lambda out: (out / "models" / "switch.prior" / "training.json").write_text("{}"),
    ],
)
def test_damaged_runs_are_refused_in_one_line(plain, tmp_path, damage):
    out = tmp_path / "run"
    shutil.copytree(plain, out)
    damage(out)
    with pytest.raises(InputError) as error:
        regression_page.write(out)
    assert "\n" not in str(error.value)
