"""The digits: exact where they can be, a run goes on to the same numbers whatever stops it, its page follows them."""

import contextlib
import hashlib
import html
import json
import pickle
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import gammaln

from exact import RATE, limit
from fokker import cli
from fokker.errors import InputError
from fokker.likelihood_counts import Poisson
from fokker.operators import Blur, Identity
from fokker.posterior.smc import TwistedSMC
from fokker.problems import digits, digits_metrics, digits_run, digits_settings
from fokker.problems.density_metrics import load, path_of
from fokker.problems.digits import CASES, GaussianPosterior, pseudo_inverse
from fokker.problems.digits_settings import KINDS, DigitsRun
from fokker.processes import VarianceExploding
from fokker.report import digits_page
from fokker.report.digits_verdict import verdict
from fokker.score import GaussianScore
from fokker.storage import read_json

TINY = ["--images", "10", "--draws", "9", "--steps", "5", "--particles", "8", "--training-steps", "20", "--quiet"]
RUN = ["run", "digits", *TINY]


def in_turn(tasks, progress, at_once=2):
    """Stages without worker processes; that they could go to one is checked."""
    for task in tasks:
        assert pickle.loads(pickle.dumps(task)) == task
        task.function(*task.arguments, progress)


@pytest.fixture(scope="module", autouse=True)
def serial():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits_run, "run_side_by_side", in_turn)
        patch.setattr(digits_settings, "STEPS", {"moment_matching": 2, "ddrm": 5, "dps": 5})
        yield


@pytest.fixture(scope="module")
def plain(tmp_path_factory, serial):
    """A run that nothing disturbed, with its report."""
    out = tmp_path_factory.mktemp("plain") / "run"
    assert cli.command([*RUN, "--out", str(out)]) == 0
    return out


def result(out):
    return {name: value for name, value in read_json(out / "metrics.json").items() if not name.endswith("seconds")}


def hashes(folder):
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# --- What is measured, and what is known of it


def test_the_split_holds_every_image_once_and_follows_the_seed():
    train, test = digits.load(0)
    assert train.images.shape == (1500, 8, 8) and test.images.shape == (297, 8, 8)
    assert sorted([*train.rows, *test.rows]) == list(range(1797))
    again, other = digits.load(0), digits.load(1)
    assert (again[0].images == train.images).all() and (again[1].rows == test.rows).all()
    assert (other[1].rows != test.rows).any()
    assert np.abs(train.images * 16 - np.round(train.images * 16)).max() <= 0.5  # spread around grey levels


def test_other_images_are_refused(monkeypatch):
    monkeypatch.setattr(digits, "SHA256", "0")
    with pytest.raises(InputError, match="other than the known"):
        digits.load(0)


@pytest.mark.parametrize("name", CASES)
def test_the_gaussian_posterior_is_that_of_the_precision_form(name):
    """(C^-1 + A^T R^-1 A)^-1, by another formula than the code's; its samples have its moments."""
    train, test = digits.load(0)
    case = CASES[name]()
    found = GaussianPosterior(train.images, case)
    x = train.images.reshape(1500, -1)
    mean, c = x.mean(0), np.cov(x.T)
    a = case.forward.matrix().numpy()
    y = case.measure(test.images[:2], 0, "real")
    if name == "counts":
        noise, data = (16 * mean.clip(min=0) + 2) / 256, (y.flatten(1).numpy() - 2) / 16
    else:
        noise, data = np.full(len(a), 0.05**2), y.flatten(1).numpy()
    covariance = np.linalg.inv(np.linalg.inv(c) + a.T @ (a / noise[:, None]))
    wanted = mean + (data - mean @ a.T) / noise @ a @ covariance
    np.testing.assert_allclose(found.covariance, covariance, atol=1e-9)
    np.testing.assert_allclose(found.mean(y).flatten(1), wanted, atol=1e-8)
    draws = found.sample(y, 4000, 0, "real").flatten(2)[0].numpy()
    z = (draws.mean(0) - wanted[0]) / np.sqrt(np.diag(covariance) / 4000)
    assert np.abs(z).max() < limit(64)


def test_pseudo_inverse_fits_the_data():
    x = torch.rand(3, 8, 8, dtype=torch.float64)
    blur, box = CASES["blur"](), CASES["box"]()
    assert isinstance(blur.forward.matrix(), torch.Tensor)
    plain = Blur(digits.gaussian_kernel(1.0, 5), (8, 8), "zero")
    torch.testing.assert_close(blur.forward(x), plain(x))
    torch.testing.assert_close(pseudo_inverse(blur, blur.forward(x)), x, atol=1e-6, rtol=0)
    inner = pseudo_inverse(box, box.forward(x))
    assert (inner[:, 2:6, 2:6] == 0).all() and digits_metrics.hidden(box).sum() == 16


@pytest.mark.parametrize("name", ["box", "blur"])
def test_an_exact_posterior_is_calibrated_and_a_narrow_one_is_not(name):
    """Truths of the Gaussian prior and its own posterior: exact, so that all 66 ranks are uniform (false alarms 1e-4).

    Controls: samples of 0.7 times the right deviation, and draws of the prior, which only log p(y given x) tells.
    """
    train, _ = digits.load(0)
    x = torch.from_numpy(train.images.reshape(1500, -1))
    root = torch.linalg.cholesky(x.T.cov() + 1e-12 * torch.eye(64))
    xi = torch.from_numpy(np.random.default_rng(1).standard_normal((2, 200, 20, 64)))
    prior = (x.mean(0) + xi @ root.T).reshape(2, 200, 20, 8, 8).numpy()
    truth, case = prior[0, :, 0], CASES[name]()
    y = case.measure(truth, 0, "simulated")
    posterior = GaussianPosterior(train.images, case)
    samples = posterior.sample(y, 19, 0, "simulated")
    found = digits_metrics.scores(case, samples.numpy(), truth, y)
    assert digits_metrics.p_ranks(found) > RATE
    each = found["coverage"].mean((2, 3))
    z = (each.mean(1) - digits_metrics.COVERED) / (each.std(1, ddof=1) / 200**0.5)
    assert np.abs(z).max() < limit(3)
    centre = posterior.mean(y)[:, None]
    for wrong in (centre + 0.7 * (samples - centre), torch.from_numpy(prior[1, :, :19])):
        assert digits_metrics.p_ranks(digits_metrics.scores(case, wrong.numpy(), truth, y)) < RATE


def test_particles_of_counts_are_exact():
    """Two pixels with a Gaussian prior: moments by quadrature. Control: the moments of other counts."""
    prior = GaussianScore(VarianceExploding(), torch.tensor([0.4, 0.4]), torch.eye(2) * 0.09)
    law = Poisson(16.0, 2.0)
    smc = TwistedSMC(prior, forward=Identity((2,)), likelihood=law, particles=4096)
    counts = np.array([3.0, 14.0])
    found = smc.sample(torch.from_numpy(counts), 4096, seed=1, steps=128)
    at = np.linspace(-0.1249, 2.5, 20_001)
    log = -((at - 0.4) ** 2) / 0.18 + counts[:, None] * np.log(16 * at + 2) - 16 * at - gammaln(counts + 1)[:, None]
    weight = np.exp(log)
    weight /= weight.sum(1, keepdims=True)
    mean = weight @ at
    std = np.sqrt((weight * (at - mean[:, None]) ** 2).sum(1))
    error = std / float(found.checks["least_ess"]) ** 0.5
    assert np.abs((found.mean().numpy() - mean) / error).max() < limit(2)
    assert np.abs((found.mean().numpy() - mean[::-1]) / error).min() > limit(2)
    assert np.abs(found.std().numpy() / std - 1).max() < 0.1


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"cases": ("box", "fog")}, "cases: got"),
        ({"cases": ()}, "cases: got"),
        ({"cases": ("box", "box")}, "cases: got"),
        ({"images": 298}, "images: got 298, at most 297"),
        ({"draws": 1}, "draws: got 1"),
        ({"seed": -1}, "seed: got -1"),
    ],
)
def test_bad_settings_are_told_in_one_line(change, told):
    with pytest.raises(InputError, match=told):
        DigitsRun(**change)


# --- Runs


def test_a_run_leaves_the_files_of_the_design(plain):
    config, metrics = read_json(plain / "config.json"), result(plain)
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items() if k not in ("problem", "versions")}
    run = DigitsRun(**options)
    assert json.loads(json.dumps(run.settings())) == {k: v for k, v in config.items() if k != "versions"}
    assert set(config["versions"]) >= {"python", "torch", "scikit-learn"}
    split = read_json(plain / "results" / "split.json")
    assert split["images"] == 1797 and len(split["test_rows"]) == 297 and split["sha256"] == digits.SHA256
    for method in run.all_methods():
        for kind in KINDS:
            head = f"digits.{method.key}.{kind}"
            if metrics.get(f"{head}.failed"):
                assert not path_of(plain, f"{method.key}.{kind}", "scores").exists()
                continue
            samples = load(path_of(plain, f"{method.key}.{kind}", "samples"))["samples"]
            assert samples.shape == (10, 9, 8, 8) and (plain / "posterior.zarr" / f"{method.key}.{kind}").is_dir()
            assert 0 <= metrics[f"{head}.coverage95"] <= 1 and metrics[f"{head}.rmse"] > 0
            assert (f"{head}.hidden.coverage50" in metrics) == (method.case_name == "box")
    truths = load(path_of(plain, "truths", "samples"))
    assert (truths["real"] == digits.load(0)[1].images[:10]).all() and truths["simulated"].shape == (10, 8, 8)


def test_a_finished_run_repeated_computes_nothing(plain, tmp_path, monkeypatch):
    out = tmp_path / "run"
    shutil.copytree(plain, out)
    before = hashes(out)
    monkeypatch.setattr(digits_page, "write", lambda out: None)
    assert cli.command([*RUN, "--out", str(out)]) == 0
    assert hashes(out) == before


def test_an_interrupted_and_damaged_run_ends_with_the_same_numbers(plain, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    monkeypatch.setattr(digits_page, "write", lambda out: None)
    words = [*RUN, "--out", str(out)]
    for stage in ("train prior", "sample box.pigdm.simulated", "sample no_network"):

        def progress(name, now, total, stage=stage):
            if name == stage:
                raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cli.options, "bars", lambda quiet, progress=progress: contextlib.nullcontext(progress))
            assert cli.command(words) == 130, stage
    for name in ("blur.ddrm.real-samples", "box.smc.simulated-scores"):
        path = out / "results" / f"{name}.safetensors"
        path.write_bytes(path.read_bytes()[:100])
    assert cli.command(words) == 0
    assert result(out) == result(plain) and capsys.readouterr().err.count("interrupted") == 3


def test_other_settings_in_the_same_folder(plain, capsys):
    assert cli.command([*RUN, "--seed", "1", "--out", str(plain)]) == 2
    assert "seed = 0, this one has 1" in capsys.readouterr().err


# --- The report


def test_the_page_is_whole_in_itself_and_tells_the_numbers(plain):
    text = html.unescape((plain / "report.html").read_text())
    figures = list((plain / "figures").iterdir())
    assert text.count("data:image/png;base64,") == len(figures) == 9
    assert not re.search(r'(src|href)="(?!data:)', text) and "http" not in text
    metrics = read_json(plain / "metrics.json")
    for kind in KINDS:
        assert f"<td>{metrics[f'digits.box.pigdm.{kind}.rmse']:.4f}</td>" in text
        assert f"<td>{metrics[f'digits.blur.no_network.{kind}.rmse']:.4f}</td>" in text
    assert "judge the method alone" in text and "prior and method together" in text


def test_verdicts_follow_the_numbers(plain):
    run = replace(DigitsRun(), cases=("box",))
    metrics = {**read_json(plain / "metrics.json")}
    metrics |= {"digits.prior.loss": 0.8, "digits.prior.gaussian_loss": 0.9}
    metrics |= {"digits.box.pigdm.real.rmse": 0.1, "digits.box.no_network.real.rmse": 0.2}
    assert not any("adds nothing" in check.text for check in verdict(run, metrics))
    metrics |= {"digits.prior.loss": 0.95, "digits.box.pigdm.real.rmse": 0.3}
    assert sum("adds nothing" in check.text for check in verdict(run, metrics)) == 2
    metrics |= {"digits.box.dps.real.failed": 1, "digits.box.pigdm.simulated.p_ranks": 1e-5}
    told = " ".join(check.text for check in verdict(run, metrics))
    assert "box: DPS diverges" in told and re.search(r"PiGDM [\d.]+ % \(its ranks are wrong\)", told)
    del metrics["digits.box.pigdm.real.coverage95"]
    with pytest.raises(InputError, match=re.escape("digits.box.pigdm.real.coverage95")):
        verdict(run, metrics)


@pytest.mark.parametrize(
    "damage",
    [
        lambda out: (out / "metrics.json").write_text("{}"),
        lambda out: (out / "results" / "box.ddrm.real-scores.safetensors").unlink(),
        lambda out: (out / "results" / "truths-samples.safetensors").write_bytes(b"no tensors"),
    ],
)
def test_damaged_runs_are_refused_in_one_line(plain, tmp_path, damage):
    out = tmp_path / "run"
    shutil.copytree(plain, out)
    damage(out)
    with pytest.raises(InputError) as error:
        digits_page.write(out)
    assert "\n" not in str(error.value)
