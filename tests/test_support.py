"""Bounds as a bijection: exact laws, densities that integrate to one, samples strictly inside."""

import math

import numpy as np
import pytest
import torch

import fokker
from fokker.errors import InputError
from fokker.support import Support

BOUNDS = ([0.0, -1.0, None, None], [None, 3.0, 2.0, None])


def support() -> Support:
    return Support.of(BOUNDS, (4,))


def test_there_and_back_and_the_slope():
    u = torch.randn(500, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = support().from_line(u)
    assert torch.allclose(support().to_line(x), u, atol=1e-10)
    step = 1e-5
    numeric = (support().from_line(u + step) - support().from_line(u - step)) / (2 * step)
    assert torch.allclose(support().log_slope(u), numeric.log(), atol=1e-6)


def test_uniform_becomes_standard_normal():
    """The largest distance of 20,000 ranks is below 0.0138: exceeded once in 1,000 by chance."""
    rng = np.random.default_rng(0)
    u = np.sort(Support.of((-2.0, 5.0), (1,)).to_line(torch.from_numpy(rng.uniform(-2, 5, (20_000, 1)))).numpy()[:, 0])
    exact = 0.5 * (1 + np.array([math.erf(v / math.sqrt(2)) for v in u]))
    assert np.abs(exact - (np.arange(20_000) + 0.5) / 20_000).max() < 1.95 / math.sqrt(20_000)


def test_samples_far_out_stay_strictly_inside():
    u = torch.tensor([[-60.0, -60.0, -60.0, -60.0], [60.0, 60.0, 60.0, 60.0]], dtype=torch.float32)
    x = support().from_line(u)
    assert x.dtype == torch.float32 and bool(x.isfinite().all())
    assert bool((x[:, 0] > 0).all()) and bool(((x[:, 1] > -1) & (x[:, 1] < 3)).all()) and bool((x[:, 2] < 2).all())


@pytest.mark.parametrize(
    ("bounds", "word"),
    [
        (3, "(lower, upper) is accepted"),
        ((1, 0), "lower < upper"),
        ((0, 0), "lower < upper"),
        (([0, 0, 0], 1), "of them are accepted"),
        (("a", 1), "a number, None"),
        ((math.inf, None), "lower < upper"),
    ],
)
def test_wrong_bounds(bounds, word):
    with pytest.raises(InputError, match="bounds") as caught:
        Support.of(bounds, (4,))
    assert word in str(caught.value) and "\n" not in str(caught.value)


def test_x_at_a_bound_and_bounds_with_clip_are_refused():
    x = np.random.default_rng(0).uniform(0, 1, (50, 2))
    x[7, 1] = 1.0
    with pytest.raises(InputError, match=r"x: got 1 in row 7, entry \[1\]"):
        fokker.fit(x, x, bounds=(0, 1), steps=1)
    with pytest.raises(InputError, match="both bounds and clip"):
        fokker.fit(x, x, bounds=(-1, 2), clip=(0, None), steps=1)


def fitted(steps=1):
    """x = exp(z), z N(0, 1), y = z + N(0, 1): log x given y is N(y / 2, 1 / 2), and so is the Gaussian on the line."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal((20_000, 1))
    return fokker.fit(np.exp(z), z + rng.standard_normal(z.shape), bounds=(0, None), steps=steps)


def test_the_law_on_the_line_is_the_exact_one_and_its_density_integrates_to_one(tmp_path):
    """Moments of 20,000 pairs: slope and variance are within 5 standard errors (0.025, 0.025)."""
    posterior = fitted()
    for model in (posterior, posterior.no_network()):
        draws = model.sample([[1.0], [-2.0]], 20_000).samples.double().log()
        assert torch.allclose(draws.mean(1)[:, 0], torch.tensor([0.5, -1.0]).double(), atol=0.075)
        assert torch.allclose(draws.var(1)[:, 0], torch.full((2,), 0.5).double(), atol=0.05)
    grid = torch.linspace(-6, 6, 801).double()
    x = grid.exp()[:, None]
    density = posterior.log_prob(x, [1.0]).exp()
    assert float((density * x[:, 0]).sum() * 12 / 800) == pytest.approx(1, abs=1e-3)
    exact = torch.distributions.LogNormal(torch.tensor(0.5), math.sqrt(0.5)).log_prob(x[:, 0])
    near = (grid - 0.5).abs() < 1.5
    assert float((density.log() - exact)[near].abs().max()) < 0.15
    assert float(posterior.log_prob([[-1.0], [2.0]], [1.0])[0]) == -math.inf
    posterior.save(tmp_path / "model")
    again = fokker.load(tmp_path / "model").sample([1.0], 50).samples
    assert torch.equal(again, posterior.sample([1.0], 50).samples) and bool((again > 0).all())


def test_further_conditions_are_part_of_the_measurement():
    """x = y c + noise has, at a fixed c, the mean y c: the Gaussian given y and c is exact where x is their sum."""
    rng = np.random.default_rng(1)
    x, c = rng.standard_normal((20_000, 2)), rng.standard_normal((20_000, 1))
    y = x + c + 0.5 * rng.standard_normal(x.shape)
    posterior = fokker.fit(x, y, cond={"offset": c}, steps=1)
    rows = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0], [2.0]])
    found = posterior.no_network().mean(rows[0], cond={"offset": rows[1]})
    assert torch.allclose(found, ((rows[0] - rows[1]) / 1.25).double(), atol=0.05)
    draws = posterior.sample(rows[0], 4000, cond={"offset": rows[1]})
    assert torch.allclose(draws.mean().double(), found, atol=0.1) and draws.y.shape == (2, 2)
    one = posterior.sample([1.0, 0.0], 10, cond={"offset": [2.0]}).samples
    assert one.shape == (10, 2)
    for cond, word in (
        (None, "none, 'offset' is what"),
        ({"other": [1.0]}, "'other', 'offset'"),
        ({"offset": [[1.0], [2.0], [3.0]]}, "3 rows for 2"),
        ({"offset": [math.nan]}, "NaN"),
        ({"offset": [1.0, 2.0]}, "shape"),
    ):
        with pytest.raises(InputError, match=word):
            posterior.sample(rows[0], 5, cond=cond)


def test_conditions_beside_missing_entries_and_layouts(tmp_path):
    rng = np.random.default_rng(2)
    x, c = rng.standard_normal((4000, 2)), rng.standard_normal((4000, 3))
    y = x + c[:, :1] + 0.5 * rng.standard_normal(x.shape)
    posterior = fokker.fit(
        x, y, cond={"c": c}, omega=fokker.RandomLayouts(0.5), likelihood=fokker.Gaussian(0.1), steps=2
    )
    assert posterior.masked
    posterior.save(tmp_path / "model")
    again = fokker.load(tmp_path / "model")
    for model in (posterior, again):
        draws = model.sample([1.0, math.nan], 20, cond={"c": [0.0, 0.0, 0.0]})
        assert draws.samples.shape == (20, 2) and bool(draws.samples.isfinite().all())


@pytest.mark.parametrize("name", ["y", "omega"])
def test_reserved_names_and_wrong_rows_of_conditions(name):
    x = np.random.default_rng(0).standard_normal((50, 2))
    with pytest.raises(InputError, match="a name of your own"):
        fokker.fit(x, x, cond={name: x}, steps=1)
    gap = np.where(np.arange(100).reshape(50, 2) == 3, np.nan, x)
    for bad, reason in ((x[:40], "c: got 40 rows for 50 rows of x"), (gap, "c: got NaN in row 1")):
        with pytest.raises(InputError, match=reason):
            fokker.fit(x, x, cond={"c": bad}, steps=1)
