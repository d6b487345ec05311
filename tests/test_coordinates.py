"""Coordinates: maps and their inverses, and posterior coordinates against Gaussian conditioning written out.

Statistical limits: |z| of `exact.limit`, false-alarm rate 1e-4 for each test.
"""

import math

import numpy as np
import pytest
import torch

from exact import limit, moment_z
from fokker import posterior_coordinates
from fokker.coordinates import estimate, moments_of, restore
from fokker.errors import InputError
from fokker.posterior_coordinates import Posterior
from fokker.rng import torch_generator
from fokker.states import observed

F64 = torch.float64
D_X, D_Y = 3, 4
KINDS = ["posterior", "standard", "minmax", "none"]
each_kind = pytest.mark.parametrize("kind", KINDS)


def joint(seed=0, d_x=D_X, d_y=D_Y):
    """Mean and covariance of a correlated Gaussian (x, y) whose entries have very different sizes."""
    rng = np.random.default_rng(seed)
    size = d_x + d_y
    a = rng.normal(size=(size, size)) + np.eye(size)
    scale = 10.0 ** rng.uniform(-2, 2, size)
    return rng.normal(size=size) * scale, scale[:, None] * (a @ a.T / size) * scale


def exact(seed=0, x_shape=(D_X,), y_shape=(D_Y,)):
    mean, covariance = (torch.from_numpy(v) for v in joint(seed, math.prod(x_shape), math.prod(y_shape)))
    split = math.prod(x_shape)
    return Posterior(mean[:split].reshape(x_shape), mean[split:].reshape(y_shape), covariance)


def draw(count, seed=1, x_shape=(D_X,), y_shape=(D_Y,)):
    split = math.prod(x_shape)
    mean, covariance = joint(0, split, math.prod(y_shape))
    both = torch.from_numpy(np.random.default_rng(seed).multivariate_normal(mean, covariance, count, method="cholesky"))
    return both[:, :split].reshape(count, *x_shape), both[:, split:].reshape(count, *y_shape)


def conditioned(y, seen):
    """Mean and covariance of x given the entries `seen` of y, by numpy's solver."""
    mean, covariance = joint()
    at = D_X + np.flatnonzero(seen)
    gain = np.linalg.solve(covariance[np.ix_(at, at)], covariance[at, :D_X]).T
    return mean[:D_X] + gain @ (y - mean[at]), covariance[:D_X, :D_X] - gain @ covariance[at, :D_X]


def dx_dxi(mapping, cond, size=D_X):
    """The Jacobian of `inverse` by autograd, for a single row of conditions."""
    return torch.autograd.functional.jacobian(
        lambda xi: mapping.inverse(xi[None], cond)[0], torch.zeros(size, dtype=F64)
    )


# --- All kinds


@each_kind
@pytest.mark.parametrize(("x_shape", "y_shape"), [((3,), (4,)), ((2, 2), (3, 2)), ((1,), (1,))])
@pytest.mark.parametrize("missing", [False, True])
def test_inverse_undoes_forward(kind, x_shape, y_shape, missing):
    x, y = draw(300, x_shape=x_shape, y_shape=y_shape)
    cond = {"y": y}
    if missing:
        cond["omega"] = torch.rand(y.shape, generator=torch_generator(0, "omega")) > 0.3
    mapping = estimate(kind, x, observed(cond)[0])
    xi = mapping.forward(x, cond)
    assert xi.shape == x.shape and mapping.name == kind
    torch.testing.assert_close(mapping.inverse(xi, cond), x, rtol=1e-9, atol=1e-12)
    restored = restore(kind, mapping.tensors())
    assert torch.equal(restored.forward(x, cond), xi)
    assert torch.equal(restored.features(cond), mapping.features(cond))


@each_kind
def test_log_det_is_that_of_the_jacobian(kind):
    x, y = draw(200)
    mapping = estimate(kind, x, y)
    for row in range(2):
        cond = {"y": y[row : row + 1]}
        jacobian = dx_dxi(mapping, cond)
        assert float(mapping.log_det(cond)) == pytest.approx(float(torch.linalg.slogdet(jacobian)[1]), abs=1e-9)


@each_kind
def test_dtype_is_kept_and_features_are_single(kind):
    x, y = draw(200)
    mapping = estimate(kind, x, y)
    for dtype in (torch.float32, F64):
        xi = mapping.forward(x.to(dtype), {"y": y})
        assert xi.dtype == dtype and mapping.inverse(xi, {"y": y}).dtype == dtype
    assert mapping.features({"y": y}).dtype == torch.float32


@each_kind
def test_features_tell_what_is_observed_and_hide_what_is_not(kind):
    x, y = draw(200)
    mapping = estimate(kind, x, y)
    omega = torch.rand(y.shape, generator=torch_generator(0, "omega")) > 0.5
    by_omega = mapping.features({"y": y, "omega": omega})
    assert torch.equal(by_omega[:, -D_Y:], omega.float())
    assert by_omega.shape[1] == mapping.features({"y": y}).shape[1] + D_Y
    assert by_omega.isfinite().all()
    # Whatever stands where nothing is observed changes nothing: not the features and not the map.
    other = torch.where(omega, y, 1e6)
    absent = torch.where(omega, y, torch.nan)
    for hidden in (other, absent):
        assert torch.equal(mapping.features({"y": hidden, "omega": omega}), by_omega)
        xi = mapping.forward(x, {"y": hidden, "omega": omega})
        assert torch.equal(xi, mapping.forward(x, {"y": y, "omega": omega}))
    assert torch.equal(mapping.forward(x, {"y": absent}), mapping.forward(x, {"y": y, "omega": omega}))


@pytest.mark.parametrize("kind", ["posterior", "standard", "minmax"])
def test_entries_that_never_vary_are_refused(kind):
    x, y = draw(100)
    constant_x, constant_y = x.clone(), y.clone()
    constant_x[:, 1] = 3.0
    constant_y[:, 2] = 0.0
    with pytest.raises(InputError, match=r"x: entries 1 never vary"):
        estimate(kind, constant_x, y)
    with pytest.raises(InputError, match=r"y: entries 2 never vary"):
        estimate(kind, x, constant_y)
    constant_y[:, 2] = torch.nan
    with pytest.raises(InputError, match=r"y: entries 2 never vary"):
        estimate(kind, x, constant_y)


def test_unknown_kinds_are_refused():
    with pytest.raises(InputError, match="coordinates"):
        estimate("polar", *draw(20))
    with pytest.raises(InputError, match="coordinates"):
        restore("polar", {})


def test_standard_and_minmax_written_out():
    x, y = draw(500)
    y[torch.rand(y.shape, generator=torch_generator(1, "omega")) > 0.8] = torch.nan
    standard, minmax = estimate("standard", x, y), estimate("minmax", x, y)
    xi = standard.forward(x, {})
    torch.testing.assert_close(xi.mean(0), torch.zeros(D_X, dtype=F64), rtol=0, atol=1e-12)
    torch.testing.assert_close(xi.std(0, correction=0), torch.ones(D_X, dtype=F64), rtol=1e-12, atol=0)
    xi = minmax.forward(x, {})
    torch.testing.assert_close(xi.amin(0), torch.zeros(D_X, dtype=F64), rtol=0, atol=1e-12)
    torch.testing.assert_close(xi.amax(0), torch.ones(D_X, dtype=F64), rtol=0, atol=1e-12)
    column = y[:, 0][~y[:, 0].isnan()]
    feature = minmax.features({"y": y})[:, 0]
    expected = ((y[:, 0] - column.min()) / (column.max() - column.min())).nan_to_num()
    torch.testing.assert_close(feature, expected.float())


# --- Posterior coordinates


def test_they_whiten_a_linear_gaussian_problem():
    """xi ~ N(0, I), independent of y: from the true covariance, so all z are standard normal."""
    x, y = draw(20_000)
    xi = exact().forward(x, {"y": y})
    mean, covariance = (torch.from_numpy(v) for v in joint())
    white_y = torch.linalg.solve_triangular(
        torch.linalg.cholesky(covariance[D_X:, D_X:]), (y - mean[D_X:]).T, upper=False
    ).T
    z = moment_z(torch.cat([xi, white_y], 1), torch.zeros(D_X + D_Y, dtype=F64), torch.eye(D_X + D_Y, dtype=F64))
    assert z.abs().max() < limit(len(z))
    wrong = Posterior(exact().mean_x, exact().mean_y, exact().covariance * 1.1)
    assert moment_z(
        wrong.forward(x, {"y": y}), torch.zeros(D_X, dtype=F64), torch.eye(D_X, dtype=F64)
    ).abs().max() > limit(len(z))


def test_estimated_from_pairs_they_whiten_these_pairs_to_rounding():
    x, y = draw(2000)
    xi = estimate("posterior", x, y).forward(x, {"y": y})
    torch.testing.assert_close(xi.T @ xi / len(xi), torch.eye(D_X, dtype=F64), rtol=0, atol=1e-8)
    centred = (y - y.mean(0)) / y.std(0)
    torch.testing.assert_close(xi.T @ centred / len(xi), torch.zeros(D_X, D_Y, dtype=F64), rtol=0, atol=1e-8)


@pytest.mark.parametrize("pattern", [(1, 1, 1, 1), (1, 0, 1, 1), (0, 1, 0, 0), (0, 0, 0, 0)])
def test_missing_entries_are_conditioning_on_the_others(pattern):
    seen = np.array(pattern, bool)
    _, y = draw(1, seed=3)
    mean, covariance = conditioned(y[0].numpy()[seen], seen)
    for cond in (
        {"y": torch.where(torch.from_numpy(seen), y, torch.nan)},
        {"y": y, "omega": torch.from_numpy(seen)[None]},
    ):
        mapping = exact()
        size = torch.from_numpy(np.sqrt(np.diag(joint()[1])[:D_X]))
        torch.testing.assert_close(mapping.mean(cond)[0] / size, torch.from_numpy(mean) / size, rtol=0, atol=1e-8)
        factor = dx_dxi(mapping, cond) / size[:, None]
        expected = torch.from_numpy(covariance) / size / size[:, None]
        torch.testing.assert_close(factor @ factor.T, expected, rtol=0, atol=1e-9)
        zero = mapping.inverse(torch.zeros(1, D_X, dtype=F64), cond)
        torch.testing.assert_close(zero, mapping.mean(cond), rtol=1e-12, atol=1e-12)


def test_rows_with_different_patterns_do_not_mix():
    x, y = draw(40)
    omega = torch.rand(y.shape, generator=torch_generator(0, "omega")) > 0.4
    mapping, cond = exact(), {"y": y, "omega": omega}
    whole, log_det = mapping.forward(x, cond), mapping.log_det(cond)
    for row in range(40):
        one = {"y": y[row : row + 1], "omega": omega[row : row + 1]}
        torch.testing.assert_close(mapping.forward(x[row : row + 1], one)[0], whole[row], rtol=1e-10, atol=1e-10)
        assert float(mapping.log_det(one)) == pytest.approx(float(log_det[row]), abs=1e-10)


def test_more_patterns_than_are_kept_change_nothing(monkeypatch):
    x, y = draw(40)
    cond = {"y": y, "omega": torch.rand(y.shape, generator=torch_generator(0, "omega")) > 0.4}
    whole = exact().forward(x, cond)
    monkeypatch.setattr(posterior_coordinates, "_PATTERNS", 2)
    small = exact()
    assert torch.equal(small.forward(x, cond), whole) and torch.equal(small.forward(x, cond), whole)
    assert len(small._known) <= 2


def singular(rank):
    """x of which `rank` of three directions remain uncertain given y."""
    rng = np.random.default_rng(0)
    b = rng.normal(size=(3, 4))
    noise = np.zeros((3, 3))
    noise[range(rank), range(rank)] = 0.5
    c_yy = np.eye(4) + 0.3
    c_xy = b @ c_yy
    covariance = np.block([[b @ c_yy @ b.T + noise, c_xy], [c_xy.T, c_yy]])
    return Posterior(torch.zeros(3, dtype=F64), torch.zeros(4, dtype=F64), torch.from_numpy(covariance)), b


@pytest.mark.parametrize("rank", [0, 1, 2, 3])
def test_directions_without_variance_are_reported(rank):
    mapping, b = singular(rank)
    y = torch.from_numpy(np.random.default_rng(1).normal(size=(5, 4)))
    cond = {"y": y}
    assert mapping.rank(cond) == [rank]
    torch.testing.assert_close(mapping.mean(cond), y @ torch.from_numpy(b).T, rtol=1e-7, atol=1e-7)
    if rank == 3:
        assert mapping.log_det(cond).shape == (5,)
    else:
        with pytest.raises(InputError, match=f"varies in {rank} of 3 directions"):
            mapping.log_det(cond)
    # Sampling works: with xi of order one, what is known exactly stays within the stated floor.
    x = mapping.inverse(torch.ones(5, 3, dtype=F64), cond)
    known = (x - mapping.mean(cond))[:, rank:]
    assert rank == 3 or known.abs().max() < 1e-4
    torch.testing.assert_close(mapping.inverse(mapping.forward(x, cond), cond), x, rtol=1e-9, atol=1e-9)


def test_sensors_that_repeat_each_other_are_one_sensor():
    """Two identical entries of y: a singular covariance of y, and the conditional mean of the single sensor."""
    x, y = draw(1000)
    once, twice = estimate("posterior", x, y), estimate("posterior", x, torch.cat([y, y[:, :1]], 1))
    cond, both = {"y": y}, {"y": torch.cat([y, y[:, :1]], 1)}
    scale = x.std(0)
    torch.testing.assert_close(twice.mean(both) / scale, once.mean(cond) / scale, rtol=0, atol=1e-6)


def test_shrinkage_with_more_dimensions_than_pairs():
    """Ledoit and Wolf's intensity, computed pair by pair."""
    generator = torch_generator(0, "wide")
    x, y = torch.randn(15, 12, generator=generator, dtype=F64), torch.randn(15, 20, generator=generator, dtype=F64)
    y = y + x[:, :1]
    mapping = estimate("posterior", x, y)
    both = torch.cat([x, y], 1)
    std = both.std(0, correction=0)
    s = ((both - both.mean(0)) / std).numpy()
    correlation = s.T @ s / 15
    distance = ((correlation - np.eye(32)) ** 2).sum()
    spread = sum(((np.outer(row, row) - correlation) ** 2).sum() for row in s) / 15**2
    intensity = min(1.0, spread / distance)
    assert 0.1 < intensity < 0.99
    expected = std.numpy()[:, None] * ((1 - intensity) * correlation + intensity * np.eye(32)) * std.numpy()
    torch.testing.assert_close(mapping.covariance, torch.from_numpy(expected), rtol=1e-9, atol=1e-9)
    xi = mapping.forward(x, {"y": y})
    assert mapping.rank({"y": y}) == [12] and xi.isfinite().all()
    torch.testing.assert_close(mapping.inverse(xi, {"y": y}), x, rtol=1e-8, atol=1e-8)


def test_many_pairs_are_not_shrunk():
    x, y = draw(200)
    expected = torch.cov(torch.cat([x, y], 1).T, correction=0)
    torch.testing.assert_close(estimate("posterior", x, y).covariance, expected, rtol=1e-9, atol=1e-12)


def test_incomplete_pairs_are_fitted_by_most_likelihood():
    """At the maximum the gradient of the observed log-likelihood vanishes; here it is compared with that of the start,
    the pairwise estimate, and the likelihood is higher than that of the truth."""
    x, y = draw(400)
    omega = torch.rand(y.shape, generator=torch_generator(2, "omega")) > 0.4
    fitted = estimate("posterior", x, torch.where(omega, y, torch.nan))
    both, seen = torch.cat([x, y], 1), torch.cat([torch.ones_like(x, dtype=torch.bool), omega], 1)

    def likelihood(mean, covariance):
        total = torch.zeros((), dtype=F64)
        for pattern in seen.unique(dim=0):
            rows = both[(seen == pattern).all(1)][:, pattern]
            law = torch.distributions.MultivariateNormal(mean[pattern], covariance[pattern][:, pattern])
            total = total + law.log_prob(rows).sum()
        return total

    size = torch.from_numpy(np.sqrt(np.diag(joint()[1])))
    mean = torch.cat([fitted.mean_x, fitted.mean_y])
    found = float(likelihood(mean, fitted.covariance))
    truth = float(likelihood(*(torch.from_numpy(v) for v in joint())))
    # Twice the difference is chi-squared with as many degrees of freedom as parameters, 7 + 28: between 0 and 85 but
    # with a probability of 1e-5.
    assert 0 < 2 * (found - truth) < 85
    for scale in (0.98, 1.02):  # no better in directions across all parameters
        assert float(likelihood(mean, scale * fitted.covariance)) < found
        shifted = mean + (scale - 1) * size
        assert float(likelihood(shifted, fitted.covariance)) < found


@pytest.mark.parametrize("count", [60, 150, 3000])
def test_strongly_correlated_entries_with_gaps_keep_coordinates_of_order_one(count):
    """Smooth fields and overlapping sensors, 30 % of them off: pairwise covariances have negative eigenvalues here, and
    coordinates made from them are 1e5 times too large. On fresh data xi keeps a spread between 0.2 and 2 (shrunk
    towards no correlation where pairs are few), and within 15 % of 1 where they are many."""
    rng, t = np.random.default_rng(0), np.linspace(0, 1, 12)
    covariance = np.exp(-((t[:, None] - t) ** 2) / (2 * 0.2**2)) + 1e-4 * np.eye(12)
    sensors = np.exp(-((np.linspace(0, 1, 16)[:, None] - t) ** 2) / (2 * 0.1**2)) / 5

    def pairs(count):
        x = rng.multivariate_normal(np.zeros(12), covariance, count)
        y = x @ sensors.T + 0.02 * rng.normal(size=(count, 16))
        y[rng.random(y.shape) < 0.3] = np.nan
        return torch.from_numpy(x), torch.from_numpy(y)

    mapping = estimate("posterior", *pairs(count))
    x, y = pairs(1000)
    spread = mapping.forward(x, {"y": y}).std(0)
    low, high = (0.85, 1.15) if count == 3000 else (0.2, 2.0)
    assert float(spread.min()) > low and float(spread.max()) < high
    assert set(mapping.rank({"y": y})) == {12}


def test_too_many_entries_are_refused():
    with pytest.raises(InputError, match="2000"):
        estimate("posterior", torch.zeros(3, 1500), torch.zeros(3, 501))


def test_features_are_whitened():
    x, y = draw(4000)
    features = estimate("posterior", x, y).features({"y": y}).double()
    assert features.shape == (4000, D_X + D_Y)
    axes = features[:, D_X:]
    torch.testing.assert_close(axes.T @ axes / 4000, torch.eye(D_Y, dtype=F64), rtol=0, atol=1e-4)
    assert features[:, :D_X].std(0).max() < 1.01  # the conditional mean varies less than x


# --- Moments of what is diffused


def test_moments_of_vectors_and_of_fields():
    x, _ = draw(500)
    moments = moments_of(x)
    torch.testing.assert_close(moments.mean, x.mean(0))
    torch.testing.assert_close(moments.factor @ moments.factor.T, torch.cov(x.T), rtol=1e-9, atol=1e-9)
    single = moments_of(x[:, :1])
    torch.testing.assert_close(single.factor @ single.factor.T, x[:, :1].var(0)[None], rtol=1e-9, atol=1e-9)
    field = x.reshape(-1, 3, 1)
    torch.testing.assert_close(moments_of(field).factor, field.std(0))
    few = x[:3]
    torch.testing.assert_close(moments_of(few).factor, few.std(0))


# --- Squares of y


def bent(count, seed=0, y_shape=(D_Y,)):
    """x linear in y and its squares, with correlated Gaussian noise; y of very different sizes. Returns x, y, mean."""
    rng = np.random.default_rng(100)
    size = math.prod(y_shape)
    scale, centre = 10.0 ** rng.uniform(-2, 2, size), rng.normal(size=size)
    linear, square, noise = rng.normal(size=(D_X, size)), rng.normal(size=(D_X, size)), rng.normal(size=(D_X, D_X))
    rng = np.random.default_rng([101, seed])
    u = rng.normal(size=(count, size))
    mean = u @ linear.T + 0.5 * u**2 @ square.T
    x, y = mean + 0.3 * rng.normal(size=(count, D_X)) @ noise.T, (centre + u) * scale
    return torch.from_numpy(x), torch.from_numpy(y).reshape(count, *y_shape), torch.from_numpy(mean)


def test_squares_are_taken_in_where_x_bends_with_y():
    """xi ~ N(0, I), independent of y and its squares, on fresh pairs: z within the limit of 40 of them.

    20,000 pairs leave the coefficients wrong by about 1/140 of what a correlation of the fresh 20,000 can show, hence
    the factor sqrt 2. The linear mean is the negative control.
    """
    x, y, _ = bent(20_000)
    mapping = estimate("posterior", x, y)
    assert mapping.squares is not None
    x, y, _ = bent(20_000, seed=1)
    u = (y - y.mean(0)) / y.std(0)
    n = D_X + mapping.mean_y.numel()
    linear = Posterior(mapping.mean_x, mapping.mean_y, mapping.covariance[:n, :n])
    found = {}
    for name, kind in (("squares", mapping), ("linear", linear)):
        xi = kind.forward(x, {"y": y})
        assert abs(float(xi.square().mean()) - 1) < limit(2) * 2**0.5 * (2 / xi.numel()) ** 0.5 or name == "linear"
        cross = xi.T @ torch.cat([u, (u.square() - 1) / 2**0.5], 1) / len(xi)
        found[name] = float((cross * (len(xi) / 2) ** 0.5).abs().max())
    assert found["squares"] < limit(2 * D_X * D_Y), found
    assert found["linear"] > limit(2 * D_X * D_Y), found


def test_linear_data_get_no_squares():
    """The gain is chi-squared with 12 degrees of freedom, and has to pass 12 log 500 = 75: about 4e-11 a try."""
    for seed in range(30):
        x, y = draw(500, seed)
        assert estimate("posterior", x, y).squares is None


def test_squares_need_complete_and_many_pairs_and_entries_that_have_them():
    x, y, _ = bent(400)
    assert estimate("posterior", x, y).squares is not None
    gone = y.clone()
    gone[0, 0] = torch.nan
    assert estimate("posterior", x, gone).squares is None
    assert estimate("posterior", x[:50], y[:50]).squares is None
    assert estimate("posterior", x, torch.where(y > y.mean(0), 1.0, -1.0)).squares is None


@pytest.mark.parametrize("pattern", [(1, 1, 1, 1), (1, 0, 1, 1), (0, 0, 0, 0)])
def test_with_squares_missing_entries_are_conditioning_on_the_others(pattern):
    """Regression on the observed entries and their squares, by numpy's least squares on the same pairs."""
    x, y, _ = bent(5000, y_shape=(2, 2))
    mapping = estimate("posterior", x, y)
    seen = np.array(pattern, bool)
    flat = y.flatten(1).numpy()[:, seen]
    u = (flat - flat.mean(0)) / flat.std(0)
    design = np.concatenate([np.ones((len(x), 1)), u, u**2], 1)
    weights = np.linalg.lstsq(design, x.numpy(), rcond=None)[0]
    cond = {"y": y, "omega": torch.from_numpy(seen.reshape(2, 2)).expand_as(y)}
    np.testing.assert_allclose(mapping.mean(cond).numpy(), design @ weights, rtol=1e-7, atol=1e-7)
    rest = x.numpy() - design @ weights
    np.testing.assert_allclose(mapping.std(cond)[0].numpy(), rest.std(0), rtol=1e-6)
    xi = mapping.forward(x, cond)
    torch.testing.assert_close(mapping.inverse(xi, cond), x, rtol=1e-9, atol=1e-9)
    jacobian = dx_dxi(mapping, {name: v[:1] for name, v in cond.items()})
    assert float(mapping.log_det(cond)[0]) == pytest.approx(float(torch.linalg.slogdet(jacobian)[1]), abs=1e-8)


def test_squares_end_where_the_training_pairs_do():
    """Ten and a hundred times beyond them the mean differs by its linear part alone."""
    x, y, _ = bent(2000)
    mapping = estimate("posterior", x, y)
    far = [mapping.mean({"y": y.mean(0, keepdim=True) + k * 10 * y.std(0)})[0] for k in (1, 2, 3)]
    torch.testing.assert_close(far[2] - far[1], far[1] - far[0], rtol=1e-9, atol=1e-9)


def test_squares_survive_the_disk():
    x, y, _ = bent(2000)
    mapping = estimate("posterior", x, y)
    again = restore("posterior", mapping.tensors())
    assert torch.equal(again.forward(x, {"y": y}), mapping.forward(x, {"y": y}))
    assert torch.equal(again.features({"y": y}), mapping.features({"y": y}))
