"""Field problems: their data, and that the exact posteriors are exact for them."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from exact import limit
from fokker import CosineField
from fokker.diagnostics.coverage import coverage_per_case
from fokker.diagnostics.scores import crps, relative_error
from fokker.errors import InputError
from fokker.problems.field_data import FAMILIES, FieldProblem
from fokker.problems.field_exact import ExactPosterior, NoNetwork, limit_means

TASKS = [(family, task) for family, tasks in FAMILIES.items() for task in tasks]
every = pytest.mark.parametrize(("family", "task"), TASKS)


def problem(family, task, n=16, noise=0.05):
    return FieldProblem(family, task, n, noise)


@every
def test_cases_do_not_depend_on_how_many_there_are(family, task):
    p = problem(family, task)
    few, many = p.cases(2, seed=3), p.cases(5, seed=3)
    for name in ("points", "y", "truth"):
        assert torch.equal(getattr(few, name), getattr(many, name)[:2])
    assert many.y.shape == many.points.shape == (5, p.count) and many.truth.shape == (5, 16, 16) and len(many) == 5
    assert not torch.equal(p.cases(2, seed=4).truth, few.truth)
    some, all_of_them = p.training(3, first=254), p.training(300)
    assert torch.equal(some.seen, all_of_them.seen[254:257]) and torch.equal(some.wanted, all_of_them.wanted[254:257])
    assert not torch.equal(p.training(2, seed=3).wanted, few.truth)  # another split
    assert all(len(set(row.tolist())) == p.count for row in many.points)
    assert not torch.equal(many.points[0], many.points[1])


def test_the_published_numbers_of_points():
    assert [FieldProblem("poisson", "inverse", n).count for n in (16, 32, 64, 128)] == [8, 31, 123, 500]


@every
def test_data_are_the_seen_field_at_the_points_with_noise_of_the_stated_size(family, task):
    """Noise by a large sample; without it (threshold: with hardly any) the data are the field."""
    quiet, loud = problem(family, task, noise=1e-9), problem(family, task, noise=0.1)
    a, b = quiet.cases(400), loud.cases(400)
    assert torch.equal(a.points, b.points)
    seen = quiet.of_latent(quiet.latent(400, split="test")).seen.flatten(1).gather(1, a.points)
    torch.testing.assert_close(a.y, seen, rtol=1e-7, atol=1e-7 * float(seen.std()))
    error = loud.spread * (b.y / seen).log() if family == "warp" else b.y - seen
    z = (error.square().mean() / loud.noise_std**2 - 1) * math.sqrt(error.numel() / 2)
    assert abs(float(z)) < limit(1)
    if family == "threshold":
        assert loud.noise_std == 0.45
    else:
        spread = loud.spread if family == "warp" else float(loud.training(2000).seen.std())
        assert abs(loud.noise_std / (0.1 * spread) - 1) < 0.05


def test_the_fields_are_those_of_the_equation_and_one_function_at_all_resolutions():
    fine = FieldProblem("helmholtz", "inverse", 128).training(3)
    coarse = FieldProblem("helmholtz", "inverse", 32).training(3)
    for name, least in (("wanted", 0.1), ("seen", 0.01)):
        small, large = getattr(coarse, name), getattr(fine, name)
        pooled = torch.nn.functional.avg_pool2d(large[:, None], 4)[:, 0]
        assert float((pooled - small).norm() / small.norm()) < least
    u, a, n = fine.seen, fine.wanted, 128  # five points inside
    lap = (u[:, 2:, 1:-1] + u[:, :-2, 1:-1] + u[:, 1:-1, 2:] + u[:, 1:-1, :-2] - 4 * u[:, 1:-1, 1:-1]) * n**2
    inside = a[:, 1:-1, 1:-1]
    assert float((lap + u[:, 1:-1, 1:-1] - inside)[:, 8:-8, 8:-8].norm() / inside.norm()) < 0.02
    field = FieldProblem("poisson", "inverse", 16).field
    law = CosineField(2, modes=16, alpha=2.0, tau=3.0)
    centres = (torch.arange(16, dtype=torch.float64) + 0.5) / 16
    basis = law.basis(torch.cartesian_prod(centres, centres))[:, 1:]  # without the constant
    torch.testing.assert_close(field.variance().flatten(), basis.square().sum(1), rtol=1e-10, atol=0)


def test_the_warp_is_far_from_gaussian():
    x = FieldProblem("warp", "direct", 16).training(4000).seen.flatten()
    assert float(((x - x.mean()) ** 3).mean() / x.std() ** 3) > 3


@every
def test_exact_posteriors_are_calibrated(family, task):
    """Truths lie in central intervals as often as they should, and the mean is that of the samples."""
    p, m = problem(family, task), 80
    cases = p.cases(m)
    laws = [ExactPosterior(p, *row, case=i) for i, row in enumerate(zip(cases.points, cases.y))]
    draws = torch.stack([law.sample(32) for law in laws])
    mean = torch.stack([law.mean() for law in laws])

    def z(samples):
        inside = coverage_per_case(samples.numpy(), cases.truth.numpy(), [0.5, 0.8]).mean((2, 3))
        return np.abs((inside.mean(1) - [0.5, 0.8]) / (inside.std(1, ddof=1) / math.sqrt(m))).max()

    assert z(draws) < limit(2)
    if family != "threshold":  # two values: half their distance to the mean is neither, and no control
        assert z(mean[:, None] + 0.5 * (draws - mean[:, None])) > limit(2)  # control: too narrow
        assert z(draws.roll(1, 0)) > limit(2)  # control: another case's posterior
    score = crps(draws.numpy(), cases.truth.numpy()).mean((1, 2))
    other = crps(draws.roll(1, 0).numpy(), cases.truth.numpy()).mean((1, 2))
    assert (other - score).mean() > limit(1) * (other - score).std() / math.sqrt(m)
    gap = draws.mean(1) - mean  # its average over the grid varies at most as an entry does
    error = (draws.var(1) / 32 + 1e-3 * draws.var(1) * (family == "threshold")).mean((1, 2)).sqrt()
    assert float((gap.mean((1, 2)).abs() / error).max()) < limit(m)
    torch.testing.assert_close(limit_means(p, cases.points[:2], cases.y[:2]), mean[:2])


@every
def test_no_estimate_beats_the_exact_mean(family, task):
    """The Gaussian of few training fields loses, that of many comes near it where all is Gaussian."""
    p, m = problem(family, task), 60
    cases = p.cases(m)
    exact = limit_means(p, cases.points, cases.y)
    errors = {}
    for count in (60, 4000):
        guess = NoNetwork(p, count)
        means = [guess.posterior(where).mean(y, of=guess.of) for where, y in zip(cases.points, cases.y)]
        errors[count] = relative_error(torch.stack(means), cases.truth)
    limit_line = relative_error(exact, cases.truth)
    assert limit_line.mean() < errors[4000].mean() < errors[60].mean()
    if family in ("poisson", "helmholtz"):
        assert errors[4000].mean() < 1.05 * limit_line.mean()


@pytest.mark.parametrize("family", FAMILIES)
def test_training_fields_serve_every_task_and_noise_of_a_family(family):
    p, other = problem(family, FAMILIES[family][0]), problem(family, FAMILIES[family][-1], noise=0.02)
    cases = other.cases(2)
    shared, own = NoNetwork(p, 60).on(other), NoNetwork(other, 60)
    means = [guess.posterior(cases.points[1]).mean(cases.y[1], of=guess.of) for guess in (shared, own)]
    assert torch.equal(*means) and shared.problem == other and shared.field is not own.field


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "darcy"}, "family and task: got 'darcy' and 'inverse', accepted are poisson: inverse, forward"),
        ({"task": "direct"}, "family and task: got 'poisson' and 'direct'"),
        ({"n": 256}, "n: got 256, a whole number from 4 to 128"),
        ({"noise": -0.1}, "noise: got -0.1, a number from 0 on"),
        ({"family": "threshold", "task": "direct", "noise": 0.0}, "noise: got 0.0, a number above 0"),
    ],
)
def test_refused(change, message):
    with pytest.raises(InputError, match=message) as caught:
        dataclasses.replace(FieldProblem("poisson", "inverse", 32, 0.01), **change)
    assert "\n" not in str(caught.value)
