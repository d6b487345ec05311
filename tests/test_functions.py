"""Priors and posteriors over functions: the Gaussian part is exact, whatever the network adds.

Statistical limits: all z of one test together raise a false alarm with a probability of 1e-4 (`exact.limit`).
"""

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

import fokker
from exact import limit, moment_z
from fokker.errors import InputError
from fokker.fields.fitting import FUNCTIONS
from fokker.fields.points import PointScore
from fokker.fields.score import FunctionScore
from fokker.fields.update import Factor, Update, stacked
from fokker.operators import Matrix

F64 = torch.float64
FIELD = fokker.CosineField(dimension=1, modes=16, alpha=1.2, tau=3.0)
SHAPE = (12,)
NOISE = fokker.OnGrid(FIELD, SHAPE)
C = NOISE.apply(torch.eye(12, dtype=F64))
STD = 0.7


class Nothing(torch.nn.Module):
    """A network that adds nothing."""

    def __init__(self, dtype=F64):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1, dtype=dtype))

    def forward(self, channels, level):
        return 0 * channels[:, :1]


def model(conditional=False, dtype=F64):
    process = fokker.VariancePreserving(n=2, noise=NOISE)
    mean = torch.linspace(-1, 2, 12, dtype=F64)
    rho = (0.002 * STD, 20 * STD)
    return FunctionScore(process, Nothing(dtype), mean, C.diagonal().clone(), STD, rho, conditional)


def rows_of(count, seed=0):
    return torch.randn(count, 12, generator=torch.Generator().manual_seed(seed), dtype=F64)


def posterior_of(z, rho, rows, r, y, mean):
    """Mean (B, P) and covariance of f given z = f + rho N(0, C) and y = H f + N(0, R), by Bayes' rule with inverses."""
    inverse = torch.linalg.inv(C)
    precision = inverse / STD**2 + inverse / rho**2 + rows.T @ torch.linalg.inv(r) @ rows
    covariance = torch.linalg.inv(precision)
    right = inverse @ mean / STD**2 + z @ inverse / rho**2 + y @ torch.linalg.inv(r) @ rows
    return right @ covariance, covariance


EACH = torch.tensor([0.1, 0.5, 0.2, 1.0], dtype=F64)
NOISES = {
    "one": (0.09, 0.09 * torch.eye(4, dtype=F64)),
    "each": (EACH**2, torch.diag(EACH**2)),
    "full": (torch.eye(4, dtype=F64) + 0.5, torch.eye(4, dtype=F64) + 0.5),
}


@pytest.mark.parametrize("kind", NOISES)
@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("rho", [0.01, 0.5, 8.0])
def test_the_denoiser_of_an_untrained_model_is_the_gaussian_conditional(kind, conditional, rho):
    variance, r = NOISES[kind]
    rows, made = rows_of(4), model(conditional)
    generator = torch.Generator().manual_seed(1)
    z, y = (torch.randn(5, size, generator=generator, dtype=F64) for size in (12, 4))
    told = made.observing(Factor.of(NOISE, rows, variance), rows @ made.mean)
    cond = told.prepare({"measurement": y})
    found = told.denoised(z, torch.tensor(rho, dtype=F64), {n: v.expand(5, *v.shape[1:]) for n, v in cond.items()})
    mean, covariance = posterior_of(z, rho, rows, r, y, made.mean)
    torch.testing.assert_close(found, mean, rtol=1e-8, atol=1e-8)
    update = Update.from_cond({n: v.expand(5, *v.shape[1:]) for n, v in cond.items()})
    c2 = torch.tensor((rho * STD) ** 2 / (rho**2 + STD**2), dtype=F64)
    torch.testing.assert_close(update.left(C.diagonal(), c2)[0], covariance.diagonal(), rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("nonlinear", [False, True])
@pytest.mark.parametrize("rho", [0.05, 0.7, 8.0])
def test_guided_methods_in_function_space(rho, nonlinear):
    """With the noise of the functions themselves both PiGDM and moment matching have the exact Gaussian conditional as
    denoiser, DPS adds c^2 C H^T R^-1 (y - H D): gradients are preconditioned by C. The control is PiGDM's spread I."""
    rows, made = rows_of(4), model()
    z, y = (torch.randn(5, size, generator=torch.Generator().manual_seed(2), dtype=F64) for size in (12, 4))
    t, noise = made.process.time_of(torch.tensor(rho, dtype=F64)), fokker.Gaussian(0.3)
    x_t = made.process.scale(t) * z
    forward = (lambda x: x @ rows.T) if nonlinear else Matrix(rows)  # or one not known to be linear
    mean, _ = posterior_of(z, rho, rows, 0.09 * torch.eye(4, dtype=F64), y, made.mean)
    for method in (fokker.PiGDM, fokker.MomentMatching):
        guided = method(made, forward=forward, likelihood=noise).model()
        torch.testing.assert_close(guided.denoise(x_t, t, {"measurement": y}), mean, rtol=0, atol=1e-6)
    c2 = (rho * STD) ** 2 / (rho**2 + STD**2)
    d = made.denoise(x_t, t)
    dps = fokker.DPS(made, forward=forward, likelihood=noise).model()
    shift = c2 * (y - d @ rows.T) @ rows / 0.09
    torch.testing.assert_close(dps.denoise(x_t, t, {"measurement": y}), d + shift @ C, rtol=1e-6, atol=1e-6)
    assert float((shift @ C - shift).abs().max()) > 1e-3


def test_rows_with_operators_of_their_own_are_as_one_by_one():
    made, generator = model(True), torch.Generator().manual_seed(2)
    sets = [(rows_of(count, count), std) for count, std in [(3, 0.2), (5, 0.0), (0, 0.0), (4, 0.5)]]
    data = [torch.randn(len(rows), generator=generator, dtype=F64) for rows, _ in sets]
    z, rho = torch.randn(4, 12, generator=generator, dtype=F64), torch.tensor([0.1, 0.5, 1.0, 4.0], dtype=F64)
    factors = [Factor.of(NOISE, rows, std**2) for rows, std in sets]
    together = made.denoised(z, rho, stacked(factors, [y - rows @ made.mean for (rows, _), y in zip(sets, data)]))
    for index, ((rows, _), y) in enumerate(zip(sets, data)):
        told = made.observing(factors[index], rows @ made.mean)
        alone = told.denoised(z[index : index + 1], rho[index], told.prepare({"measurement": y[None]}))
        torch.testing.assert_close(together[index], alone[0], rtol=1e-9, atol=1e-9)
    prior = made.denoised(z[2:3], rho[2], {})
    torch.testing.assert_close(together[2:3], prior, rtol=1e-12, atol=1e-12)


def test_data_without_noise_are_met_exactly_and_leave_no_variance():
    made, rows = model(True), rows_of(4)
    told = made.observing(Factor.of(NOISE, rows, 0.0), rows @ made.mean)
    y = torch.tensor([[0.5, -0.2, 1.0, 0.1]], dtype=F64)
    cond = told.prepare({"measurement": y})
    d = told.denoised(torch.zeros(1, 12, dtype=F64), torch.tensor(0.3, dtype=F64), cond)
    torch.testing.assert_close(d @ rows.T, y, rtol=1e-9, atol=1e-9)
    picked = torch.eye(12, dtype=F64)[[2, 7]]
    factor = Factor.of(NOISE, picked, 0.0)
    left = Update.from_cond(factor.cond(y[:, :2])).left(C.diagonal(), torch.tensor(0.1, dtype=F64))
    assert float(left[0, [2, 7]].max()) < 1e-12 < 1e-3 < float(left[0, 4])


def test_two_values_at_one_point_need_noise():
    twice = torch.eye(12, dtype=F64)[[3, 3]]
    factor = Factor.of(NOISE, twice, 0.0)
    factor.data(torch.tensor([[0.5, 0.5]], dtype=F64))
    with pytest.raises(InputError, match="contradict each other"):
        factor.data(torch.tensor([[0.5, 0.6]], dtype=F64))
    Factor.of(NOISE, twice, 0.01).data(torch.tensor([[0.5, 0.6]], dtype=F64))


@pytest.mark.parametrize("std", [0.0, 0.3])
@pytest.mark.parametrize("conditional", [False, True])
def test_the_flow_of_functions_is_exact_for_the_gaussian_in_any_step(conditional, std):
    """From z at rho_t to rho_s by a thousand steps of Heun, and back in one. The control leaves the data out."""
    made, rows = model(conditional), rows_of(4)
    z, y = (torch.randn(3, size, generator=torch.Generator().manual_seed(4), dtype=F64) for size in (12, 4))
    told = made.observing(Factor.of(NOISE, rows, std**2), rows @ made.mean)
    cond = {n: v.expand(3, *v.shape[1:]) for n, v in told.prepare({"measurement": y}).items()}

    def slope(x, rho):
        return (x - told.gaussian(x, torch.tensor(rho, dtype=F64), cond)) / rho

    levels = torch.logspace(math.log10(5.0), math.log10(0.2), 1001, dtype=F64).tolist()
    x = z
    for high, low in pairwise(levels):
        guess = x + (low - high) * slope(x, high)
        x = x + (low - high) / 2 * (slope(x, high) + slope(guess, low))
    found = told.moved(z, levels[0], levels[-1], cond)
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(told.moved(found, levels[-1], levels[0], cond), z, rtol=1e-8, atol=1e-8)
    assert float((told.moved(z, levels[0], levels[-1], {}) - x).abs().max()) > 0.05


def test_the_flow_of_functions_without_data_is_the_gaussian_transition(trained):
    prior, _, _ = trained
    nothing = fokker.FunctionPosterior.of_values(prior, [], likelihood=fokker.Gaussian(0.1))
    flow, plain = nothing.sampler, fokker.GaussianTransition(alpha=0.0)
    found, expected = (nothing.sample([], 5, seed=3, steps=6, sampler=one).samples for one in (flow, plain))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert flow.settings() == {"name": "function_flow"}


@pytest.mark.parametrize("conditional", [False, True])
def test_samples_are_those_of_the_gaussian_posterior(conditional):
    """4,000 samples in two steps; false-alarm rate 1e-4."""
    made, rows, r = model(conditional), rows_of(4), 0.09 * torch.eye(4, dtype=F64)
    posterior = fokker.FunctionPosterior(made, forward=Matrix(rows), likelihood=fokker.Gaussian(0.3))
    y = torch.tensor([0.5, -0.2, 1.0, 0.1], dtype=F64)
    found = posterior.sample(y, 4000, steps=2).samples.double()
    mean, covariance = posterior_of(torch.zeros(1, 12, dtype=F64), 1e8, rows, r, y[None], made.mean)
    assert moment_z(found, mean[0], covariance).abs().max() < limit(90)
    prior = C * STD**2
    assert moment_z(found, mean[0], prior).abs().max() > limit(90)


def test_no_observation_is_the_prior():
    """False-alarm rate 1e-4."""
    made = model(True)
    nowhere = fokker.operators.PointValues(SHAPE, torch.zeros(0, 1))
    posterior = fokker.FunctionPosterior(made, forward=nowhere, likelihood=fokker.Gaussian(0.1))
    found = posterior.sample(torch.zeros(0), 4000, steps=16).samples.double()
    assert moment_z(found, made.mean, C * STD**2).abs().max() < limit(90)


# --- Points


WHERE = torch.rand(9, 1, generator=torch.Generator().manual_seed(5), dtype=F64)
ELSEWHERE = torch.rand(7, 1, generator=torch.Generator().manual_seed(6), dtype=F64)


class NothingAtPoints(Nothing):
    """The same for sets."""

    def forward(self, values, points, level, query, mask=None, query_features=None):
        return values.new_zeros(len(values), query.shape[1], 1)


def on_points(conditional, points=WHERE):
    mean = points[:, 0] ** 2
    return PointScore(NothingAtPoints(), FIELD, points, mean, STD, (0.002 * STD, 20 * STD), conditional)


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("rho", [0.05, 0.5, 8.0])
def test_decoding_elsewhere_is_the_gaussian_process(conditional, rho):
    """Beside Bayes' rule on all points at once, with values y at three of the context's."""
    made = on_points(conditional)
    kernel = lambda a, b: FIELD.basis(a) @ FIELD.basis(b).T  # noqa: E731
    rows, std = torch.eye(9, dtype=F64)[[0, 4, 8]], 0.2
    generator = torch.Generator().manual_seed(7)
    z, y = torch.randn(4, 9, generator=generator, dtype=F64), torch.randn(4, 3, generator=generator, dtype=F64)
    told = made.observing(Factor.of(made.process.noise, rows, std**2), rows @ made.mean)
    cond = {name: v.expand(4, *v.shape[1:]) for name, v in told.prepare({"measurement": y}).items()}
    level = torch.tensor(rho, dtype=F64)
    found = told.decoded(z, level, cond, ELSEWHERE, ELSEWHERE[:, 0] ** 2)
    c, cross = kernel(WHERE, WHERE), kernel(ELSEWHERE, WHERE)
    data = torch.cat([z - made.mean, y - rows @ made.mean], 1)  # f + rho N(0, C) at the context, f + noise at three
    seen = torch.cat([torch.eye(9, dtype=F64), rows])
    law = STD**2 * seen @ c @ seen.T + torch.block_diag(rho**2 * c, std**2 * torch.eye(3, dtype=F64))
    expected = ELSEWHERE[:, 0] ** 2 + data @ torch.linalg.solve(law, STD**2 * seen @ cross.T)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    here = told.decoded(z, level, cond, WHERE, made.mean)
    torch.testing.assert_close(here, told.denoised(z, level, cond), rtol=1e-6, atol=1e-6)


def test_points_that_coincide_are_one_point():
    twice = torch.cat([WHERE, WHERE[:2]])
    model_twice, model_once = on_points(True, twice), on_points(True)
    z, rho = torch.randn(2, 9, generator=torch.Generator().manual_seed(1), dtype=F64), torch.tensor(0.4, dtype=F64)
    both = torch.cat([z, z[:, :2]], 1)
    mean = ELSEWHERE[:, 0] ** 2
    found, once = (m.decoded(v, rho, {}, ELSEWHERE, mean) for m, v in [(model_twice, both), (model_once, z)])
    torch.testing.assert_close(found, once, rtol=1e-6, atol=1e-6)


# --- Trained


def fields(count=60, seed=0):
    coefficients = torch.randn(count, FIELD.size, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return FIELD.on_grid(coefficients, (16,)).exp()


SMALL = {"kind": "fourier_operator", "width": 8, "depth": 2, "modes": 6}
TOLD = fokker.PointObservations(2, 5, 0.1, 0.5)
WAYS = {
    "prior": {"network": SMALL},
    "told": {"network": SMALL, "observations": TOLD},
    "points": {"points": 10},
    "points_told": {"points": 10, "observations": TOLD},
}


@pytest.fixture(scope="module", params=WAYS)
def trained(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    return fokker.fit_functions(fields(), steps=30, out=folder, **WAYS[request.param]), folder, WAYS[request.param]


def test_training_lowers_the_loss_and_a_file_holds_the_model(trained):
    prior, folder, way = trained
    loaded, again = fokker.load(folder), fokker.fit_functions(fields(), steps=30, out=folder, **way)
    torch.testing.assert_close(loaded.sample(3, seed=2, steps=4).samples, prior.sample(3, seed=2, steps=4).samples)
    torch.testing.assert_close(again.sample(3, seed=2, steps=4).samples, prior.sample(3, seed=2, steps=4).samples)
    record = json.loads((folder / "training.json").read_text())
    assert record["records"][-1]["step"] == 30


def test_the_default_training_leaves_the_gaussian():
    """Decaying waves of unknown frequency: in batches of 16 the loss was still 0.998 of the Gaussian's at the end."""
    u = torch.rand(4, 2000, 1, generator=torch.Generator().manual_seed(3), dtype=F64)
    x = fokker.Grid((64,)).points[:, 0]
    waves = (0.5 + u[0]) * torch.exp(-(1 + 4 * u[1]) * x) * torch.cos(2 * torch.pi * ((2 + 6 * u[2]) * x + u[3]))
    recipe, losses = replace(FUNCTIONS, training=replace(FUNCTIONS.training, steps=400, validate_every=100)), []
    seen = fokker.PointObservations(2, 16, 0.02, 0.2)
    fokker.fit_functions(waves, observations=seen, recipe=recipe, progress=lambda r: losses.append(r.validation_loss))
    assert losses[-1] < 0.95 * losses[0]


def test_samples_are_the_same_whatever_a_network_is_given_at_once(trained, monkeypatch):
    prior, _, _ = trained
    whole = prior.sample(7, seed=2, steps=4).samples
    monkeypatch.setattr("fokker.fields.score.CACHED", 32)  # two functions of 16 values
    torch.testing.assert_close(prior.sample(7, seed=2, steps=4).samples, whole)


def test_a_posterior_takes_values_at_points_and_gives_the_prior_without_them(trained):
    prior, _, _ = trained
    seen, y = torch.tensor([[0.2], [0.21], [0.7]]), torch.tensor([1.0, 1.1, 0.5])
    posterior = fokker.FunctionPosterior.of_values(prior, seen, likelihood=fokker.Gaussian(0.05))
    found = posterior.sample(y, 6, seed=1, steps=6)
    assert found.samples.shape == (6, 16) and bool(found.samples.isfinite().all())
    alone = posterior.sample(y, 4, seed=1, steps=6).samples
    torch.testing.assert_close(found.samples[:4], alone, rtol=1e-4, atol=1e-5)
    numbers = fokker.FunctionPosterior.of_values(prior, [0.2, 0.21, 0.7], likelihood=fokker.Gaussian(0.05))
    torch.testing.assert_close(numbers.sample(y, 6, seed=1, steps=6).samples, found.samples)
    assert repr(prior).startswith("FunctionPrior(grid=(16,), network=")
    nothing = fokker.FunctionPosterior.of_values(prior, [], likelihood=fokker.Gaussian(0.05))
    free = nothing.sample(torch.zeros(0), 6, seed=1, steps=32, sampler=fokker.GaussianTransition()).samples
    torch.testing.assert_close(free, prior.sample(6, seed=1).samples, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("way", ["prior", "points"])
def test_a_seed_is_one_function_on_every_grid(way):
    """Noise and Gaussian part are functions: with a network that adds nothing, values at shared points agree."""
    prior = fokker.fit_functions(fields(), steps=1, **WAYS[way])
    plain = prior.no_network()
    coarse, fine = (plain.sample(3, (n,), seed=4, steps=8).samples for n in (16, 48))
    torch.testing.assert_close(fine[:, 1::3], coarse, rtol=1e-4, atol=1e-4)  # centres of 16 cells are among those of 48
    values = fokker.operators.PointValues((48,), fokker.Grid((16,)).points)
    torch.testing.assert_close(values(fine), coarse, rtol=1e-4, atol=1e-4)


class Own(torch.nn.Module):
    """A network of one's own; `gives` what it makes of the channels."""

    def __init__(self, gives, weights=True):
        super().__init__()
        self.gives, self.weight = gives, torch.nn.Parameter(torch.zeros(())) if weights else 0.0

    def forward(self, channels, level):
        return self.gives(channels) + self.weight


def test_a_network_of_ones_own_is_trained_and_kept_in_memory(tmp_path):
    prior = fokker.fit_functions(fields(), steps=2, network=Own(lambda channels: 0 * channels))
    assert bool(prior.sample(2, steps=4).samples.isfinite().all())
    with pytest.raises(InputError, match="Own, which has no settings"):
        prior.save(tmp_path / "own")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"network": "unet"}, "network: got 'unet'"),
        ({"network": Own}, "network: got <class"),
        ({"network": {"kind": "unet"}}, "network: UNet fails .*2 grid axes"),
        ({"network": torch.nn.Linear(3, 3)}, "network: Linear fails"),
        ({"network": Own(lambda channels: channels[:, 0])}, r"network: Own gave \(2, 16\)"),
        ({"network": Own(lambda channels: channels, weights=False)}, "network: got Own without weights"),
        ({"points": 0}, "points: got 0"),
        ({"points": "8"}, "points: got '8'"),
        ({"recipe": {}}, "recipe: got dict"),
        ({"device": "gpu"}, "device: got 'gpu'"),
        ({"observations": 8}, "observations: got 8"),
    ],
)
def test_options_that_do_not_fit_are_told_in_a_line(options, words):
    with pytest.raises(InputError, match=words):
        fokker.fit_functions(fields(), steps=2, **options)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (fields()[:, 0], r"fields: got shape \(60, 1\)"),
        (fields()[:, None], r"fields: got shape \(60, 1, 16\)"),
        (torch.ones(20, 2, 2, 2, 2), "1 to 3 axes"),
        (1e30 * fields(), "standard deviation of"),
        (1e-25 * fields(), "standard deviation of"),
        (np.ma.masked_greater(fields().numpy(), 1.0), "fields: got an array with masked entries"),
        (fields() + 1j, "fields: got torch.complex"),
    ],
)
def test_fields_that_do_not_fit_are_told_in_a_line(given, words):
    with pytest.raises(InputError, match=words):
        fokker.fit_functions(given, steps=2)


def test_points_and_grids_are_told_apart(trained):
    """Whole numbers are the shape of a grid, all other numbers are points."""
    prior, _, _ = trained
    for where in ((8,), [8], torch.Size([8]), fokker.Grid((8,))):
        assert prior.at(where).x_shape == (8,)
    for where in ([0.1, 0.2], np.array([[0.1], [0.2]]), torch.tensor([[0.1], [0.2]])):
        if prior.on_points:
            assert prior.at(where).x_shape == (2,)
        else:
            with pytest.raises(InputError, match="got points, a grid is accepted"):
                prior.at(where)
    torch.testing.assert_close(
        prior.mean_at([0.1, 0.2]), prior.mean_at(torch.tensor([[0.1], [0.2]])), check_dtype=False
    )
    for wrong, words in (([1.5], "1.5"), (np.array([1j]), "complex"), ("a", "points: got str")):
        with pytest.raises(InputError, match=words):
            prior.mean_at(wrong)


def test_the_choice_for_linear_data_of_functions_takes_no_gradient():
    prior = fokker.fit_functions(fields(), steps=2, network=SMALL)
    values = fokker.operators.PointValues((16,), [0.2, 0.7])
    chosen = fokker.guided(prior.at(), values, fokker.Gaussian(0.1))
    assert isinstance(chosen, fokker.FunctionPosterior) and "exact where they are Gaussian" in chosen.why
    assert not isinstance(
        fokker.guided(prior.at(), lambda f: values(f) ** 2, fokker.Gaussian(0.1)), fokker.FunctionPosterior
    )
    with pytest.raises(InputError, match="gives no data"):
        fokker.guided(prior.at(), lambda f: f[:, :0], fokker.Gaussian(0.1))


def test_what_is_not_accepted_is_told_in_a_line(trained):
    prior, _, _ = trained
    for call, words in [
        (lambda: prior.at(torch.tensor([[0.5, 0.5]])), "got"),
        (lambda: prior.at((4, 4)), "got"),
        (
            lambda: fokker.FunctionPosterior.of_values(prior, torch.tensor([[1.5]]), likelihood=fokker.Gaussian(0.1)),
            "1.5",
        ),
        (lambda: fokker.fit_functions(fields()[:5]), "at least 10"),
        (lambda: fokker.fit_functions(torch.ones(20, 8)), "never vary"),
        (lambda: fokker.fit_functions(fields(), points=40), "points for a step"),
        (lambda: fokker.PointObservations(3, 2), "fewest"),
        (lambda: fokker.PointObservations(1.5, 2), "fewest"),
        (lambda: fokker.PointObservations("1", "2"), "fewest"),
        (lambda: fokker.fit_functions(fields(), observations=5), "observations: got 5"),
        (lambda: fokker.guided(prior, torch.sin, fokker.Gaussian(0.1)), r"prior: got FunctionPrior, prior.at\(grid"),
        *(
            (lambda one=one: fokker.FunctionPosterior.of_values(one, [0.1], likelihood=fokker.Gaussian(0.1)), words)
            for one, words in ((None, "prior: got NoneType"), (prior.at(), "prior: got .*Score, a FunctionPrior"))
        ),
        (lambda: fokker.FunctionPosterior.of_values(prior, None, likelihood=fokker.Gaussian(0.1)), "points: got None"),
        (lambda: fokker.FunctionPosterior.of_values(prior, [0.1], likelihood=fokker.Gaussian), "the class Gaussian"),
        (lambda: prior.save(Path(__file__)), "got a file"),
        (lambda: fokker.fit_functions(fields(), steps=1, out=Path(__file__) / "below"), "got a file"),
        (lambda: fokker.FunctionPosterior(model(), forward=torch.sin, likelihood=fokker.Gaussian(0.1)), "PiGDM"),
        (
            lambda: fokker.FunctionPosterior(model(), forward=Matrix(rows_of(2)), likelihood=fokker.Poisson()),
            "Gaussian",
        ),
    ]:
        with pytest.raises(InputError, match=words):
            call()


@pytest.mark.parametrize("kind", ["fourier_operator", "u_shaped_operator", "unet"])
def test_every_network_of_images_can_be_trained(kind):
    squares = fields(16 * 20).reshape(20, 16, 16)
    prior = fokker.fit_functions(squares, network={"kind": kind, "width": 8}, observations=TOLD, steps=2)
    assert prior.sample(2, steps=2).samples.shape == (2, 16, 16)
