"""Laws of functions between the cells of a grid, beside Gaussian processes whose spectra go on there."""

import pytest
import torch

import fokker
from fokker.continued_fields import between, continued, spline_weights
from fokker.errors import InputError
from fokker.estimated_fields import CosineSpectrum
from fokker.fields.values import values_between
from fokker.problems.regression_families import FAMILIES

F64 = torch.float64
CELLS, FINE = 32, 4096
ROUGH = fokker.CosineField.matern(1, FINE, length=0.2, nu=0.5)
CENTRES = fokker.Grid((CELLS,)).points


def spectrum_on(field, cells):
    """What infinitely many fields on the cells tell of a field."""
    return CosineSpectrum(field.grid_eigenvalues(cells) / torch.tensor(cells).prod())


def drawn(field, cells, count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return field.on_grid(torch.randn(count, field.size, generator=generator, dtype=F64), cells)


@pytest.mark.parametrize(
    ("field", "cells", "close"),
    [
        (ROUGH, (CELLS,), 0.1),
        (fokker.CosineField.matern(1, FINE, length=0.2, nu=1.0), (CELLS,), 0.1),
        (fokker.CosineField.matern(2, 256, length=0.2, nu=0.5), (16, 16), 0.2),  # 16 waves hardly reach the power law
    ],
)
def test_a_power_law_goes_on(field, cells, close):
    """The law on the cells stays what it was; from it alone the variances beyond are found."""
    seen = spectrum_on(field, cells)
    law = continued(seen)
    torch.testing.assert_close(law.grid_eigenvalues(cells), seen.grid_eigenvalues(cells), rtol=1e-9, atol=1e-12)
    assert law.mode_shape[0] >= 8 * cells[0]
    inside = tuple(slice(4 * n) for n in cells)
    found, true = law.spectrum[inside], field.eigenvalues.reshape(field.mode_shape)[inside]
    torch.testing.assert_close(found[1:], true[1:], rtol=close, atol=0)
    assert float((seen.spectrum / true[tuple(slice(n) for n in cells)] - 1).abs().max()) > 0.5  # what mirror images add


def test_what_has_nothing_beyond_its_waves_stays_as_it_is():
    smooth = spectrum_on(fokker.CosineField.matern(1, 256, length=0.3, nu=8.0), (CELLS,))
    assert continued(smooth) is smooth
    few = CosineSpectrum(torch.tensor([1.0, 0.5, 0.25]))
    assert continued(few) is few
    band = torch.zeros(CELLS)
    band[:5] = 1.0
    limited = CosineSpectrum(band)
    assert continued(limited) is limited


def test_values_between_cells_given_those_on_them():
    """Beside Bayes' rule for a covariance written out, with correlated waves too; at centres nothing is left open."""
    points = torch.tensor([[0.03], [0.031], [0.5], [CENTRES[7, 0]], [1.0]], dtype=F64)
    leading = torch.eye(8, dtype=F64) * 0.1 + 0.05
    spectrum = ROUGH.eigenvalues[:256].clone()
    for law in (CosineSpectrum(spectrum), CosineSpectrum(spectrum, leading)):
        weights, left = between(law, (CELLS,), points)
        here, there = law.basis(CENTRES), law.basis(points)
        expected = torch.linalg.solve(here @ here.T, here @ there.T).T
        torch.testing.assert_close(weights, expected, rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(left, there @ there.T - expected @ here @ there.T, rtol=1e-8, atol=1e-10)
        assert float(left[3].abs().max()) < 1e-10 < 1e-3 < float(left[0, 0])
    with pytest.raises(InputError, match=r"1\.5"):
        between(law, (CELLS,), torch.tensor([[1.5]]))


@pytest.mark.parametrize("cells", [1, 2, 3, 4, 9])
def test_splines_meet_polynomials_beyond_the_outer_centres_too(cells):
    x = torch.linspace(0, 1, 7, dtype=F64)
    for power in range(min(cells, 4)):
        values = fokker.Grid((cells,)).points[:, 0] ** power
        torch.testing.assert_close(spline_weights(x, cells) @ values, x**power, rtol=1e-10, atol=1e-12)


RAMP = 40.0


@pytest.fixture(scope="module")
def rough():
    fields = drawn(ROUGH, (CELLS,), 4000) + RAMP * CENTRES[:, 0]
    return fokker.fit_functions(fields, steps=1, network={"width": 4, "depth": 1, "modes": 4}).no_network()


SEEN = torch.tensor([[0.045], [0.3], [0.31], [0.66], [0.99]], dtype=F64)
Y = torch.tensor([0.5, -0.2, 0.1, 1.0, 0.0], dtype=F64)


def posterior_of(points, std):
    """Mean and standard deviations on the cells of the process itself, of which y is seen less its mean."""
    here, there = ROUGH.basis(CENTRES), ROUGH.basis(points)
    gain = torch.linalg.solve(there @ there.T + std**2 * torch.eye(len(points), dtype=F64), there @ here.T)
    return Y @ gain, (here.square().sum(1) - (here @ there.T * gain.T).sum(1)).clamp(min=0).sqrt()


@pytest.mark.parametrize("std", [0.0, 0.01, 0.1])
def test_rough_functions_seen_between_the_cells(rough, std):
    """A posterior without a network is that of the process: the spectrum is estimated to 1/sqrt(2000), so means are
    within 0.25 deviations and widths within 15 % (those of 4,000 samples to 5 %, 4.5 standard errors), in two steps as
    in many. The control continues functions by their cosines."""
    mean, deviation = posterior_of(SEEN, std)
    y = Y + RAMP * SEEN[:, 0]
    found = fokker.FunctionPosterior.of_values(rough, SEEN, likelihood=fokker.Gaussian(std))
    samples = found.sample(y, 4000, seed=1, steps=2).samples.double() - RAMP * CENTRES[:, 0]
    assert float(((samples.mean(0) - mean) / deviation).abs().max()) < 0.25
    torch.testing.assert_close(samples.std(0), deviation, rtol=0.15, atol=0)
    cosines = fokker.operators.PointValues((CELLS,), SEEN)
    wrong = fokker.FunctionPosterior(rough.at(), forward=cosines, likelihood=fokker.Gaussian(std))
    widths = wrong.sample(y, 1000, seed=1, steps=2).samples.double().std(0)
    assert float((widths / deviation).min()) < 0.7


def test_finer_and_coarser_grids_take_the_same_values(rough):
    mean, _ = posterior_of(SEEN, 0.1)
    y = Y + RAMP * SEEN[:, 0]
    for cells in (CELLS // 2, 3 * CELLS):
        found = fokker.FunctionPosterior.of_values(rough, SEEN, likelihood=fokker.Gaussian(0.1), where=(cells,))
        shown = found.sample(y, 2000, seed=1, steps=2).mean().double() - RAMP * fokker.Grid((cells,)).points[:, 0]
        at = fokker.operators.PointValues((cells,), CENTRES[4:-4])
        assert float((at(shown[None])[0] - mean[4:-4]).abs().max()) < 0.15


def test_at_the_centres_of_cells_nothing_is_left_open():
    """Nothing but rounding, which is 5e-10 of the variance for these waves; control: rough functions between them."""
    waves = FAMILIES["waves"].draw(1000, 0, "centres").cells
    law = fokker.fit_functions(waves, steps=1, network={"width": 4, "depth": 1, "modes": 4}).continued
    points = fokker.Grid((128,)).points
    assert not bool(between(law, (128,), points)[1].any())
    assert float(between(ROUGH, (128,), points)[1].diagonal().max()) == 0
    assert float(between(ROUGH, (128,), points[:-1] + 0.5 / 128)[1].diagonal().min()) > 1e-3


def test_values_without_noise_that_contradict_each_other_are_refused(rough):
    twice = fokker.FunctionPosterior.of_values(rough, [0.3, 0.3, 0.7], likelihood=fokker.Gaussian(0.0))
    with pytest.raises(InputError, match="contradict each other"):
        twice.sample(torch.tensor([12.0, 13.0, 28.0]), 4)
    assert bool(twice.sample(torch.tensor([12.0, 12.0, 28.0]), 4).samples.isfinite().all())
    some = fokker.FunctionPosterior.of_values(rough, [0.3, 0.7], likelihood=fokker.Gaussian([0.0, 0.5]))
    assert bool(some.sample(torch.tensor([12.0, 28.0]), 4).samples.isfinite().all())


def test_the_mean_between_the_cells_is_no_matter_of_the_law(rough):
    points = torch.tensor([[0.0], [0.2], [1.0]], dtype=F64)
    forward, _ = values_between(rough, rough.at(), points)
    torch.testing.assert_close(forward(rough.at().mean[None])[0], rough.mean_at(points), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(rough.mean_at(points), RAMP * points[:, 0], rtol=0, atol=0.15)
