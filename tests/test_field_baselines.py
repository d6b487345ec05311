"""The pieces of benchmarks/field_baselines.py."""

import sys
from pathlib import Path

import pytest
import torch

from fokker.noise import White
from fokker.problems.field_data import FieldProblem

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))
from peers import field_models as models
from peers.field_guidance import Guided, Weights

N = 8
WEIGHT = {models.WHITE: 0.3, models.COLOURED: 0.3}


@pytest.fixture(scope="module")
def problem():
    return FieldProblem("poisson", "inverse", N)


@pytest.fixture(scope="module")
def trained(problem):
    fields = problem.training(300)
    return {method: models.train(method, problem, fields, 6) for method in models.NETWORKS}


def test_the_equation_holds_for_solutions_and_for_nothing_else(problem, trained):
    fields = problem.training(5, seed=1)
    scales = trained[models.WHITE].scales
    z = scales.there(models.joint(problem, fields))
    guided = Guided(problem, trained[models.WHITE])
    assert float(guided.equation(z).abs().max()) < 1e-10
    others = torch.stack([z[:, 0], z[:, 1].roll(1, 0)], 1)
    assert float(guided.equation(others).norm(dim=1).min()) > 0.1 * N


@pytest.mark.parametrize("method", models.GUIDED)
def test_untrained_models_are_the_preconditioning_alone_and_noise_has_variance_one(method):
    model = models.untrained(method, N, 2)
    z = torch.randn(3, 2, N, N, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(model.denoised(z, torch.tensor(2.0, dtype=torch.float64), {}), z / 5)
    noise = model.process.noise
    unit = torch.eye(N**2).reshape(-1, N, N)
    covariance = noise.apply(unit).flatten(1)
    assert float(covariance.diagonal().mean()) == pytest.approx(1, rel=1e-6)
    assert (method == models.WHITE) == isinstance(noise, White)
    neighbours = float(covariance[27, 28])
    assert neighbours == 0 if method == models.WHITE else neighbours > 0.3


@pytest.mark.parametrize("method", models.GUIDED)
def test_guidance_draws_samples_to_the_data(method):
    problem = FieldProblem("warp", "direct", N)
    scales = models.Scales(torch.ones(1, 1, 1), 2 * torch.ones(1, 1, 1))
    guided = Guided(problem, models.Trained(method, models.untrained(method, N, 1), scales, 0, 0.0, 1.0))
    cases = problem.cases(2)
    free, near = (guided.draw(cases.points, cases.y, 4, Weights(weight), 20) for weight in (0.0, WEIGHT[method]))
    assert free.shape == (2, 4, N, N)
    missed = [(x.flatten(2).gather(2, cases.points[:, None].expand(2, 4, -1)) - cases.y[:, None]) for x in (free, near)]
    assert float(missed[1].norm()) < 0.5 * float(missed[0].norm())
    alone = guided.draw(cases.points[1:], cases.y[1:], 4, Weights(WEIGHT[method]), 20, first=1)
    assert torch.allclose(alone[0], near[1], atol=1e-4)  # a case does not depend on its company


@pytest.mark.parametrize("method", models.REGRESSIONS)
def test_regressions_see_values_at_points_alone(method, problem, trained):
    cases, found = problem.cases(2), trained[method]
    one = found.predicted(problem, cases.points[0], cases.y[0])
    assert one.shape == (N, N)
    assert not torch.allclose(one, found.predicted(problem, cases.points[0], 2 * cases.y[0]))
    values, mask, level = models.drawn(torch.ones(3, N, N), 2, (0.0,), torch.Generator().manual_seed(0))
    assert mask.flatten(1).sum(1).tolist() == [2.0] * 3 and level.tolist() == [0.0] * 3
    hidden = values + 5 * (1 - mask)
    assert torch.equal(found.model(values, mask, level), found.model(hidden, mask, level))


@pytest.mark.parametrize("method", models.NETWORKS)
def test_what_is_saved_is_what_was_trained(method, problem, trained, tmp_path):
    found = trained[method]
    found.save(tmp_path / "one.pt")
    again = models.Trained.load(tmp_path / "one.pt")
    assert again.record() == found.record() and torch.equal(again.scales.std, found.scales.std)
    for a, b in zip(again.model.network.parameters(), found.model.network.parameters(), strict=True):
        assert torch.equal(a, b)
    assert 0 < found.loss < 1.1  # of fields of variance 1: about 1 where nothing has been learned
