"""Likelihoods: what all of them keep to (the list is in laws.py), and those of Gaussian noise and of sensors."""

import math
import pickle

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import MultivariateNormal

import fokker
from exact import RATE, limit, moment_z
from fokker.errors import InputError
from fokker.rng import torch_generator
from laws import LAWS, STDS, R, data

ROWS = torch.linspace(0.2, 1.3, 24, dtype=torch.float64).reshape(8, 3)  # each row has deviations of its own
CASES = {
    "std": (fokker.Gaussian(0.3), 0.09 * torch.eye(3, dtype=torch.float64)),
    "diagonal": (fokker.Gaussian(STDS), STDS.square().diag()),
    "rows": (fokker.Gaussian(ROWS), torch.diag_embed(ROWS.square())),
    "full": (fokker.Gaussian(covariance=R), R),
}


# --- All of them


@pytest.mark.parametrize("name", LAWS)
def test_log_density_is_the_one_of_scipy(name):
    y, clean = data(LAWS[name].build(1))
    exact = torch.from_numpy(LAWS[name].density(y.numpy(), clean.numpy()))
    torch.testing.assert_close(LAWS[name].build(1).log_prob(y, clean), exact, rtol=1e-11, atol=1e-11)
    assert (
        LAWS[name].build(1.1).log_prob(y, clean) - exact
    ).abs().max() > 1e-3 or name == "own"  # the control; a function has no scale


@pytest.mark.parametrize("name", LAWS)
def test_draws_follow_the_density(name):
    """By the uniforms of the law: their distribution (Kolmogorov-Smirnov), and moments of their normal scores over the
    three entries. False-alarm rate 1e-4 for each of the two; the control is noise 1.1 times as wide."""

    def alarms(scale):
        clean = torch.tensor([1.3, 0.4, 0.9], dtype=torch.float64).expand(20_000, 3)
        y = LAWS[name].build(scale).sample(clean, torch_generator(3, "noise"))
        v = torch.rand(y.shape, generator=torch_generator(4, "atoms"), dtype=torch.float64).numpy()
        u = LAWS[name].uniforms(y.numpy(), clean.numpy(), v)
        scores = torch.from_numpy(stats.norm.ppf(u.clip(1e-12, 1 - 1e-12)))
        z = moment_z(scores, torch.zeros(3), torch.eye(3, dtype=torch.float64))
        return stats.kstest(u.ravel(), "uniform").pvalue < RATE, bool(z.abs().max() > limit(len(z)))

    assert alarms(1) == (False, False)
    assert alarms(1.1) == (True, True)


@pytest.mark.parametrize("name", LAWS)
def test_slope_is_the_derivative_of_the_log_density(name):
    law = LAWS[name].build(1)
    y, clean = data(law)
    assert name != "saturating" or 0.1 < (y == 1.5).double().mean() < 0.8
    assert name != "poisson" or (y == 0).any()
    clean.requires_grad_()
    (exact,) = torch.autograd.grad(law.log_prob(y, clean).sum(), clean, create_graph=True)
    torch.testing.assert_close(law.slope(y, clean), exact, rtol=1e-9, atol=1e-9)
    h = 1e-6 * torch.eye(3, dtype=torch.float64)
    numeric = torch.stack([law.log_prob(y, clean + d) - law.log_prob(y, clean - d) for d in h], -1) / 2e-6
    torch.testing.assert_close(exact, numeric, rtol=1e-5, atol=1e-5)
    if name != "laplace":  # its slope is a step
        weights = torch.linspace(-1, 1, 60, dtype=torch.float64).reshape(20, 3)
        (second,) = torch.autograd.grad((exact * weights).sum(), clean)
        (closed,) = torch.autograd.grad((law.slope(y, clean) * weights).sum(), clean)
        torch.testing.assert_close(closed, second, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", LAWS)
def test_rows_know_nothing_of_each_other(name):
    law = LAWS[name].build(1)
    y, clean = data(law)
    for ask in (law.log_prob, law.slope):
        whole = ask(y, clean)
        parts = torch.cat([ask(*rows) for rows in zip(y.split(7), clean.split(7))])
        torch.testing.assert_close(whole, parts, rtol=1e-13, atol=1e-13)
        one = torch.cat([ask(y[:1], row[None]) for row in clean])
        torch.testing.assert_close(ask(y[:1], clean), one, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(ask(y, clean[:1]), ask(y, clean[:1].expand(20, 3)), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", LAWS)
def test_results_have_the_dtype_and_shape_of_clean(name):
    law = LAWS[name].build(1)
    y, clean = data(law)
    single = law.sample(clean.float(), torch_generator(0, "noise"))
    assert single.dtype == torch.float32 and single.shape == (20, 3)
    assert torch.equal(single, law.sample(clean.float(), torch_generator(0, "noise")))
    for ask in (law.log_prob, law.slope):
        exact = ask(y.float().double(), clean.float().double())
        for given in (y.float(), y.float().double()):
            found = ask(given, clean.float())
            assert found.dtype == torch.float32
            torch.testing.assert_close(found.double(), exact, rtol=2e-5, atol=2e-5)
    assert law.log_prob(y[:0], clean[:0]).shape == (0,) and law.slope(y[:0], clean[:0]).shape == (0, 3)
    assert law.sample(clean[:0], torch_generator(0, "noise")).shape == (0, 3)


@pytest.mark.parametrize("name", LAWS)
def test_nothing_stays_on_another_device(name):
    """The meta device refuses to be mixed with the CPU; it has no values, which counts and a function's checks need."""
    law, clean = LAWS[name].build(1), torch.empty(4, 3, device="meta")
    if name != "own":
        assert law.log_prob(clean.double(), clean).device == law.slope(torch.empty(4, 3), clean).device == clean.device
    if name != "poisson":
        assert law.sample(clean, torch_generator(0, "noise")).device == clean.device


@pytest.mark.parametrize("name", sorted(set(LAWS) - {"diagonal", "poisson"}))  # these two have arrays of shape (3,)
def test_entries_may_have_any_shape(name):
    law = LAWS[name].build(1)
    y, clean = data(law)
    spread = law.sample(clean[..., None], torch_generator(0, "noise"))
    assert torch.equal(spread[..., 0], law.sample(clean, torch_generator(0, "noise")))
    torch.testing.assert_close(law.log_prob(y[..., None], clean[..., None]), law.log_prob(y, clean))
    torch.testing.assert_close(law.slope(y[..., None], clean[..., None])[..., 0], law.slope(y, clean))


@pytest.mark.parametrize("name", LAWS)
def test_laws_compare_print_and_survive_a_pickle(name):
    law, same, other = (LAWS[name].build(s) for s in (1, 1, 1.0000001))
    if name == "own":  # functions compare by what they are
        same, other = fokker.LogDensity(law._log_prob, law._sample), fokker.LogDensity(law._log_prob)
    assert law == same and hash(law) == hash(same) and repr(law) == repr(same)
    assert law != other and repr(law) != repr(other) and law != "law"
    if name != "own":
        y, clean = data(law)
        law.log_prob(y.float(), clean.float())
        again = pickle.loads(pickle.dumps(law))
        assert again == law and torch.equal(again.slope(y, clean), law.slope(y, clean))


# --- Gaussian noise


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_gaussian_laws_agree_with_their_dense_covariance(name, shape):
    likelihood, covariance = CASES[name]
    if name in ("diagonal", "rows"):
        likelihood = fokker.Gaussian(likelihood.std.reshape(likelihood.std.shape[:-1] + shape))
    y, clean = torch.randn(2, 8, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = MultivariateNormal(clean.flatten(1), covariance).log_prob(y.flatten(1))
    torch.testing.assert_close(likelihood.log_prob(y, clean), exact, rtol=1e-12, atol=1e-12)
    dense = (covariance @ y.reshape(8, 3, 1)).reshape(y.shape)
    torch.testing.assert_close(likelihood.apply(y), dense, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(likelihood.solve(dense), y, rtol=1e-12, atol=1e-12)
    assert torch.equal(likelihood.slope(y, clean), likelihood.solve(y - clean))
    if name == "full":
        assert likelihood.variance is None
    else:
        diagonal = covariance.diagonal(dim1=-2, dim2=-1).reshape(*covariance.shape[:-2], *shape)
        torch.testing.assert_close(likelihood.variance.expand(diagonal.shape), diagonal, rtol=1e-15, atol=0)


def test_rows_may_have_deviations_of_their_own():
    law, clean = CASES["rows"][0], torch.zeros(8, 3, dtype=torch.float64)
    noise = fokker.Gaussian(1.0).sample(clean, torch_generator(0, "noise"))
    assert torch.equal(law.sample(clean, torch_generator(0, "noise")), ROWS * noise)
    torch.testing.assert_close(law.log_prob(noise, clean[:1]), law.log_prob(noise, clean))
    for wrong in (clean[:4], clean[:, :2], clean[..., None]):
        for ask in (lambda v: law.log_prob(v, v), law.apply, law.solve, law.check):
            with pytest.raises(InputError, match=r"^noise: got shape \(8, 3\), one number, shape .* is accepted"):
                ask(wrong)


def test_data_without_an_axis_of_their_own():
    y, clean = torch.randn(2, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for law in (fokker.Gaussian(0.7), fokker.Gaussian(covariance=[[0.49]]), fokker.Gaussian([0.7] * 6)):
        exact = stats.norm.logpdf(y, clean, 0.7)
        np.testing.assert_allclose(law.log_prob(y, clean), exact, rtol=1e-13)
        torch.testing.assert_close(law.slope(y, clean), (y - clean) / 0.49, rtol=1e-13, atol=0)
        assert law.sample(clean, torch_generator(0, "noise")).shape == (6,)


def test_a_covariance_is_factorised_once(monkeypatch):
    count, factorise = [], torch.linalg.cholesky_ex
    monkeypatch.setattr(torch.linalg, "cholesky_ex", lambda r: count.append(0) or factorise(r))
    monkeypatch.setattr(torch.linalg, "cholesky", lambda r: pytest.fail("factorised in a call"))
    given = R.clone()
    law, clean = fokker.Gaussian(covariance=given), torch.ones(4, 3)
    deviations = STDS.clone()
    diagonal = fokker.Gaussian(deviations)
    for array in (given, deviations):
        array.zero_()  # what the caller does with it later is no concern of the law
    assert diagonal == fokker.Gaussian(STDS)
    for v in (clean, clean.double()):
        law.sample(v, torch_generator(0, "noise"))
        assert law.log_prob(v, v).isfinite().all() and law.slope(v, v).dtype == law.apply(v).dtype == v.dtype
    assert len(count) == 1
    with pytest.raises(InputError, match=r"^covariance: got \(3, 3\), \(2, 2\) is accepted"):
        law.check(clean[:, :2])


@pytest.mark.parametrize("law", [fokker.Gaussian(0.0), fokker.Gaussian([0.0, 0.0, 0.0])])
def test_no_noise_draws_the_data_and_has_no_density(law):
    clean = torch.ones(2, 3)
    assert torch.equal(law.sample(clean, torch_generator(0, "noise")), clean)
    assert not law.apply(clean).any()
    for ask in (lambda v: law.log_prob(v, v), lambda v: law.slope(v, v), law.solve):
        with pytest.raises(InputError, match="noise: got 0, a density needs"):
            ask(clean)


# --- Sensors


def test_log_normal_at_and_below_zero():
    law = fokker.LogNormal(0.2)
    clean = torch.tensor([[0.0], [-1e-9], [0.0], [-1e-9], [1.0], [1.0]], requires_grad=True)
    assert (law.sample(clean.detach()[:4], torch_generator(0, "noise")) == 0).all()
    y = torch.tensor([[0.0], [0.0], [1.0], [1.0], [0.0], [-1.0]])
    log_prob = law.log_prob(y, clean)
    assert log_prob.tolist() == [0.0, 0.0] + [-math.inf] * 4
    assert not law.slope(y, clean).any()
    assert not torch.autograd.grad(log_prob[:2].sum(), clean)[0].any()
    law.check(y[:5])
    with pytest.raises(InputError, match=r"^y: got -1.0 at \[5, 0\], finite numbers >= 0 are accepted"):
        law.check(y)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saturated_readings_keep_their_atom_through_single_precision(dtype):
    law, clean = fokker.Saturating(0.1, 0.7), torch.ones(5, 2, dtype=torch.float64)
    y = law.sample(clean, torch_generator(0, "noise")).clamp(min=0.7).float().to(dtype)
    atom = torch.special.log_ndtr(torch.tensor(3.0, dtype=torch.float64))
    torch.testing.assert_close(law.log_prob(y, clean), 2 * atom.expand(5), rtol=1e-6, atol=1e-6)
    assert (law.log_prob(y + 1e-3, clean) == -math.inf).all() and not law.slope(y + 1e-3, clean).any()
    law.check(y)
    with pytest.raises(InputError, match=r"^y: got 0.7\d* at \[0, 0\], finite numbers up to the level 0.7 are"):
        law.check(y + 1e-3)


@pytest.mark.parametrize("law", [fokker.LogNormal(0.0), fokker.Saturating(0.0, 0.5)])
def test_other_laws_without_noise_draw_the_data_and_have_no_density(law):
    clean = torch.tensor([[0.2, 0.4], [0.5, 0.3]])
    assert torch.equal(law.sample(clean, torch_generator(0, "noise")), clean)
    for ask in (law.log_prob, law.slope):
        with pytest.raises(InputError, match="noise"):
            ask(clean, clean)
