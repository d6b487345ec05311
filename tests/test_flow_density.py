"""Log densities by the ODE, against closed forms and by quadrature.

Tolerance: a local error of log p is allowed rtol |log p| + atol in each step; between the levels of these models log p
moves by at most d log(rho_max / rho_min) = 18.4, and about 30 steps are taken. Their errors do not all have one sign:
19.4 sqrt(30) is about `TOLERANCE` = 100 times rtol = atol, from 1e-4 down, where the error estimates themselves hold.
"""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal

import fokker
from exact import PROCESSES, Fixed, Frozen, Scaled, gaussian, limit, mixture, mixture_draw, wrong
from fokker import flow_density
from fokker.errors import InputError
from fokker.posterior.recipes import DEFAULT
from fokker.reference.gaussian import LinearGaussian
from fokker.rng import Rows
from fokker.score import Denoiser, GaussianScore, Joint, MixtureScore
from fokker.states import Moments, kept_entries
from fokker.training import TrainSettings

F64 = torch.float64
TOLERANCE = 100
NOISES = {"white": fokker.White(), "correlated": Fixed()}
each_process = pytest.mark.parametrize("process", PROCESSES)
each_noise = pytest.mark.parametrize("noise", NOISES)
X = mixture_draw(60, seed=0)


class ExactStart(MixtureScore):
    """A mixture whose first draw is its own law at that level, not the Gaussian of its moments."""

    def start_log_prob(self, x_t, t, cond):
        return self.log_prob(x_t, t)


class ScaledExactStart(Scaled, ExactStart):
    """The same with 0.9 times the right score."""


class Cut(ExactStart):
    """A tenth of its denoised value is hidden from differentiation."""

    def denoised(self, z, rho, cond):
        d = super().denoised(z, rho, cond)
        return 0.9 * d + 0.1 * d.detach()


def at_lowest(model, x):
    """The exact log density of x_0 + rho_min z."""
    t = model.time_range[0]
    m = model.process.scale(t)
    return model.log_prob(x * m, t) + x.shape[1] * m.log()


def off(model, x=X, **given):
    return float((fokker.log_prob(model, x, **given) - at_lowest(model, x)).abs().max())


# --- Closed forms


@each_process
@each_noise
def test_gaussian(process, noise):
    """The first draw is exact here."""
    assert off(gaussian(replace(PROCESSES[process], noise=NOISES[noise]))) < TOLERANCE * 1e-5


@pytest.mark.parametrize("process", ["ve_linear", "vp1.5"])  # on one range of rho all agree, see below
@each_noise
def test_mixture_and_its_error_follows_the_tolerance(process, noise):
    model = wrong(ExactStart, mixture(replace(PROCESSES[process], noise=NOISES[noise])))
    previous = math.inf
    for tolerance in (1e-4, 1e-6, 1e-7):
        error = off(model, rtol=tolerance, atol=tolerance)
        assert error < TOLERANCE * tolerance and error < previous / 5
        previous = error


def test_the_density_of_the_first_draw_is_that_of_what_is_really_drawn():
    """With a Gaussian first draw, log p is off by log N(z) - log p(z) at the end of the path, for these below 1 %."""
    right, drawn = wrong(ExactStart, mixture(PROCESSES["vp2"])), mixture(PROCESSES["vp2"])
    gap = fokker.log_prob(drawn, X) - fokker.log_prob(right, X)  # on the same path, with the same errors
    assert 1e-5 < gap.abs().max() < 0.01


@pytest.mark.parametrize("kind", [ScaledExactStart, Cut])
def test_control_a_wrong_model_is_off(kind):
    assert off(wrong(kind, mixture(PROCESSES["vp1.5"]))) > 100 * TOLERANCE * 1e-5


def test_single_precision():
    model = mixture(PROCESSES["vp2"], torch.float32)
    double = fokker.log_prob(mixture(PROCESSES["vp2"]), X)
    found = fokker.log_prob(model, X)
    assert found.dtype == F64
    assert (found - double).abs().max() < TOLERANCE * 1e-5


@each_noise
def test_all_processes_agree(noise):
    """On one range of rho they are one algorithm."""
    found = []
    for process in PROCESSES.values():
        model = mixture(replace(process, noise=NOISES[noise]))
        model.rho_range = (model.rho_range[0], 15.0)
        found.append(fokker.log_prob(model, X[:5]))
    for log in found[1:]:
        torch.testing.assert_close(log, found[0], rtol=1e-8, atol=1e-8)


@each_noise
@pytest.mark.parametrize("kind", ["number", "entries", "matrix"])
def test_moments_of_every_kind(noise, kind):
    factor = {
        "number": torch.tensor(0.6, dtype=F64),
        "entries": torch.tensor([0.5, 1.2], dtype=F64),
        "matrix": torch.tensor([[1.0, 0.0], [0.4, 0.3]], dtype=F64),
    }[kind]
    mean = torch.tensor([1.0, -1.0], dtype=F64)
    square = factor @ factor.T if kind == "matrix" else torch.diag((factor**2).expand(2))
    c = NOISES[noise].apply(torch.eye(2, dtype=F64))
    exact = MultivariateNormal(mean, square + 4 * c).log_prob(X)
    torch.testing.assert_close(Moments(mean, factor).log_prob(X, 2.0, NOISES[noise], {}), exact)


def test_states_of_any_shape():
    """(B, 2, 3) as white noise sees it: an image."""
    mean, std = torch.zeros(2, 3, dtype=F64), torch.arange(1.0, 7.0, dtype=F64).reshape(2, 3)

    class Image(Frozen):
        def denoised(self, z, rho, cond):
            return z * std**2 / (std**2 + rho.reshape(-1, 1, 1) ** 2)

    model = Image(PROCESSES["vp1"], torch.zeros(2, 3, dtype=F64))
    model.moments = Moments(mean, std)
    x = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    exact = torch.distributions.Normal(mean, (std**2 + 1e-6).sqrt()).log_prob(x).sum((1, 2))
    assert (fokker.log_prob(model, x) - exact).abs().max() < 3 * TOLERANCE * 1e-5  # three times the entries


# --- Quadrature: the trapezoidal rule is exact to rounding on these smooth densities


def line():
    one = torch.tensor([[-1.0], [1.5]], dtype=F64)
    covariances = torch.tensor([[[0.3]], [[0.1]]], dtype=F64)
    return MixtureScore(PROCESSES["vp1.5"], [0.4, 0.6], one, covariances)


GRID_1 = torch.linspace(-5, 5, 101, dtype=F64)[:, None]
AXIS = torch.linspace(-4.5, 4.5, 46, dtype=F64)
GRID_2 = torch.cartesian_prod(AXIS, AXIS)


def integral(log, cell):
    return float(log.exp().sum()) * cell


def test_it_integrates_to_one():
    """The flow carries a density whatever the score is: a wrong score changes the density, not its mass."""
    assert integral(fokker.log_prob(line(), GRID_1), 0.1) == pytest.approx(1, abs=TOLERANCE * 1e-5)
    for kind in (MixtureScore, Scaled):
        model = wrong(kind, mixture(PROCESSES["vp1.5"]))
        assert integral(fokker.log_prob(model, GRID_2), 0.2**2) == pytest.approx(1, abs=TOLERANCE * 1e-5)


def test_control_a_wrong_divergence_does_not_integrate_to_one():
    model = wrong(Cut, mixture(PROCESSES["vp1.5"]))
    assert abs(integral(fokker.log_prob(model, GRID_2), 0.2**2) - 1) > 0.05


# --- Probes

SIZE = 6
CORRELATED = torch.full((SIZE, SIZE), 0.6, dtype=F64) + 0.4 * torch.eye(SIZE, dtype=F64)


def six():
    """Correlated entries: Rademacher probes are exact for a diagonal Jacobian."""
    return GaussianScore(PROCESSES["vp2"], torch.zeros(SIZE, dtype=F64), CORRELATED)


COPIES = 800


def probe_z():
    """z of the average error over copies of four points, each with probes of its own."""
    model, points = six(), torch.randn(4, SIZE, generator=torch.Generator().manual_seed(1), dtype=F64)
    exact = fokker.log_prob(model, points)
    estimate = fokker.log_prob(model, points.repeat_interleave(COPIES, 0), seed=3, probes=1).reshape(4, COPIES)
    assert float(estimate.std(1).min()) > 0.1
    return (estimate.mean(1) - exact) / estimate.std(1) * COPIES**0.5


def test_probes_are_unbiased():
    """False-alarm rate 1e-4 (exact.limit); an estimate's standard error is estimated from its copies."""
    assert probe_z().abs().max() < limit(4)


def test_control_probes_of_one_sign_are_flagged(monkeypatch):
    def signs(self, z, key):
        flip = torch.where(torch.arange(len(z)) % 7 == 0, 1.0, 0.0).to(z)[:, None]
        yield torch.ones_like(z) - 2 * flip * (torch.arange(SIZE) == 0)

    monkeypatch.setattr(flow_density._Flow, "_signs", signs)
    assert probe_z().abs().max() > limit(4)


def test_probes_are_keyed_by_seed_and_row():
    model, x = six(), torch.randn(20, SIZE, generator=torch.Generator().manual_seed(1), dtype=F64)
    rows = Rows.grid(1, 20)
    whole = fokker.log_prob(model, x, seed=5, probes=2)
    part = fokker.log_prob(model, x[8:13], seed=5, probes=2, rows=rows[8:13])
    torch.testing.assert_close(part, whole[8:13], rtol=1e-9, atol=1e-9)
    assert not torch.allclose(whole, fokker.log_prob(model, x, seed=6, probes=2), atol=1e-3)


def test_many_probes_scatter_less():
    x = torch.zeros(500, SIZE, dtype=F64)
    one, sixteen = (fokker.log_prob(six(), x, probes=count, rtol=1e-3, atol=1e-3).std() for count in (1, 16))
    # Each standard deviation is known to about 4 % (one), the ratio of 4 then to 8 %: five of these.
    assert float(one / sixteen) == pytest.approx(4, rel=0.4)


def test_large_states_take_probes_unless_told_otherwise(monkeypatch):
    x = torch.zeros(3, SIZE, dtype=F64)

    def drawn(**given):
        return fokker.log_prob(six(), x, rtol=1e-3, atol=1e-3, **given)

    monkeypatch.setattr(flow_density, "EXACT_SIZE", SIZE)
    assert torch.equal(drawn(), drawn(seed=1))
    monkeypatch.setattr(flow_density, "EXACT_SIZE", SIZE - 1)
    assert not torch.allclose(drawn(), drawn(seed=1), atol=1e-2)
    assert torch.equal(drawn(), drawn(probes=flow_density.PROBES))


# --- Rows


@each_noise
def test_a_row_does_not_depend_on_its_batch(noise, monkeypatch):
    model = mixture(replace(PROCESSES["vp1"], noise=NOISES[noise]))
    far = torch.cat([X[:17], 1e2 * X[:3]])  # rows that need other steps
    whole = fokker.log_prob(model, far)
    for row in (0, 18):
        torch.testing.assert_close(fokker.log_prob(model, far[row : row + 1])[0], whole[row], rtol=1e-10, atol=1e-10)
    monkeypatch.setattr(flow_density, "CHUNK", 7)
    torch.testing.assert_close(fokker.log_prob(model, far), whole, rtol=1e-10, atol=1e-10)


# --- Functions at points

COLOR = fokker.CosineField(modes=20, alpha=1.2, tau=3.0, amplitude=2.0)


class Independent(Denoiser):
    """Independent N(0, 1) data at cond["points"], diffused by the noise of its process; padding where mask is zero."""

    def __init__(self, process):
        self.process, self.dtype, self.device = process, F64, torch.device("cpu")
        self.rho_range, self.data_std = (0.02, 20.0), 1.0
        self.moments = Moments(torch.zeros((), dtype=F64), torch.ones((), dtype=F64))

    def denoised(self, z, rho, cond):
        basis, kept = COLOR.basis(cond["points"]), kept_entries(z, cond)
        both = kept[:, :, None] * kept[:, None]
        total = torch.eye(z.shape[1], dtype=F64) + both * (rho.reshape(-1, 1, 1) ** 2 * basis @ basis.mT)
        return torch.linalg.solve(total, (kept * z)[..., None])[..., 0] * kept


def points_and_mask(padded):
    """7, 6, 5 points, then padding."""
    points = torch.rand(3, 7, 1, generator=torch.Generator().manual_seed(3), dtype=F64)
    points = torch.cat([points, torch.full((3, padded - 7, 1), 0.77, dtype=F64)], 1)
    mask = (torch.arange(padded) < 7 - torch.arange(3)[:, None]).double()
    return {"points": points, "mask": mask}


@pytest.mark.parametrize("probes", [None, 2])
def test_correlated_noise_at_points_with_padding(probes):
    model = Independent(replace(PROCESSES["vp1.5"], noise=fokker.Correlated(COLOR)))
    cond = points_and_mask(10)
    x = torch.randn(3, 10, generator=torch.Generator().manual_seed(4), dtype=F64)
    x = torch.where(cond["mask"] > 0, x, torch.nan)
    found = fokker.log_prob(model, x, cond, probes=probes)
    for row in range(3):
        count = 7 - row
        basis = COLOR.basis(cond["points"][row, :count])
        law = MultivariateNormal(torch.zeros(count, dtype=F64), torch.eye(count).double() + 0.02**2 * basis @ basis.T)
        if probes is None:
            # log p moves by log(1000) per entry: 48 in all, 2.6 times the above
            assert abs(found[row] - law.log_prob(x[row, :count])) < 3 * TOLERANCE * 1e-5
        one = Rows(np.zeros(1, int), np.array([row]))
        where = {"points": cond["points"][row : row + 1]}
        where["mask"] = cond["mask"][row : row + 1]
        alone = fokker.log_prob(model, x[row : row + 1], where, probes=probes, rows=one)
        torch.testing.assert_close(alone[0], found[row], rtol=1e-8, atol=1e-8)


def test_padding_changes_nothing():
    model = Independent(replace(PROCESSES["vp1.5"], noise=fokker.Correlated(COLOR)))
    x = torch.randn(3, 7, generator=torch.Generator().manual_seed(4), dtype=F64)
    short = fokker.log_prob(model, x, points_and_mask(7))
    long = fokker.log_prob(model, torch.cat([x, torch.ones(3, 5, dtype=F64)], 1), points_and_mask(12))
    torch.testing.assert_close(long, short, rtol=1e-8, atol=1e-8)


def test_a_singular_first_draw_is_refused():
    model = Independent(replace(PROCESSES["vp1.5"], noise=fokker.Correlated(replace(COLOR, modes=3))))
    model.moments = Moments(torch.zeros((), dtype=F64), torch.zeros((), dtype=F64))
    with pytest.raises(InputError, match="singular"):
        fokker.log_prob(model, X.T[:, :7], {"points": points_and_mask(7)["points"][:1]})


# --- Named parts


def test_a_joint_density_is_the_sum_of_its_parts():
    x, k = mixture(PROCESSES["vp1.5"]), line()
    state = {"x": X[:9], "k": GRID_1[40:49]}
    joint = Joint(x=x, k=k)
    x.rho_range = k.rho_range = tuple(float(k.process.noise_to_signal(t)) for t in joint.time_range)
    total = fokker.log_prob(x, state["x"]) + fokker.log_prob(k, state["k"])
    torch.testing.assert_close(fokker.log_prob(joint, state), total, rtol=1e-8, atol=1e-8)
    with pytest.raises(InputError, match="parts x, k"):
        fokker.log_prob(joint, {"x": X})
    with pytest.raises(InputError, match="numbers of rows"):
        fokker.log_prob(joint, {"x": X, "k": GRID_1})


# --- What is refused


@pytest.mark.parametrize(
    "x",
    [X[:, :1], X[0], X[None], torch.empty(0, 2), "x", {"x": X}, X + 1j, X.where(X > 0, torch.nan), X + torch.inf],
)
def test_bad_x_is_refused(x):
    with pytest.raises(InputError, match=r"^x: got"):
        fokker.log_prob(mixture(PROCESSES["vp2"]), x)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        *[("probes", {"probes": bad}) for bad in (0, -1, 1.5, True)],
        *[("tol", {name: bad}) for name in ("rtol", "atol") for bad in (0.0, -1.0, math.nan)],
        ("seed", {"seed": -1}),
        ("rows", {"rows": Rows.grid(1, 3)}),
        ("cond", {"cond": torch.zeros(3, 1)}),
    ],
)
def test_bad_settings_are_refused(name, given):
    with pytest.raises(InputError, match=name):
        fokker.log_prob(mixture(PROCESSES["vp2"]), X, **given)


class Hidden(MixtureScore):
    """Does not let anyone differentiate it."""

    @torch.no_grad()
    def denoised(self, z, rho, cond):
        return super().denoised(z, rho, cond)


class Unstartable(MixtureScore):
    start_log_prob = fokker.ScoreModel.start_log_prob


class Broken(MixtureScore):
    """Not a number where the first entry is large."""

    def denoised(self, z, rho, cond):
        return torch.where(z[:, :1] > 100, torch.nan, super().denoised(z, rho, cond))


def test_models_that_have_no_density_are_refused():
    with pytest.raises(InputError, match="differentiated"):
        fokker.log_prob(wrong(Hidden, mixture(PROCESSES["vp2"])), X)
    with pytest.raises(InputError, match="Unstartable does not tell"):
        fokker.log_prob(wrong(Unstartable, mixture(PROCESSES["vp2"])), X)


def test_a_row_that_is_not_finite_is_named():
    x = X.clone()
    x[5] = 1000.0
    with pytest.raises(FloatingPointError, match=r"row 5 \(1 rows"):
        fokker.log_prob(wrong(Broken, mixture(PROCESSES["vp2"])), x)


# --- Posteriors

SMALL = {"kind": "conditional_mlp", "width": 32, "depth": 2, "trunk_width": 32, "trunk_depth": 2}
QUICK = TrainSettings(steps=60, batch_size=128, copies=2, warmup=10, validate_every=20)
RECIPE = replace(DEFAULT, network=SMALL, training=QUICK)
PAIRS = 20_000
PRIOR_MEAN, PRIOR = np.array([1.0, -2.0]), np.array([[1.0, 0.4], [0.4, 0.8]])
OPERATOR = np.array([[1.0, 0.5], [-0.3, 1.0], [0.2, 0.2]])


def pairs(count=PAIRS, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.multivariate_normal(PRIOR_MEAN, PRIOR, count)
    return x, x @ OPERATOR.T + 0.5 * rng.normal(size=(count, 3))


Y = pairs(4, seed=1)[1]


@pytest.fixture(scope="module")
def posterior():
    return fokker.fit(*pairs(), recipe=RECIPE)


@pytest.fixture(scope="module")
def masked():
    x, y = pairs()
    seen = np.random.default_rng(5).random(y.shape) > 0.3
    return fokker.fit(x, np.where(seen, y, np.nan), recipe=RECIPE)


@pytest.fixture(scope="module", params=["standard", "minmax", "none"])
def other(request):
    return fokker.fit(*pairs(2000), recipe=RECIPE, coordinates=request.param, steps=20)


def closed_form(y, x, seen=slice(None)):
    solution = LinearGaussian(PRIOR_MEAN, PRIOR, OPERATOR[seen], 0.5)
    law = MultivariateNormal(
        torch.from_numpy(solution.mean(y[:, seen]))[:, None], torch.from_numpy(solution.covariance)
    )
    return law.log_prob(x)


def within_two(y, count, seen=slice(None)):
    """Points (M, count, 2) of the exact posterior's own shape, at most 2 standard deviations from its mean."""
    solution = LinearGaussian(PRIOR_MEAN, PRIOR, OPERATOR[seen], 0.5)
    w = np.random.default_rng(2).normal(size=(len(y), count, 2))
    w *= 2 * np.random.default_rng(3).random((len(y), count, 1)) / np.linalg.norm(w, axis=-1, keepdims=True)
    return torch.from_numpy(solution.mean(y[:, seen])[:, None] + w @ np.linalg.cholesky(solution.covariance).T)


# At |w| = 2 the log density moves by |w| times an error of the mean and by |w|^2 times a relative error of a standard
# deviation. Both are about 5 / sqrt(N) = 0.035 (the regression on N pairs: coefficients off by 1 / sqrt(N), times a
# whitened y of at most about 3), plus 0.01 for what 60 steps leave in the network: (2 + 4) * 0.045.
ESTIMATED = 6 * (5 / PAIRS**0.5 + 0.01)


def test_a_fitted_posterior_has_the_closed_form_density(posterior):
    x = within_two(Y, 50)
    found = posterior.log_prob(x, Y)
    assert found.shape == (4, 50) and found.dtype == F64
    assert (found - closed_form(Y, x)).abs().max() < ESTIMATED
    assert (found - closed_form(np.roll(Y, 1, 0), x)).abs().max() > 3 * ESTIMATED  # control: the wrong y


def test_shapes(posterior):
    x = within_two(Y, 5)
    together = posterior.log_prob(x, Y)
    one = posterior.log_prob(x[1], Y[1])
    torch.testing.assert_close(one, together[1], rtol=0, atol=TOLERANCE * 1e-5)
    single = posterior.log_prob(x[1, 2].numpy(), Y[1])
    assert single.shape == ()
    torch.testing.assert_close(single, together[1, 2], rtol=0, atol=TOLERANCE * 1e-5)


def test_missing_entries(masked):
    seen = np.array([True, False, True])
    x = within_two(Y, 20, seen)
    found = masked.log_prob(x, np.where(seen, Y, np.nan))
    torch.testing.assert_close(masked.log_prob(x, Y, omega=seen), found)
    # Trained on 70 % of the entries: half of the pairs hold both of these.
    assert (found - closed_form(Y, x, seen)).abs().max() < 2 * ESTIMATED


def box(y, width=7.0, points=41):
    """A grid over the exact posterior's box, and its cell."""
    solution = LinearGaussian(PRIOR_MEAN, PRIOR, OPERATOR, 0.5)
    std, mean = np.sqrt(np.diag(solution.covariance)), solution.mean(y[None])[0]
    axes = [torch.linspace(m - width * s, m + width * s, points, dtype=F64) for m, s in zip(mean, std)]
    return torch.cartesian_prod(*axes), float(np.prod(2 * width * std / (points - 1)))


def test_a_fitted_density_integrates_to_one(posterior):
    grid, cell = box(Y[0])
    assert integral(posterior.log_prob(grid, Y[0]), cell) == pytest.approx(1, abs=2e-3)  # float32


def test_it_integrates_to_one_in_all_coordinates(other):
    """Even where the network is not trained: log det is that of the coordinates."""
    grid, cell = box(Y[0], 20.0, 61)  # far: an untrained network is as wide as the prior
    assert integral(other.log_prob(grid, Y[0]), cell) == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.zeros((2, 3)), Y[0]),
        (np.zeros(3), Y[0]),
        (np.zeros((1, 4, 2)), Y[0]),
        (np.zeros((0, 2)), Y[0]),
        (np.zeros((4, 2)), Y),
        (np.zeros((3, 5, 2)), Y),
        (np.full((2, 2), np.nan), Y[0]),
        (np.full((2, 2), np.inf), Y[0]),
        ("x", Y[0]),
    ],
)
def test_bad_x_of_a_posterior_is_refused(posterior, x, y):
    with pytest.raises(InputError, match=r"^x: got"):
        posterior.log_prob(x, y)


def test_posteriors_without_a_density_are_refused():
    x, y = pairs(500)
    clipped = fokker.fit(np.maximum(x, -2.0), y, recipe=RECIPE, clip=(-2.0, None), steps=1)
    with pytest.raises(InputError, match="atoms"):
        clipped.log_prob(x[:2], y[0])
    flat = fokker.fit(x[:, [0, 0]], y, recipe=RECIPE, steps=1)
    with pytest.raises(InputError, match="1 of 2 directions"):
        flat.log_prob(x[:2], y[0])
