"""Runs of fields: right where that is known, the same numbers whatever stops them, and a page that follows them."""

import contextlib
import hashlib
import html
import json
import pickle
import re
import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from exact import limit
from fokker import cli
from fokker.errors import InputError
from fokker.fields.posterior import FunctionPosterior
from fokker.fields.prior import FunctionPrior
from fokker.likelihoods import Gaussian
from fokker.problems import field_metrics, field_run
from fokker.problems.density_metrics import load, path_of
from fokker.problems.field_data import FieldProblem
from fokker.problems.field_exact import ExactPosterior
from fokker.problems.field_metrics import COVERED, METHODS, block_name, compared, part_name, scores
from fokker.problems.field_settings import NETWORK, RUNS
from fokker.problems.shipped import SHIPPED
from fokker.report import drawing, field_page
from fokker.report.field_verdict import verdict
from fokker.storage import file_hash, read_json, read_sealed

TINY = ["--n", "8", "--cases", "7", "--draws", "9", "--steps", "3", "--fields", "60", "--train", "10", "--quiet"]
DRAWN = ("poisson", "threshold")


def in_turn(tasks, progress, at_once=2):
    """Stages without worker processes; that they could go to one is checked."""
    for task in tasks:
        assert pickle.loads(pickle.dumps(task)) == task
        task.function(*task.arguments, progress)


@pytest.fixture(scope="module", autouse=True)
def serial():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(field_run, "run_side_by_side", in_turn)
        patch.setattr(drawing, "DPI", 40)
        yield


@pytest.fixture(scope="module")
def plain(tmp_path_factory, serial):
    """Runs that nothing disturbed, by family, two of them with their reports."""
    found = {}
    for family in RUNS:
        found[family] = tmp_path_factory.mktemp("plain") / family
        with pytest.MonkeyPatch.context() as patch:
            if family not in DRAWN:
                patch.setattr(field_page, "write", lambda kind, out: None)
            assert cli.command(["run", f"{family}-field", *TINY, "--out", str(found[family])]) == 0
    return found


def result(out):
    return {name: value for name, value in read_json(out / "metrics.json").items() if not name.endswith("seconds")}


def hashes(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def tiny(family):
    return RUNS[family](n=8, cases=7, draws=9, steps=3, fields=60, train=10)


# --- What is measured


def test_scores_of_known_samples():
    problem = FieldProblem("warp", "direct", 4)
    truth = np.full((4, 4), 2.0)
    samples = np.stack([truth - 1, truth + 1, truth + 3])
    found = scores(problem, samples, truth, np.ones((4, 4), bool))
    assert found["error"] == pytest.approx(0.5) and found["sample_error"] == pytest.approx((0.5 + 0.5 + 1.5) / 3)
    # mean |X - y| = 5/3, mean over pairs |X - X'| = (2 + 4 + 2) * 2 / 6
    assert found["crps"] == pytest.approx(5 / 3 - 0.5 * 16 / 6)
    assert found["covered"] == 16 and "wrong" not in found


def test_scores_of_two_values():
    problem = FieldProblem("threshold", "direct", 4, 0.05)
    truth = np.full((4, 4), 12.0)
    samples = np.stack([np.full((4, 4), value) for value in (11.0, 8.0, 2.0, 13.0)])
    samples[:, 0, 0] = (3, 4, 5, 11)  # wrong
    samples[:, 0, 1] = (3, 4, 12, 11)  # even
    cells = np.zeros((4, 4), bool)
    found = scores(problem, samples, truth, cells)
    assert found["wrong"] == pytest.approx(1.5 / 16) and found["covered"] == 0


def test_cells_that_are_compared():
    points = torch.tensor([0, 5])
    limit_mean = torch.full((4, 4), 7.5, dtype=torch.float64)
    limit_mean[3, 3], limit_mean[3, 2] = 3.01, 11.99  # hardly in doubt
    two = compared(FieldProblem("threshold", "direct", 4, 0.05), points, limit_mean)
    assert two.sum() == 12 and not two[0, 0] and not two[1, 1] and not two[3, 3] and not two[3, 2]
    assert compared(FieldProblem("warp", "direct", 4), points, limit_mean).sum() == 14
    assert compared(FieldProblem("poisson", "inverse", 4), points, limit_mean).all()


@pytest.mark.parametrize(("family", "task", "noise"), [("threshold", "direct", 0.05), ("warp", "direct", 0.0)])
def test_exact_samples_are_covered_as_claimed_and_prior_draws_are_not(family, task, noise):
    """120 cases on 8 x 8, z of each level (false alarms 1e-4). Control: draws of the prior, which forget the data."""
    problem = FieldProblem(family, task, 8, noise)
    cases = problem.cases(120, 3)
    prior = problem.of_latent(problem.latent(19, 5)).wanted.numpy()
    inside = {"exact": [], "prior": []}
    for case, (points, y) in enumerate(zip(cases.points, cases.y)):
        exact = ExactPosterior(problem, points, y, case)
        cells = compared(problem, points, exact.mean())
        for name, samples in (("exact", exact.sample(19, 1).numpy()), ("prior", prior)):
            found = scores(problem, samples, cases.truth[case].numpy(), cells)
            if found["covered"]:
                inside[name].append([*found["coverage"], found["crps"]])
    exact, prior = (np.array(inside[name]) for name in ("exact", "prior"))
    z = (exact[:, :3].mean(0) - COVERED) / (exact[:, :3].std(0, ddof=1) / len(exact) ** 0.5)
    assert np.abs(z).max() < limit(3)
    assert prior[:, 3].mean() > 1.1 * exact[:, 3].mean()


def test_the_untrained_model_is_near_the_limit():
    """Poisson, inverse: the Gaussian of 1,000 fields has at most 1.15 times the error of the exact mean."""
    run = RUNS["poisson"](n=16, cases=4, draws=64, steps=8, fields=1000, train=1)
    fields = field_run.training_fields(run)
    prior = field_run.fit_functions(fields, recipe=run.recipe)
    methods = field_run.Methods(run, run.problem("inverse", 0.0), prior)
    found = [methods.case(case)[0] for case in range(4)]
    errors = {name: np.mean([one[name] for one in found]) for name in ("limit", "network.error", "exact.error")}
    assert errors["network.error"] < 1.15 * errors["limit"] and errors["exact.error"] < 1.1 * errors["limit"]


def test_forward_samples_solve_the_equation():
    run = tiny("poisson")
    problem = run.problem("forward", 0.0)
    prior = field_run.fit_functions(field_run.training_fields(run), recipe=run.recipe)
    methods = field_run.Methods(run, problem, prior)
    u = methods.draw(NETWORK, 2).samples
    g = FunctionPosterior(
        prior.at((8, 8)), forward=problem.operator(methods.cases.points[2]), likelihood=Gaussian(0.0)
    ).sample(methods.cases.y[2], 9, methods._seed(NETWORK), steps=3, first=2)
    torch.testing.assert_close(u, problem.solve(g.samples.double()))
    seen = g.samples.flatten(1)[:, methods.cases.points[2]]
    torch.testing.assert_close(seen.double(), methods.cases.y[2].expand(9, -1), atol=1e-4, rtol=0)


def test_noise_of_the_warp_is_relative_to_what_is_seen():
    run = RUNS["warp"](n=8, cases=2, fields=60, train=1)
    prior = field_run.fit_functions(field_run.training_fields(run), recipe=run.recipe)
    y = torch.tensor([0.5, 4.0])
    assert field_run.Methods(run, run.problem("direct", 0.01), prior).noise(y).tolist() == pytest.approx([0.005, 0.04])
    assert field_run.Methods(run, run.problem("direct", 0.0), prior).noise(y) == 0


@pytest.mark.parametrize(
    ("family", "change", "told"),
    [
        ("poisson", {"n": 7}, "n: got 7, a whole number from 8 to 128 is accepted"),
        ("helmholtz", {"n": 129}, "n: got 129, a whole number from 8 to 128 is accepted"),
        ("threshold", {"n": 128}, "n: got 128, a whole number from 8 to 64 is accepted"),
        ("poisson", {"draws": 10**6}, "draws: got 1000000 of 32 x 32 cells, at most 32768"),
        ("poisson", {"n": 128, "cases": 5000}, "cases: got 5000 of 128 x 128 cells, at most 4096"),
        ("poisson", {"n": 128, "fields": 9000}, "more than 1000 and at most 4096 are accepted, or 0 for 4096"),
        ("warp", {"cases": 1}, "cases: got 1"),
        ("warp", {"fields": 62}, "fields: got 62 of 32 x 32 cells with 31 points, more than 62"),
        ("threshold", {"fields": 10**6}, "fields: got 1000000"),
        ("threshold", {"train": -1}, "train: got -1"),
        ("helmholtz", {"seed": -1}, "seed: got -1"),
    ],
)
def test_bad_settings_are_told_in_one_line(family, change, told):
    with pytest.raises(InputError, match=told) as error:
        RUNS[family](**change)
    assert "\n" not in str(error.value)


def test_a_grid_without_weights_is_trained():
    assert RUNS["threshold"]().training_steps == 0 and RUNS["threshold"](n=40).training_steps == 3000
    assert RUNS["threshold"](train=7).recipe.training.steps == 7
    assert all(RUNS["helmholtz"](n=n).training_steps == 0 for n in (32, 64, 128))


def test_a_long_training_is_told_in_advance(tmp_path, monkeypatch):
    monkeypatch.setattr(field_run, "run_side_by_side", lambda *rest, **more: None)
    monkeypatch.setattr(field_run, "measure", lambda run, out: {})
    with pytest.warns(UserWarning, match="training on 64 x 64, 3000 steps: about 40 minutes on two cores; --train"):
        field_run.run(RUNS["warp"](n=64), tmp_path / "long", lambda *stage: None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        field_run.run(RUNS["warp"](train=3000), tmp_path / "short", lambda *stage: None)
        field_run.run(RUNS["poisson"](n=128), tmp_path / "none", lambda *stage: None)


def test_as_many_fields_as_suit_the_grid():
    """Every grid is run without further options, and config.json tells the number."""
    for n, count in {8: 20_000, 32: 20_000, 57: 20_000, 64: 10_000, 100: 6710, 128: 4096}.items():
        run = RUNS["poisson"](n=n)
        assert run.field_count == count == run.settings()["fields"] and count * n**2 <= 2**26
        assert RUNS["poisson"](**{k: v for k, v in run.settings().items() if k != "problem"}).field_count == count
    assert RUNS["poisson"].presets()["paper"].field_count == 10_000
    assert replace(RUNS["poisson"].presets()["paper"], n=128).field_count == 4096
    assert RUNS["warp"](fields=100).field_count == 100


@pytest.mark.parametrize(
    "folder",
    [path for path in sorted(SHIPPED.iterdir()) if not path.name.startswith("regression")],
    ids=lambda path: path.name,
)
def test_weights_of_the_package_are_those_of_their_record(folder):
    record, prior = read_sealed(folder / "training.json"), FunctionPrior.load(folder)
    assert record["weights"] == file_hash(folder / "weights.safetensors")
    assert (folder / "weights.safetensors").stat().st_size < 4e6
    law, n = folder.name.rsplit("-", 1)
    run = RUNS["poisson" if law == "gaussian" else law](n=int(n), train=record["records"][-1]["step"])
    assert prior.grid.shape == (run.n, run.n) and prior.recipe.settings() == run.recipe.settings()
    assert record["settings"]["network"]["kind"] == "fourier_operator" and record["seconds"] < 15 * 60


# --- Runs


@pytest.mark.parametrize("family", RUNS)
def test_a_run_leaves_the_files_of_the_design(plain, family):
    out, run = plain[family], tiny(family)
    config, metrics = read_json(out / "config.json"), result(out)
    assert json.loads(json.dumps(run.settings())) == {k: v for k, v in config.items() if k != "versions"}
    for task, noise in run.parts():
        head = f"{family}.{part_name(task, noise)}"
        assert (out / "posterior.zarr" / part_name(task, noise)).is_dir()
        assert load(path_of(out, block_name(task, noise, 0), "scores"))[f"shown.{NETWORK}.samples"].shape == (
            3,
            2,
            8,
            8,
        )
        assert load(path_of(out, block_name(task, noise, 5), "scores"))["limit"].shape == (2,)
        for method in METHODS:
            assert metrics[f"{head}.{method}.error_percent"] > 0 and metrics[f"{head}.{method}.crps"] > 0
            assert (f"{head}.{method}.wrong_percent" in metrics) == (family == "threshold")
        assert metrics[f"{head}.exact.crps_ratio"] == 1
        means = [metrics[f"{head}.{name}"] for name in ("network.error_percent", "exact.limit_percent")]
        assert metrics[f"{head}.network.limit_ratio"] == pytest.approx(means[0] / means[1])


def test_a_finished_run_repeated_computes_nothing(plain, tmp_path, monkeypatch):
    out = tmp_path / "run"
    shutil.copytree(plain["warp"], out)
    before = hashes(out)
    monkeypatch.setattr(field_page, "write", lambda kind, out: None)
    monkeypatch.setattr(field_run, "_note_memory", lambda out, stage: None)
    assert cli.command(["run", "warp-field", *TINY, "--out", str(out)]) == 0
    assert hashes(out) == before


def test_an_interrupted_and_damaged_run_ends_with_the_same_numbers(plain, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    monkeypatch.setattr(field_page, "write", lambda kind, out: None)
    words = ["run", "warp-field", *TINY, "--out", str(out)]
    for stage in ("train", "infer, 1 of 2", "infer, 2 of 2"):

        def progress(name, now, total, stage=stage):
            if name == stage and now:
                raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cli.options, "bars", lambda quiet, progress=progress: contextlib.nullcontext(progress))
            assert cli.command(words) == 130, stage
    path = path_of(out, block_name("direct", 0.0, 5), "scores")
    path.write_bytes(path.read_bytes()[:100])
    shutil.rmtree(out / "posterior.zarr" / part_name("direct", 0.01))
    assert cli.command(words) == 0
    assert result(out) == result(plain["warp"]) and capsys.readouterr().err.count("interrupted") == 3


def test_other_settings_in_the_same_folder(plain, capsys):
    assert cli.command(["run", "warp-field", *TINY, "--seed", "1", "--out", str(plain["warp"])]) == 2
    assert "seed = 0, this one has 1" in capsys.readouterr().err


def test_fewer_cases_are_the_first_of_more():
    few, many = tiny("warp"), replace(tiny("warp"), cases=9)
    prior = field_run.fit_functions(field_run.training_fields(few), recipe=few.recipe)
    found = [field_run.Methods(run, run.problem("direct", 0.0), prior).case(6)[0] for run in (few, many)]
    names = {name for name in found[0] if not name.endswith("seconds")}
    assert all((found[0][name] == found[1][name]).all() for name in names)


# --- The report


@pytest.mark.parametrize("family", DRAWN)
def test_the_page_is_whole_in_itself_and_tells_the_numbers(plain, family):
    text = html.unescape((plain[family] / "report.html").read_text())
    figures = list((plain[family] / "figures").iterdir())
    assert text.count("data:image/png;base64,") == len(figures) == 4 + len(tiny(family).parts())
    assert not re.search(r'(src|href)="(?!data:)', text) and "://" not in text
    metrics = read_json(plain[family] / "metrics.json")
    for task, noise in tiny(family).parts():
        assert f"<td>{metrics[f'{family}.{part_name(task, noise)}.network.limit_ratio']:.3f}</td>" in text


def test_verdicts_follow_the_numbers(plain):
    run, head = tiny("threshold"), "threshold.direct.noise=0.05"
    metrics = dict(read_json(plain["threshold"] / "metrics.json"))
    metrics |= {f"{head}.network.{name}_ratio": 1.1 for name in ("limit", "crps")}
    metrics |= {f"{head}.{name}.crps_ratio": 1.4 for name in ("no_network", "sample_covariance")}
    metrics |= {f"{head}.network.coverage_{level}": level / 100 + 0.01 for level in (50, 80, 95)}
    metrics |= {"train.seconds": 100.0, f"{head}.network.seconds": 1.0}
    assert all(check.reached for check in verdict(run, metrics, 900.0))
    worse = {
        f"{head}.network.limit_ratio": 1.31,
        f"{head}.network.crps_ratio": 1.45,
        f"{head}.network.seconds": 11.0,
        "train.seconds": 901.0,
    }
    told = [check for check in verdict(run, metrics | worse, 5000.0) if check.reached is False]
    assert len(told) == 6 and any("adds nothing" in check.text for check in told)
    far = {f"{head}.network.coverage_80": 0.7, f"{head}.network.coverage_80_se": 0.01}
    assert [check.reached for check in verdict(run, metrics | far, None)].count(False) == 1
    unsure = far | {f"{head}.network.coverage_80_se": 0.2}
    assert [check.reached for check in verdict(run, metrics | unsure, None)].count(None) == 1
    del metrics[f"{head}.network.crps_ratio"]
    with pytest.raises(InputError, match=re.escape(f"{head}.network.crps_ratio")):
        verdict(run, metrics, None)


@pytest.mark.parametrize(
    "damage",
    [
        lambda out: (out / "metrics.json").write_text("{}"),
        lambda out: path_of(out, block_name("direct", 0.0, 0), "scores").unlink(),
        lambda out: (out / "models" / "prior" / "training.json").write_text("{}"),
    ],
)
def test_damaged_runs_are_refused_in_one_line(plain, tmp_path, damage):
    out = tmp_path / "run"
    shutil.copytree(plain["warp"], out)
    damage(out)
    with pytest.raises(InputError) as error:
        field_page.write(RUNS["warp"], out)
    assert "\n" not in str(error.value)


def test_metrics_of_a_part_are_those_of_its_files(plain):
    found = field_metrics.load_part(tiny("warp"), plain["warp"], "direct", 0.0)
    metrics = read_json(plain["warp"] / "metrics.json")
    assert found["network.crps"].shape == (7,)
    assert metrics["warp.direct.noise=0.network.crps"] == pytest.approx(found["network.crps"].mean())
    ratio = found["no_network.crps"].mean() / found["exact.crps"].mean()
    assert metrics["warp.direct.noise=0.no_network.crps_ratio"] == pytest.approx(ratio)
