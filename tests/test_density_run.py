"""A run of a density: whatever stops it, it goes on to the same numbers; its report follows them."""

import contextlib
import hashlib
import html
import json
import multiprocessing
import os
import pickle
import re
import shutil
import signal
import sys
from dataclasses import replace

import numpy as np
import pytest
import xarray

from fokker import cli
from fokker.errors import InputError
from fokker.problems import densities, density_run
from fokker.problems.density_metrics import (
    BAND,
    METRICS,
    exact_draws,
    load,
    path_of,
    references,
    scores,
    summary_lines,
    training_pairs,
)
from fokker.problems.density_settings import RUNS, BimodalRun, SpiralRun, TanhRun
from fokker.processes import VarianceExploding, VariancePreserving
from fokker.report import density_page, drawing
from fokker.report.density_verdict import TARGETS, verdict
from fokker.report.page import PNG
from fokker.storage import read_json, write_bytes, write_json

SIZES = {"pairs": 300, "training-steps": 20, "published-steps": 10, "draws": 60, "points": 40}
TINY = [*" ".join(f"--{name} {value}" for name, value in SIZES.items()).split(), "--quiet"]
RUN = ["run", "density-bimodal", *TINY]
METHODS = [f"{recipe}.{process}.{sampler}" for recipe in ("default", "published") for process in ("ve", "vp2")
           for sampler in ("ode", "sde")]  # fmt: skip
CHILDREN = multiprocessing.get_context("forkserver")


def in_turn(tasks, progress, at_once=2):
    """Stages without worker processes; that they could go to one is checked."""
    for task in tasks:
        assert pickle.loads(pickle.dumps(task)) == task
        task.function(*task.arguments, progress)


def in_one_process(patch):
    """Stages in turn, a checkpoint every five steps, a short grid for the published recipe, the floor once."""
    default, published = densities.DENSITY, densities.DENSITY_PUBLISHED
    often = {"validate_every": 5, "batch_size": 64}
    patch.setattr(densities, "DENSITY", replace(default, training=replace(default.training, **often)))
    patch.setattr(
        densities, "DENSITY_PUBLISHED", replace(published, steps=12, training=replace(published.training, **often))
    )
    patch.setattr(density_run, "run_side_by_side", in_turn)
    patch.setattr(density_run, "REPETITIONS", 1)


@pytest.fixture
def serial():
    with pytest.MonkeyPatch.context() as patch:
        in_one_process(patch)
        patch.setattr(density_page, "write", lambda out: out / "report.html")
        yield patch


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A run that nothing disturbed, with its report."""
    out = tmp_path_factory.mktemp("plain") / "run"
    with pytest.MonkeyPatch.context() as patch:
        in_one_process(patch)
        assert cli.command([*RUN, "--out", str(out)]) == 0
    return out


def result(out):
    return {name: value for name, value in read_json(out / "metrics.json").items() if not name.endswith("seconds")}


def hashes(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def leftovers(folder):
    return [path for path in folder.rglob("*") if ".fokker-tmp" in path.name or path.name == ".lock"]


def one_line(text, *parts):
    assert text.startswith("fokker: ") and text.endswith("\n") and text.count("\n") == 1, text
    for part in parts:
        assert part in text


# --- Settings


def test_settings_are_plain_and_complete():
    for name, kind in RUNS.items():
        run = kind(processes=("vp1.5",), seed=3)
        found = json.loads(json.dumps(run.settings()))
        assert found.pop("problem") == f"density-{name}"
        assert kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}) == run


def test_models_and_methods():
    run = TanhRun()
    assert [model.name for model in run.models()] == ["default", "published-ve", "published-vp2"]
    assert [method.name for method in run.methods()] == METHODS
    assert [model.name for model in TanhRun(recipes=("published",), processes=("ve",)).models()] == ["published-ve"]
    assert run.build_process("ve", "default") == VarianceExploding()
    assert run.build_process("ve", "published") == VarianceExploding(12.0)
    assert run.build_process("vp1.5", "published") == VariancePreserving(1.5)
    alphas = {method.sampler_name: method.sampler.alpha for method in run.methods()}
    assert alphas == {"ode": 0.0, "sde": 1.0}
    published = run.recipe("published")
    assert (published.training.steps, published.coordinates, published.steps) == (4000, "none", 500)
    assert replace(run, training_steps=7).recipe("default").training.steps == 7


# --- What is measured


@pytest.mark.parametrize("kind", RUNS.values())
def test_references_and_training_pairs(kind):
    run = kind(pairs=500, points=200, draws=300)
    x, y = training_pairs(run)
    assert x.shape == y.shape == (500, 1) and (training_pairs(run)[0] == x).all()
    assert (training_pairs(replace(run, seed=1))[0] != x).all()
    found = references(run)
    for points, at in zip(found[""] + found["_band"], run.law.y_values * 2):
        assert points.shape == (200,)
        low, high = run.law.support(at)
        assert low - BAND <= points.min() and points.max() <= high + BAND


def test_exact_samples_are_at_the_floor_and_wrong_ones_are_not():
    """DKW: a KS above sqrt(log(2/p)/(2n)) has probability p = 1e-4/12 at most; W1 <= KS times the width of the law."""
    run = BimodalRun(draws=4000, points=100)
    exact = exact_draws(run, 0)
    good = scores(run, exact, lambda done, total: None)
    bad = scores(run, exact[::-1], lambda done, total: None)  # those of other y
    bound = np.sqrt(np.log(2 * 12 / 1e-4) / 2 / run.draws)
    assert set(good) == set(METRICS)
    assert good["ks"].max() < bound < bad["ks"].min()
    assert good["w1"].max() < 4 * bound
    assert all((bad[name] > good[name]).all() for name in METRICS)
    assert (exact_draws(run, 1) != exact).all()


# --- Runs


def test_a_run_leaves_the_files_of_the_design(plain, capsys):
    config = read_json(plain / "config.json")
    assert (config["problem"], config["pairs"], config["processes"]) == ("density-bimodal", 300, ["ve", "vp2"])
    assert {"python", "torch", "pot"} <= set(config["versions"])
    for model in ("default", "published-ve", "published-vp2"):
        for name in ("weights.safetensors", "model.json", "train_state.safetensors", "training.json"):
            assert (plain / "models" / model / name).stat().st_size > 0
        assert (plain / "figures" / f"training-{model}.png").read_bytes().startswith(PNG)
    assert leftovers(plain) == [] and not list(plain.rglob("*.pkl")) + list(plain.rglob("*.pt"))
    with xarray.open_datatree(plain / "posterior.zarr", engine="zarr", consolidated=False) as tree:
        assert set(tree.children) == {*METHODS, "no_network"}
        for name, group in tree.children.items():
            assert dict(group["posterior"].sizes) == {"chain": 1, "draw": 60, "measurement": 4, "x_dim_0": 1}
            kept = load(path_of(plain, name, "samples"))["samples"]
            assert (kept == group["posterior"]["x"].values[0, :, :, 0].T).all()


def test_metric_keys(plain):
    metrics = read_json(plain / "metrics.json")
    for name in (*METHODS, "no_network", "exact"):
        for metric in METRICS:
            each = [metrics[f"bimodal.{name}.y={y:g}.{metric}"] for y in (-1, -0.3, 0.3, 1)]
            assert metrics[f"bimodal.{name}.{metric}"] == pytest.approx(np.mean(each)) and min(each) > 0
    assert {metrics[f"bimodal.{name}.nfe"] for name in METHODS if name.startswith("published")} == {12}
    assert metrics["bimodal.default.train.steps"] == 20 and metrics["bimodal.published.vp2.train.steps"] == 10
    assert not [name for name in metrics if "second" in name and not name.endswith("seconds")]
    lines = summary_lines(BimodalRun(), metrics)
    assert len(lines) == 1 + len(METHODS) + 2 and "no network" in lines[-2] and "floor" in lines[-1]


def test_one_default_model_gives_the_same_samples_by_every_process(plain):
    draws = {name: load(path_of(plain, name, "samples"))["samples"] for name in METHODS}
    for sampler in ("ode", "sde"):
        np.testing.assert_allclose(draws[f"default.ve.{sampler}"], draws[f"default.vp2.{sampler}"], atol=1e-4)
    assert np.abs(draws["published.ve.ode"] - draws["published.vp2.ode"]).max() > 0.01  # control: two models


def test_a_finished_run_repeated_computes_nothing(plain, tmp_path, serial):
    out = tmp_path / "run"
    shutil.copytree(plain, out)
    before, times = hashes(out), {path: path.stat().st_mtime_ns for path in out.glob("results/*")}
    assert cli.command([*RUN, "--out", str(out)]) == 0
    assert hashes(out) == before
    assert {path: path.stat().st_mtime_ns for path in out.glob("results/*")} == times


STAGES = [
    ("train default", 10),
    ("sample default.ve.sde", 240),
    ("train published-vp2", 5),
    ("score no_network", 0),
]


def _child(words, stage, done):
    in_one_process(pytest.MonkeyPatch())

    def progress(name, now, total):
        if name == stage and now == done:
            os.kill(os.getpid(), signal.SIGKILL)

    cli.options.bars = lambda quiet: contextlib.nullcontext(progress)
    sys.exit(cli.command(words))


def test_killed_and_interrupted_in_each_stage(plain, tmp_path, serial, capsys):
    """One run, killed or interrupted at one place after the other."""
    out = tmp_path / "run"
    words = [*RUN, "--out", str(out)]
    CHILDREN.set_forkserver_preload(["fokker.problems.density_run", "fokker.report.density_page", "tyro", "pytest"])
    for number, (stage, done) in enumerate(STAGES):
        if number % 2 == 0:
            process = CHILDREN.Process(target=_child, args=(words, stage, done))
            process.start()
            process.join()
            assert process.exitcode == -signal.SIGKILL, stage
            continue

        def progress(name, now, total, at=(stage, done)):
            if (name, now) == at:
                raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cli.options, "bars", lambda quiet, progress=progress: contextlib.nullcontext(progress))
            assert cli.command(words) == 130, stage
        one_line(capsys.readouterr().err, "interrupted; the same command continues")
        assert leftovers(out) == []
    assert cli.command(words) == 0
    assert result(out) == result(plain) and leftovers(out) == []


DAMAGE = [
    "results/default.ve.ode-samples.safetensors",
    "results/published.vp2.sde-scores.safetensors",
    "results/exact-scores.safetensors",
    "results/no_network-samples.safetensors",
    "models/default/weights.safetensors",
    "posterior.zarr/default.ve.sde/posterior/x/c/0/0/0/0",
    "posterior.zarr/zarr.json",
    "metrics.json",
]


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_damaged_is_made_again(name, plain, tmp_path, serial):
    out = tmp_path / "run"
    shutil.copytree(plain, out)
    data = (out / name).read_bytes()
    (out / name).write_bytes(data[: len(data) // 2])
    assert cli.command([*RUN, "--out", str(out)]) == 0
    assert result(out) == result(plain)
    with xarray.open_datatree(out / "posterior.zarr", engine="zarr", consolidated=False) as tree:
        assert "default.ve.sde" in tree.children


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (["--seed", "1"], "seed = 0, this one has 1"),
        (["--processes", "ve"], "processes = ['ve', 'vp2'], this one has ['ve']"),
        (["--draws", "70"], "draws = 60, this one has 70"),
    ],
)
def test_other_settings_in_the_same_folder(other, told, plain, capsys):
    before = hashes(plain)
    assert cli.command([*RUN, *other, "--out", str(plain)]) == 2
    one_line(capsys.readouterr().err, f"{plain}: holds a run with {told}", "another --out")
    assert cli.command(["run", "density-tanh", *TINY, "--out", str(plain)]) == 2
    one_line(capsys.readouterr().err, "problem = 'density-bimodal', this one has 'density-tanh'")
    assert hashes(plain) == before


def test_less_of_everything_ends_with_a_report(tmp_path, serial, capsys):
    serial.undo()
    in_one_process(serial)
    serial.setattr(drawing, "save", lambda figure, path: write_bytes(path, PNG))
    out = tmp_path / "run"
    options = ["--recipes", "published", "--processes", "vp1.5", "--samplers", "sde", "--out", str(out)]
    assert cli.command(["run", "density-spiral", *TINY, *options]) == 0
    said = capsys.readouterr()
    assert said.err == "" and said.out.endswith(f"report: {out}/report.html\n") and "published vp1.5 sde" in said.out
    text = (out / "report.html").read_text()
    assert "no network" not in text and "targets are reached" not in text and "VP(1.5)" in text


# --- The report


def test_the_page_is_whole_in_itself_and_tells_the_numbers(plain):
    text = html.unescape((plain / "report.html").read_text())
    figures = list((plain / "figures").iterdir())
    assert {path.stem for path in figures} >= {"joint", "histograms", "distances", "training-default"}
    assert text.count("data:image/png;base64,") == len(figures) == 6
    assert not re.search(r'(src|href)="(?!data:)', text) and "http" not in text
    metrics = read_json(plain / "metrics.json")
    for name in (*METHODS, "no_network", "exact"):
        for metric in METRICS:
            assert f"<td>{metrics[f'bimodal.{name}.{metric}']:.4f}</td>" in text
    assert text.count("10 training steps instead of its full 90,000") >= 4
    assert "<td>0.059</td>" in text and "does not say which cost" in text and "our choice" in text


def test_report_again_is_the_same(plain, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(plain, out)
    (out / "report.html").unlink()
    assert cli.command(["report", str(out)]) == 0
    assert capsys.readouterr().out == f"report: {out}/report.html\n"
    assert (out / "report.html").read_bytes() == (plain / "report.html").read_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda out: (out / "metrics.json").write_text("{}"),
        lambda out: (out / "results" / "exact-scores.safetensors").unlink(),
        lambda out: (out / "results" / "default.ve.ode-samples.safetensors").write_bytes(b"no tensors"),
        lambda out: shutil.copy(
            out / "results" / "exact-scores.safetensors", out / "results" / "default.ve.ode-samples.safetensors"
        ),
        lambda out: write_json(out / "config.json", {**read_json(out / "config.json"), "draws": 50}),
        lambda out: write_json(out / "config.json", {**read_json(out / "config.json"), "colour": 3}),
        lambda out: write_json(out / "models" / "default" / "training.json", {"records": [{"step": 1}]}),
    ],
)
def test_damaged_runs_are_refused_in_one_line(plain, tmp_path, damage, monkeypatch):
    monkeypatch.setattr(drawing, "save", lambda figure, path: pytest.fail("drawn"))
    out = tmp_path / "run"
    shutil.copytree(plain, out)
    (out / "report.html").unlink()
    damage(out)
    with pytest.raises(InputError) as error:
        density_page.write(out)
    assert "\n" not in str(error.value) and not (out / "report.html").exists()


def numbers(run, w1=0.5, ks=0.5, seconds=0.1, trained=9.0, nfe=16):
    """Made-up metrics: W1 and KS as parts of their targets."""
    aims, metrics = TARGETS[run.density], {}
    for name in METHODS:
        metrics |= {f"{name}.w1": w1 * aims["w1"], f"{name}.ks": ks * aims["ks"]}
        metrics |= {f"{name}.seconds": seconds, f"{name}.nfe": nfe}
    metrics |= {"exact.w1": 0.004, "exact.ks": 0.008, "no_network.w1": 0.2}
    metrics |= {"default.train.seconds": trained, "default.train.steps": 1500}
    return {f"{run.density}.{name}": value for name, value in metrics.items()}


@pytest.mark.parametrize("kind", RUNS.values())
@pytest.mark.parametrize(
    ("change", "missed"),
    [({}, 0), ({"w1": 1.01}, 4), ({"ks": 1.01}, 4), ({"seconds": 0.6}, 1), ({"trained": 16.0}, 1), ({"nfe": 33}, 1)],
)
def test_verdicts_follow_the_numbers(kind, change, missed):
    run = kind()
    checks = verdict(run, numbers(run, **change))
    assert sum(check.reached is False for check in checks) == missed
    assert sum(check.reached is not None for check in checks) == 6
    assert all(check.reached is None for check in verdict(replace(run, pairs=500), numbers(run, **change)))
    assert any("4,000 training steps instead of its full 90,000" in check.text for check in checks)
    full = replace(run, published_steps=90_000)
    assert any("its full length, 90,000" in check.text for check in verdict(full, numbers(run)))


def test_a_network_that_adds_nothing_is_called_so_and_a_missing_number_is_named():
    run = SpiralRun()
    metrics = numbers(run, w1=20.0)
    assert any("adds nothing" in check.text for check in verdict(run, metrics))
    del metrics["spiral.default.ve.sde.ks"]
    with pytest.raises(InputError, match=re.escape("spiral.default.ve.sde.ks")):
        verdict(run, metrics)
