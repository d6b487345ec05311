"""Every example runs, and says what it should."""

import runpy
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import fokker
from fokker import cli
from fokker.simulation.formats import arrays_in

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_every_example_is_tested():
    """A new example needs a test below."""
    assert {p.name for p in EXAMPLES.glob("*.py")} == {
        "01_own_simulator.py",
        "02_one_denoiser_every_process.py",
        "03_langevin_right_and_wrong.py",
        "04_missing_sensors_and_priors.py",
        "05_own_files.py",
        "06_external_program.py",
        "07_arviz.py",
        "08_known_operator.py",
        "09_functions.py",
        "10_poisson.py",
    }


def test_own_simulator_finds_both_answers():
    """Sum 0.5 and product -0.3 have two solutions of equal weight; the Gaussian baseline cannot show them."""
    found = runpy.run_path(str(EXAMPLES / "01_own_simulator.py"))
    first = found["samples"].samples[:, 0]
    for solution in (0.85, -0.35):
        # 1,000 draws of probability near 1/2: eight standard errors are 0.13, the rest is for a short training.
        assert float(((first - solution).abs() < 0.35).float().mean()) == pytest.approx(0.5, abs=0.2)
    assert float(((first - 0.25).abs() < 0.1).float().mean()) < 0.05
    baseline = found["baseline"].samples[:, 0]
    assert float(((baseline - 0.25).abs() < 0.1).float().mean()) > 0.05


def test_processes_coincide_on_one_grid_of_levels():
    """Equal to rounding in float64, and the mean within five standard errors of the mixture's own."""
    found = runpy.run_path(str(EXAMPLES / "02_one_denoiser_every_process.py"))
    assert found["largest_difference"] < 1e-9
    draws, mixture = found["first"], found["mixture"]
    error = (draws.mean(0) - mixture.weights @ mixture.means) / (draws.std(0) / len(draws) ** 0.5)
    assert bool((error.abs() < 5).all()), error
    assert draws.dtype == torch.float64


def test_score_ascent_collapses_and_langevin_dynamics_samples(tmp_path):
    """1,500 points on three modes; the samples have the covariance of the density, up to its Monte-Carlo error."""
    found = runpy.run_path(str(EXAMPLES / "03_langevin_right_and_wrong.py"))
    assert len(found["modes"]()) == 3
    exact = found["mixture"].moments.factor @ found["mixture"].moments.factor.T
    # Standard errors are about 5 % of a variance, and the step adds a bias of a few per cent; the ascent is 45 % off.
    assert float((found["sgld"].T.cov() - exact).abs().max()) < 0.25
    assert float((found["ascent"].T.cov() - exact).abs().max()) > 0.5
    found["draw"](tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_missing_sensors_and_priors():
    """Exact Gaussian posteriors and the exact density; 1,000 draws know a deviation to 2 %, trainings to 8."""
    found = runpy.run_path(str(EXAMPLES / "04_missing_sensors_and_priors.py"))
    noise = found["NOISE"]
    for samples, rows in (("only_the_sum", [[1.0, 1.0]]), ("all_three", [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])):
        matrix = torch.tensor(rows)
        exact = torch.linalg.inv(torch.eye(2) + matrix.T @ matrix / noise**2).diagonal().sqrt()
        assert bool(((found[samples].std() / exact - 1).abs() < 0.16).all())
    angle = 2 * torch.pi * (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    circle, on = torch.stack([angle.cos(), angle.sin()], 1), torch.tensor([1.0, 0.0], dtype=torch.float64)
    exact_log = torch.exp(-0.5 * ((circle - on) / 0.1).square().sum(1)).mean().log() - torch.log(
        torch.tensor(2 * torch.pi * 0.1**2)
    )
    on_it, middle = found["log_densities"].tolist()
    assert on_it == pytest.approx(float(exact_log), abs=0.4) and middle < on_it - 3
    # The same law of x at the level 0.05 by importance weights; 1,000 dependent draws, so ten per cent.
    draws = circle.repeat(10, 1) + (0.1**2 + 0.05**2) ** 0.5 * torch.randn(
        200_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    weights = torch.exp(-0.5 * ((1 - draws[:, 1]) / noise) ** 2)
    mean = (weights[:, None] * draws).sum(0) / weights.sum()
    std = ((weights[:, None] * (draws - mean) ** 2).sum(0) / weights.sum()).sqrt()
    assert bool(((found["top"].mean(0) - mean).abs() < 0.1 * std + 0.02).all())
    assert bool(((found["top"].std(0) / std - 1).abs() < 0.15).all())


def test_own_files_with_gaps(tmp_path, capsys):
    """Beside the exact posterior on a grid; 1,000 draws know a mean to 3 % of a deviation, the short training less."""
    found = runpy.run_path(str(EXAMPLES / "05_own_files.py"))
    x = found["run"](tmp_path).sel(measurement=0, chain=0)
    said = capsys.readouterr().out
    assert "- calibrated, as far as 300 rows" in said and "looks like the training data" in said
    rate, room = (v[..., None] for v in np.meshgrid(np.linspace(0.2, 0.5, 601), np.linspace(8, 32, 481), indexing="ij"))
    times, seen = found["TIMES"][[0, 2]], np.array([71.2, 25.9])
    gap = (room + (90 - room) * np.exp(-rate * times) - seen) / 0.5
    prior = (np.log(rate) + 1.5) ** 2 / 0.25 + 2 * np.log(rate) + (room - 20) ** 2 / 9
    weight = np.exp(-0.5 * ((gap**2).sum(-1) + prior[..., 0]))
    for name, values in (("rate", rate), ("room", room)):
        mean = float((weight * values[..., 0]).sum() / weight.sum())
        std = float((weight * (values[..., 0] - mean) ** 2).sum() / weight.sum()) ** 0.5
        draws = x.sel(x_dim_0=name).values
        assert abs(draws.mean() - mean) < 0.6 * std and 0.75 < draws.std() / std < 1.35


def test_an_external_program(tmp_path, monkeypatch, capsys):
    """Beside the exact posterior on a grid, the prior is uniform; and the same from the shell, line by line."""
    found = runpy.run_path(str(EXAMPLES / "06_external_program.py"))
    samples, checked = found["run"](tmp_path, steps=300)
    assert checked.verdict.calibrated and not checked.measured[0].strange
    frequency, damping = np.meshgrid(np.linspace(1, 2, 801), np.linspace(0.1, 0.6, 401), indexing="ij")
    t = np.arange(1, 7)
    gap = (np.exp(-damping[..., None] * t) * np.cos(frequency[..., None] * t) - found["TODAY"]) / 0.1
    weight = np.exp(-0.5 * (gap**2).sum(-1))
    for j, values in enumerate((frequency, damping)):
        mean = float((weight * values).sum() / weight.sum())
        std = float((weight * (values - mean) ** 2).sum() / weight.sum()) ** 0.5
        draws = samples.samples[:, j].double()
        # 1,000 draws know a mean to 3 % of a deviation and a deviation to 2 %, the short training less.
        assert abs(float(draws.mean()) - mean) < 0.4 * std and 0.75 < float(draws.std()) / std < 1.35
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs").rename(tmp_path / "by_python")
    lines = [line.strip() for line in found["__doc__"].splitlines() if line.strip().startswith("fokker ")]
    assert len(lines) == 4
    for line in lines:
        words = shlex.split(line.replace('"python ', f'"{shlex.quote(sys.executable)} '))[1:]
        assert cli.command([*words, "--quiet", *(["--steps", "5"] if words[0] == "fit" else [])]) == 0
    said = capsys.readouterr().out
    assert "4000 simulations: x (2,), y (6,)" in said and "\n  frequency  " in said and "measurement 0:" in said
    for name in ("x", "y"):
        a, b = (arrays_in([tmp_path / folder])[name]() for folder in ("pairs", "by_python"))
        assert np.array_equal(a, b)


def test_samples_in_arviz(tmp_path):
    """Means, deviations and intervals of the exact Gaussian posterior; labels of the figure are parameters' names."""
    found = runpy.run_path(str(EXAMPLES / "07_arviz.py"))
    found["store"](tmp_path / "lines.zarr")
    tree, design = found["opened"](tmp_path / "lines.zarr"), found["DESIGN"].double()
    covariance = torch.linalg.inv(torch.eye(2) + design.T @ design / found["NOISE"] ** 2)
    means, std = found["LINES"].double() @ design @ covariance / found["NOISE"] ** 2, covariance.diagonal().sqrt()
    for line, mean in enumerate(means):
        table = found["table"](tree, line)
        assert list(table.index) == ["intercept", "slope"]
        # 2,000 draws know a mean to 2 % of a deviation, a deviation to 1.6 % and the ends to 5 %; the training less.
        assert bool((abs(table["mean"].values - mean.numpy()) < 0.2 * std.numpy()).all())
        assert bool((abs(table["sd"].values / std.numpy() - 1) < 0.15).all())
        ends = table[["eti90_lb", "eti90_ub"]].values
        exact = np.stack([mean - 1.645 * std, mean + 1.645 * std], 1)
        assert bool((abs(ends - exact) < 0.35 * std.numpy()[:, None]).all())
    axes = found["draw"](tree, 0, tmp_path / "figure.png")
    labels = [(axes[i, j].get_xlabel(), axes[i, j].get_ylabel()) for i, j in ((0, 0), (1, 0), (1, 1))]
    assert labels == [("", "density"), ("intercept", "slope"), ("slope", "")]
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_known_operator_against_importance_sampling():
    """Two million draws of the true prior give the evidence and both means; what is left is the learned prior."""
    found = runpy.run_path(str(EXAMPLES / "08_known_operator.py"))
    rng = np.random.default_rng(1)
    angle, radius = rng.uniform(0, 2 * np.pi, 2_000_000), 1 + 0.03 * rng.standard_normal(2_000_000)
    away = np.hypot(radius * np.cos(angle) - 0.8, radius * np.sin(angle))
    weight = np.exp(-0.5 * ((1.2 - away) / 0.05) ** 2) / (0.05 * np.sqrt(2 * np.pi))
    assert float(found["places"].log_evidence.exp()) == pytest.approx(weight.mean(), rel=0.15)
    assert found["north"] == pytest.approx(0.5, abs=0.1)
    rate = 10 / (0.1 + away**2) + 1
    weight = rate**8 * np.exp(-rate)
    mean = (weight * away).sum() / weight.sum()
    std = np.sqrt((weight * (away - mean) ** 2).sum() / weight.sum())
    far = found["distance"](found["heard"].samples)
    assert float(far.mean()) == pytest.approx(mean, abs=0.3 * std) and float(far.std()) == pytest.approx(std, rel=0.2)


def test_functions_against_rejection():
    """Profiles of the true law that agree at the boreholes tell the chance of clay; the Gaussian alone has none."""
    found = runpy.run_path(str(EXAMPLES / "09_functions.py"))
    true = found["profiles"](100_000, 5)
    kept = true[(true[:, [6, 20, 44, 60]] == torch.tensor([0.0, 1.0, 1.0, 0.0])).all(1)]
    # 500 samples and about 3,500 kept profiles: four standard errors are 0.095, the rest is for a short training.
    assert float((found["clay"] - kept.mean(0)).abs().max()) < 0.15
    whole = lambda x: float(((x - x.round()).abs() < 0.1).float().mean())  # noqa: E731
    assert whole(found["found"]) > 0.85 and whole(found["finer"]) > 0.85
    plain, boreholes = found["prior"].no_network(), found["boreholes"]
    gaussian = fokker.FunctionPosterior.of_values(plain, boreholes, likelihood=fokker.Gaussian(0.01))
    gaussian = gaussian.sample([0.0, 1.0, 1.0, 0.0], 500)
    assert whole(gaussian.samples) < 0.5


def test_poisson_against_the_exact_posterior(tmp_path):
    """500 samples know a mean to 4.5 % of a deviation and a width to 3 %; the rest is for an estimated law."""
    found = runpy.run_path(str(EXAMPLES / "10_poisson.py"))
    off = (found["mean"] - found["exact"]) / found["exact_std"]
    assert float(off.square().mean().sqrt()) < 0.15
    assert bool(((found["std"] / found["exact_std"] - 1).abs() < 0.25).all())
    assert float((found["exact"] / found["exact_std"]).abs().max()) > 1  # the data tell something
    found["draw"](tmp_path / "heat.png")
    assert (tmp_path / "heat.png").read_bytes().startswith(b"\x89PNG")
