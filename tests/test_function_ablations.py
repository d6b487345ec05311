"""Models of functions without one of their parts: what they are before training, and that they train."""

from dataclasses import replace

import pytest
import torch

import fokker
from fokker.errors import InputError
from fokker.fields.fitting import FUNCTIONS
from fokker.fields.update import Factor, Update
from fokker.problems.function_ablations import ToldFunctions, WhiteFunctions, trained

F64 = torch.float64
FIELD = fokker.CosineField(dimension=1, modes=16, alpha=1.2, tau=3.0)
TOLD = fokker.PointObservations(2, 5, 0.1, 0.1)
RECIPE = replace(FUNCTIONS, training=replace(FUNCTIONS.training, steps=20))
KINDS = {"white": (WhiteFunctions, None), "told": (ToldFunctions, TOLD)}


def fields():
    coefficients = torch.randn(60, FIELD.size, generator=torch.Generator().manual_seed(0), dtype=F64)
    return FIELD.on_grid(coefficients, (16,)).exp()


@pytest.fixture(scope="module")
def pairs():
    """The whole model of one step, the ablated one of a few, and its records."""
    found, small = {}, {"kind": "fourier_operator", "width": 8, "depth": 2, "modes": 6}
    for name, (kind, seen) in KINDS.items():
        whole = fokker.fit_functions(fields(), observations=seen, network=small, steps=1)
        records = []
        model = trained(kind, whole, fields(), RECIPE, observations=seen, progress=records.append)
        found[name] = whole, model, records
    return found


@pytest.mark.parametrize("name", KINDS)
def test_they_train_and_are_read_again(pairs, name, tmp_path):
    _, prior, records = pairs[name]
    assert records[-1].step == 20
    assert any(bool(p.abs().max() > 0) for p in prior.network.leave.parameters())
    prior.save(tmp_path)
    again = type(prior).load(tmp_path).sample(2, (24,), seed=3, steps=4).samples
    torch.testing.assert_close(again, prior.sample(2, (24,), seed=3, steps=4).samples)


def test_white_noise_is_shrunk_cell_by_cell_and_the_lowest_waves_are_lost_at_the_last_level(pairs):
    whole, prior, _ = pairs["white"]
    model, z, rho = prior.no_network().at((24,)), torch.randn(2, 24, generator=torch.Generator().manual_seed(1)), 0.7
    assert model.process.noise.white and not whole.at().process.noise.white
    d, mean = prior.data_std, model.mean.float()
    expected = mean + d**2 / (d**2 + rho**2) * (z - mean)
    torch.testing.assert_close(model.denoised(z, torch.tensor(rho), {}), expected, rtol=1e-5, atol=1e-6)
    assert prior.rho_range == (whole.rho_range[0], whole.rho_range[1] * 4.0)  # sqrt(16 cells)


def test_told_data_stand_on_their_cells_and_change_no_gaussian(pairs):
    whole, prior, _ = pairs["told"]
    rows = torch.eye(16, dtype=F64)[[3, 3, 9]]  # two values at one cell
    residual = torch.tensor([[0.5, 0.25, -1.0], [1.0, 0.0, 2.0]], dtype=F64)
    z, rho = torch.randn(2, 16, generator=torch.Generator().manual_seed(2)), torch.tensor(0.7)
    model, complete = prior.at(), whole.no_network().at()
    cond = Factor.of(model.process.noise, rows, 0.01).cond(residual)
    cond = {name: value.expand(2, *value.shape[1:]) for name, value in cond.items()}
    guess, std, channels = model._gaussian(z, rho, Update.from_cond(cond))
    d, expected = prior.data_std, torch.zeros(2, 3, 16, dtype=F64)
    expected[:, 0, 3], expected[:, 0, 9] = residual[:, :2].sum(1) / d, residual[:, 2] / d
    expected[:, 1, 3], expected[:, 1, 9] = 2, 1
    expected[:, 2] = 0.1 / d * expected[:, 1]
    torch.testing.assert_close(channels[:, 1:].double(), expected, rtol=1e-5, atol=1e-6)
    alone, alone_std, without = model._gaussian(z, rho, None)
    torch.testing.assert_close((guess, std, channels[:, 0]), (alone, alone_std, without[:, 0]))
    assert not bool(without[:, 1:].any())
    with torch.no_grad():
        told = complete.denoised(z, rho, cond) - complete.mean.float()
    assert float((told - guess).abs().max()) > 0.05  # the whole model's Gaussian has the data
    cond = Factor.of(model.process.noise, rows, torch.tensor([0.01, 0.01, 0.04], dtype=F64)).cond(residual)
    with pytest.raises(InputError, match="noise of several variances"):
        model.denoised(z, rho, cond)
