"""Amortized posteriors: linear-Gaussian problems against the closed form, and what a user may hand in.

Tolerances: `exact.limit` Monte-Carlo standard errors (false-alarm rate 1e-4 for each test), to which the error of what
was estimated from N training pairs is added where it matters; it is stated there.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import norm

import fokker
from exact import ALL_SAMPLERS, PROCESSES, limit
from fokker.errors import InputError
from fokker.posterior import recipes
from fokker.posterior.recipes import DEFAULT
from fokker.reference.gaussian import LinearGaussian
from fokker.rng import torch_generator
from fokker.training import TrainSettings

SMALL = {"kind": "conditional_mlp", "width": 32, "depth": 2, "trunk_width": 32, "trunk_depth": 2}
QUICK = TrainSettings(steps=60, batch_size=128, copies=2, warmup=10, validate_every=20)
RECIPE = replace(DEFAULT, network=SMALL, training=QUICK)
PAIRS, NOISE = 20_000, 0.3
PRIOR_MEAN = np.array([1.0, -2.0, 0.5])
PRIOR = np.array([[1.0, 0.4, 0.1], [0.4, 0.8, 0.2], [0.1, 0.2, 0.5]])
OPERATOR = np.random.default_rng(0).normal(size=(5, 3))


def pairs(count=PAIRS, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.multivariate_normal(PRIOR_MEAN, PRIOR, count)
    return x, x @ OPERATOR.T + NOISE * rng.normal(size=(count, 5))


@pytest.fixture(scope="module")
def posterior():
    return fokker.fit(*pairs(), recipe=RECIPE)


@pytest.fixture(scope="module")
def masked():
    x, y = pairs()
    omega = torch.rand(y.shape, generator=torch_generator(0, "omega")).numpy() > 0.3
    return fokker.fit(x, np.where(omega, y, np.nan), recipe=RECIPE)


def exact(y, seen=slice(None)):
    solution = LinearGaussian(PRIOR_MEAN, PRIOR, OPERATOR[seen], NOISE)
    return solution.mean(y[:, seen]), np.sqrt(np.diag(solution.covariance))


# --- Against the closed form

DRAWS = 4000
Y = pairs(6, seed=1)[1]


def check(samples, mean, std):
    """Means within `limit` / sqrt(n) posterior standard deviations, standard deviations within as much of themselves.

    To that come 5 / sqrt(N) for the regression on the N training pairs (each of its coefficients is off by about
    1 / sqrt(N) posterior standard deviations, times the whitened y, at most about 3 here) and 0.01 for 16 steps.
    """
    count = samples.samples.shape[1]
    far = limit(2 * mean.size)
    allowed = far / count**0.5 + 5 / PAIRS**0.5 + 0.01
    assert np.abs((samples.mean().numpy() - mean) / std).max() < allowed
    assert np.abs(samples.std().numpy() / std - 1).max() < allowed


@pytest.mark.parametrize("sampler", [None, fokker.Heun(), fokker.RK45(1e-3, 1e-3), fokker.Transition(1.0, 2)])
def test_linear_gaussian_posterior(posterior, sampler):
    steps = 64 if sampler is not None and not sampler.adaptive else None
    samples = posterior.sample(Y, DRAWS, sampler=sampler, steps=steps)
    check(samples, *exact(Y))
    check(posterior.no_network().sample(Y, DRAWS), *exact(Y))


def test_missing_sensors_are_the_posterior_given_the_others(masked):
    """The estimate from incomplete pairs is that of most likelihood, so the allowance for complete ones still holds."""
    seen = np.array([True, False, True, True, False])
    y = np.where(seen, Y, np.nan)
    check(masked.no_network().sample(y, DRAWS), *exact(Y, seen))
    check(masked.sample(y, DRAWS), *exact(Y, seen))
    check(masked.sample(Y, DRAWS), *exact(Y))


def test_control_the_wrong_posterior_is_flagged(posterior):
    mean, std = exact(Y)
    with pytest.raises(AssertionError):
        check(posterior.sample(Y, DRAWS), mean + 0.2 * std, std)
    with pytest.raises(AssertionError):
        check(posterior.sample(Y, DRAWS), mean, 1.2 * std)


def test_other_coordinates_learn_the_same_posterior():
    """Standardised coordinates and a small network: within 15 % of a posterior standard deviation after 800 steps. The
    untrained network misses by several (control)."""
    long = replace(RECIPE, training=replace(QUICK, steps=800, batch_size=256, copies=4, learning_rate=3e-3))
    mean, std = exact(Y)

    def error(steps):
        fitted = fokker.fit(*pairs(), recipe=long, coordinates="standard", steps=steps)
        return np.abs((fitted.sample(Y, 1000, steps=32).mean().numpy() - mean) / std).mean()

    assert error(800) < 0.15 < 1.0 < error(1)


def test_an_untrained_network_scales_the_first_draw_and_nothing_else():
    """Before training D = z / (1 + rho^2): every step multiplies xi by a number, so samples are mu(y) + c L xi."""
    start = fokker.fit(*pairs(200), recipe=replace(RECIPE, training=replace(QUICK, learning_rate=0.0, steps=1)))
    samples = start.sample(Y, 50).samples.double()
    cond = {"y": torch.from_numpy(Y).repeat_interleave(50, 0)}
    xi = start.coordinates.forward(samples.flatten(0, 1), cond).reshape(6, 50, 3)
    again = fokker.sample(
        start.model, (6 * 50, 3), sampler=DEFAULT.sampler, grid=DEFAULT.grid, steps=16, trajectory=True,
        cond={"y": torch.from_numpy(Y)}, rows=fokker.rng.Rows.grid(6, 50),
    )  # fmt: skip
    first = again.trajectory[0].double().reshape(6, 50, 3)
    factor = (xi * first).sum() / (first * first).sum()
    torch.testing.assert_close(xi, factor * first, rtol=0, atol=1e-4)
    assert float(factor * (1 + 20.0**2) ** 0.5) == pytest.approx(1.0, abs=0.01)  # sixteen steps of order two


# --- Shapes, dtypes and mistakes


@pytest.mark.parametrize("kind", [np.asarray, torch.as_tensor, list, lambda y: torch.as_tensor(y).float()])
def test_y_of_any_kind(posterior, kind):
    one = posterior.sample(kind(Y[0]), 3)
    assert one.samples.shape == (3, 3) and one.y.shape == (5,) and not one.batched
    many = posterior.sample(kind(list(map(list, Y))) if kind is list else kind(Y), 3)
    assert many.samples.shape == (6, 3, 3) and many.batched
    torch.testing.assert_close(many.samples[0], one.samples, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "y",
    [
        np.zeros(4), np.zeros((2, 4)), np.zeros((2, 3, 5)), np.zeros(()), np.zeros((0, 5)), "five", None,
        [[1.0], [1, 2]], np.full(5, np.inf), np.full((2, 5), -np.inf), np.zeros(5, complex), np.array(["a"] * 5),
    ],
)  # fmt: skip
def test_bad_y_is_refused(posterior, y):
    with pytest.raises(InputError, match="y:"):
        posterior.sample(y, 3)
    with pytest.raises(InputError, match="y:"):
        posterior.no_network().sample(y, 3)


@pytest.mark.parametrize("n", [0, -1, 1.5, True, "3", None])
def test_bad_counts_are_refused(posterior, n):
    with pytest.raises(InputError, match="n:"):
        posterior.sample(Y, n)
    with pytest.raises(InputError, match="n:"):
        posterior.no_network().sample(Y, n)


def test_bad_seeds_steps_and_grids_are_refused(posterior):
    for given in ({"seed": -1}, {"steps": 0}, {"grid": torch.tensor([0.1, 0.9])}, {"omega": np.ones(4)}):
        with pytest.raises(InputError, match=next(iter(given))):
            posterior.sample(Y, 3, **given)
    with pytest.raises(InputError, match="omega"):
        posterior.sample(Y[0], 3, omega=np.ones((2, 5)))


@pytest.mark.parametrize("device", ["foo", "cuda:99", 1.5])
def test_devices_that_are_not_there_are_refused(device, tmp_path):
    with pytest.raises(InputError, match="device: got"):
        fokker.fit(*pairs(50), recipe=RECIPE, device=device)
    with pytest.raises(InputError, match="device: got"):
        fokker.fit_prior(pairs(50)[0], recipe=RECIPE, device=device)
    with pytest.raises(InputError, match="device: got"):
        fokker.load(tmp_path, device=device)


def test_names_in_place_of_objects_are_refused(posterior):
    with pytest.raises(InputError, match="sampler: got 'heun', an object such as"):
        posterior.sample(Y, 3, sampler="heun")
    with pytest.raises(InputError, match="process: got 'vp', an object such as"):
        posterior.on("vp")
    with pytest.raises(InputError, match="process: got 'vp', an object such as"):
        fokker.fit(*pairs(50), process="vp", recipe=RECIPE)
    with pytest.raises(InputError, match="model: got ConditionalPosterior, a score model is accepted"):
        fokker.log_prob(posterior, Y)


@pytest.mark.filterwarnings("ignore:nothing is observed")
def test_missing_entries_by_nan_and_by_omega_are_the_same(masked):
    omega = torch.rand(Y.shape, generator=torch_generator(3, "omega")).numpy() > 0.4
    by_nan = masked.sample(np.where(omega, Y, np.nan), 5).samples
    assert torch.equal(masked.sample(np.where(omega, Y, -1.0), 5, omega=omega).samples, by_nan)
    assert torch.equal(masked.sample(np.where(omega, Y, np.nan), 5, omega=omega).samples, by_nan)
    everything = masked.sample(Y, 5).samples
    assert torch.equal(masked.sample(Y, 5, omega=np.ones(5)).samples, everything)
    assert not torch.equal(everything, by_nan)
    nothing = masked.sample(np.full(5, np.nan), 3000)
    assert nothing.samples.isfinite().all()
    z = (nothing.mean().numpy() - PRIOR_MEAN) / np.sqrt(np.diag(PRIOR)) * 3000**0.5
    assert np.abs(z).max() < limit(3) + 3000**0.5 * (5 / PAIRS**0.5 + 0.01)


def test_missing_entries_are_refused_where_none_were_trained(posterior):
    y = Y[0].copy()
    y[2] = np.nan
    with pytest.raises(InputError, match="missing"):
        posterior.sample(y, 3)
    with pytest.raises(InputError, match="missing"):
        posterior.sample(Y[0], 3, omega=np.array([1, 1, 0, 1, 1]))
    assert torch.equal(posterior.sample(Y, 3, omega=np.ones(5)).samples, posterior.sample(Y, 3).samples)
    assert posterior.no_network().sample(y, 3).samples.isfinite().all()  # needs no training


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        (np.zeros((20, 2)), np.zeros((19, 2)), "y:"),
        (np.zeros((9, 2)), np.zeros((9, 2)), "x:"),
        (np.full((20, 2), np.nan), np.zeros((20, 2)), "x:"),
        (np.full((20, 2), np.inf), np.zeros((20, 2)), "x:"),
        (np.zeros((20, 2)), np.full((20, 2), np.inf), "y:"),
        (np.zeros((20, 2)), np.random.default_rng(0).normal(size=(20, 2)), "x: entries 0, 1 never vary"),
        ("x", np.zeros((20, 2)), "x:"),
        (np.zeros((20, 2), complex), np.zeros((20, 2)), "x:"),
        (np.zeros(()), np.zeros(()), "x:"),
    ],
)
def test_bad_pairs_are_refused(x, y, reason):
    with pytest.raises(InputError, match=reason):
        fokker.fit(x, y, recipe=RECIPE)


def test_bad_names_are_refused():
    for given in ({"recipe": "other"}, {"coordinates": "other"}, {"seed": -1}, {"steps": 0}):
        with pytest.raises(InputError, match=next(iter(given))):
            fokker.fit(*pairs(50), **given)


@pytest.mark.parametrize(("x_shape", "y_shape"), [((), ()), ((2, 2), (3,)), ((1,), (2, 2))])
@pytest.mark.parametrize("coordinates", ["posterior", "standard"])
def test_shapes_of_fields(x_shape, y_shape, coordinates):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, *x_shape)), rng.normal(size=(60, *y_shape))
    fitted = fokker.fit(x, y, recipe=RECIPE, coordinates=coordinates, steps=2)
    expected = x_shape or (1,)
    assert fitted.sample(y[0] if y_shape else y[:1], 4).samples.shape == (4, *expected)
    assert fitted.sample(y[:2] if y_shape else y[:2, None], 4).samples.shape == (2, 4, *expected)


# --- What a sample depends on


def test_a_sample_depends_on_seed_and_measurement_only(posterior, monkeypatch):
    whole = posterior.sample(Y, 300).samples
    torch.testing.assert_close(posterior.sample(Y[:2], 300).samples, whole[:2], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(posterior.sample(Y, 20).samples, whole[:, :20], rtol=1e-4, atol=1e-4)
    assert torch.equal(posterior.sample(Y, 300).samples, whole)
    assert not torch.equal(posterior.sample(Y, 300, seed=1).samples, whole)
    monkeypatch.setattr("fokker.samplers.loop.CHUNK", 77)
    monkeypatch.setattr("fokker.posterior.gaussian_conditional.CHUNK", 600)
    torch.testing.assert_close(posterior.sample(Y, 300).samples, whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        posterior.no_network().sample(Y[:2], 300).samples, posterior.no_network().sample(Y, 300).samples[:2]
    )


@pytest.mark.parametrize("process", [p for p in PROCESSES if p.startswith("vp")] + ["ve_geometric"])
def test_every_process_gives_the_same_samples_on_one_rho_grid(posterior, process):
    """One training serves all; float32 states, so up to its rounding."""
    moved = posterior.on(PROCESSES[process])
    for name in ("transition2_0", "transition1_1", "heun"):
        samples = moved.sample(Y, 20, sampler=ALL_SAMPLERS[name]).samples
        expected = posterior.sample(Y, 20, sampler=ALL_SAMPLERS[name]).samples
        torch.testing.assert_close(samples, expected, rtol=1e-3, atol=1e-3)
    assert moved.model.process is PROCESSES[process] and posterior.model.process != PROCESSES[process]


def test_settings_repeat_the_run(posterior):
    result = posterior.sample(Y, 5, seed=3, steps=7, sampler=fokker.Transition(alpha=0.5))
    settings = result.settings
    assert settings["seed"] == 3 and len(settings["times"]) == 8 and settings["coordinates"] == "posterior"
    again = posterior.sample(
        Y,
        5,
        seed=3,
        sampler=fokker.Transition(alpha=settings["sampler"]["alpha"]),
        grid=torch.tensor(settings["times"]),
    )
    torch.testing.assert_close(again.samples, result.samples, rtol=1e-4, atol=1e-4)
    assert result.nfe == 7 and result.seconds > 0


# --- Files


@pytest.mark.parametrize("coordinates", ["posterior", "standard", "minmax", "none"])
def test_save_and_load_give_identical_samples(tmp_path, coordinates):
    x, y = pairs(200)
    process = fokker.VariancePreserving(n=1.5)
    x = np.maximum(x, 0.0)
    fitted = fokker.fit(x, y, recipe=RECIPE, coordinates=coordinates, process=process, clip=(0.0, None), steps=5)
    fitted.save(tmp_path / "model")
    loaded = fokker.load(tmp_path / "model")
    assert torch.equal(loaded.sample(Y, 10).samples, fitted.sample(Y, 10).samples)
    assert loaded.model.process == process and loaded.clip == (0.0, None)
    moved = fitted.on(fokker.VarianceExploding(30.0))
    moved.save(tmp_path / "moved")
    assert torch.equal(fokker.load(tmp_path / "moved").sample(Y, 10).samples, moved.sample(Y, 10).samples)


def test_masked_posteriors_stay_so_on_disk(tmp_path, masked):
    masked.save(tmp_path / "model")
    y = np.where([1, 0, 1, 1, 1], Y, np.nan)
    loaded = fokker.load(tmp_path / "model")
    assert torch.equal(loaded.sample(y, 4).samples, masked.sample(y, 4).samples)
    assert torch.equal(loaded.sample(Y, 4).samples, masked.sample(Y, 4).samples)


def test_files_that_are_no_model_are_refused(tmp_path, posterior):
    with pytest.raises(InputError, match=r"model\.json"):
        fokker.load(tmp_path / "nothing")
    posterior.save(tmp_path / "model")
    for text in ("{}", "[]", '{"format": 99, "kind": "conditional"}'):
        (tmp_path / "model" / "model.json").write_text(text)
        with pytest.raises(InputError, match=r"model\.json"):
            fokker.load(tmp_path / "model")
    posterior.save(tmp_path / "model")
    broken = (tmp_path / "model" / "model.json").read_text().replace('"width": 32', '"width": 33')
    (tmp_path / "model" / "model.json").write_text(broken)
    with pytest.raises(InputError, match="do not belong together"):
        fokker.load(tmp_path / "model")


def test_a_process_of_functions_samples_but_is_not_saved(posterior, tmp_path):
    own = posterior.on(PROCESSES["custom"])
    assert own.sample(Y, 3).settings["process"]["name"] == "custom"
    with pytest.raises(InputError, match="process: CustomProcess is made of functions"):
        own.save(tmp_path / "model")
    posterior.on(PROCESSES["ddpm_cosine"]).save(tmp_path / "model")
    assert fokker.load(tmp_path / "model").model.process == PROCESSES["ddpm_cosine"]


# --- Clipping, precision, other formats


def test_samples_are_clipped_to_declared_bounds():
    x, y = pairs(500)
    x = np.clip(x, 0.0, 2.0)
    recipe = replace(RECIPE, spread_atoms=False)
    clipped = fokker.fit(x, y, recipe=recipe, clip=(0.0, 2.0), steps=5)
    free = fokker.fit(x, y, recipe=recipe, steps=5)
    low = clipped.sample(Y, 200).samples
    assert float(low.min()) == 0.0 and float(low.max()) == 2.0
    assert torch.equal(low, free.sample(Y, 200).samples.clamp(0.0, 2.0))
    baseline = clipped.no_network().sample(Y, 200).samples
    assert torch.equal(baseline, free.no_network().sample(Y, 200).samples.clamp(0.0, 2.0))


def test_an_atom_keeps_its_probability():
    """x = max(0, g) with g ~ N(0, 1), observed through strong noise: half of the samples are at 0 on average over y.

    Over 50 measurements with 200 samples each: the probability of the atom given y is known in closed form."""
    rng = np.random.default_rng(0)
    g = rng.normal(size=(4000, 1))
    x, y = np.maximum(g, 0), g + rng.normal(size=(4000, 1))
    fitted = fokker.fit(x, y, recipe=RECIPE, clip=(0.0, None), steps=1500)
    test = np.linspace(-2, 2, 9)[:, None]
    found = (fitted.sample(test, 2000).samples == 0).double().mean((1, 2)).numpy()
    exact_atom = norm.cdf(-test[:, 0] / 2, scale=0.5**0.5)  # g | y ~ N(y / 2, 1 / 2)
    # 0.05 for a small network after 1,500 steps; the Monte-Carlo error of 2000 samples is 0.011.
    assert np.abs(found - exact_atom).mean() < 0.05 + limit(1) * 0.011 / 3
    unspread = fokker.fit(x, y, recipe=replace(RECIPE, spread_atoms=False), clip=(0.0, None), steps=1500)
    half = (unspread.sample(test, 2000).samples == 0).double().mean((1, 2)).numpy()
    assert np.abs(half - exact_atom).mean() > np.abs(found - exact_atom).mean()  # the control


def test_values_beyond_the_bounds_are_refused():
    x, y = pairs(50)
    for clip, name in (((0.0, None), "lower"), ((None, 0.0), "upper")):
        with pytest.raises(InputError, match=f"beyond the {name} bound"):
            fokker.fit(x, y, recipe=RECIPE, clip=clip)


def test_no_network_belongs_to_posterior_coordinates():
    fitted = fokker.fit(*pairs(100), recipe=RECIPE, coordinates="standard", steps=1)
    with pytest.raises(InputError, match="no_network"):
        fitted.no_network()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_pairs_of_any_real_dtype(dtype):
    x, y = pairs(100)
    fitted = fokker.fit((10 * x).astype(dtype), (10 * y).astype(dtype), recipe=RECIPE, steps=2)
    assert fitted.sample(Y, 3).samples.dtype == torch.float32


def test_a_network_in_double_precision_samples_in_double():
    x, y = pairs(200)
    network = fokker.networks.mlp.ConditionalMLP(3, 8, 16, 2, 16, 2).double()
    fitted = fokker.fit(x, y, recipe=RECIPE, network=network, steps=2)
    assert fitted.sample(Y, 3).samples.dtype == torch.float64


def test_arviz_layout(posterior, tmp_path):
    pytest.importorskip("arviz_base")
    tree = posterior.sample(Y, 7, sampler=fokker.RK45(1e-2, 1e-2)).to_arviz()
    assert dict(tree["posterior"].sizes) == {"chain": 1, "draw": 7, "measurement": 6, "x_dim_0": 3}
    assert dict(tree["observed_data"].sizes) == {"measurement": 6, "y_dim_0": 5}
    assert tree["sample_stats"]["evaluations"].dims == ("chain", "draw", "measurement")
    samples = posterior.sample(Y, 7)
    tree = samples.to_arviz()
    np.testing.assert_array_equal(tree["posterior"]["x"].values[0, :, 2], samples.samples[2].numpy())
    one = posterior.sample(Y[0], 7).to_arviz()
    assert dict(one["posterior"].sizes) == {"chain": 1, "draw": 7, "x_dim_0": 3}
    assert dict(one["observed_data"].sizes) == {"y_dim_0": 5}


def test_samples_are_saved_as_a_store(posterior, tmp_path):
    xarray = pytest.importorskip("xarray")
    pytest.importorskip("zarr")
    samples = posterior.sample(Y, 7)
    samples.save(tmp_path / "posterior.zarr")
    tree = xarray.open_datatree(tmp_path / "posterior.zarr", engine="zarr", consolidated=False)
    np.testing.assert_array_equal(tree["posterior"]["x"].values[0].swapaxes(0, 1), samples.samples.numpy())
    assert tree.attrs["nfe"] == samples.nfe
    with pytest.raises(InputError, match="zarr"):
        samples.save(tmp_path / "posterior.nc")


def test_weighted_means_and_deviations():
    values = torch.tensor([[0.0], [1.0], [3.0]])
    made = fokker.PosteriorSamples(
        values, torch.zeros(1), False, 1, 0.0, {}, log_weights=torch.tensor([0.5, 0.25, 0.25]).log()
    )
    assert float(made.mean()) == pytest.approx(1.0)
    assert float(made.std()) == pytest.approx((0.5 * 1 + 0.25 * 0 + 0.25 * 4) ** 0.5)
    plain = replace(made, log_weights=None)
    assert float(plain.mean()) == pytest.approx(4 / 3) and float(plain.std()) == pytest.approx(float(values.std()))


# --- A recipe of one's own


def test_a_recipe_of_ones_own_survives_the_disk(tmp_path):
    """Name, sampler, grid and steps: the loaded posterior draws the same samples without being told."""
    recipe = replace(
        RECIPE, name="mine", sampler=fokker.EulerMaruyama(alpha=0.5), grid=fokker.LogSNR(), steps=5, level_mean=0.1
    )
    posterior = fokker.fit(*pairs(500), recipe=recipe, steps=20)
    posterior.save(tmp_path / "model")
    loaded = fokker.load(tmp_path / "model")
    assert loaded.recipe == posterior.recipe
    drawn, again = posterior.sample(Y, 50), loaded.sample(Y, 50)
    assert drawn.nfe == again.nfe == 5
    torch.testing.assert_close(again.samples, drawn.samples, rtol=0, atol=0)


@pytest.mark.parametrize(
    "own",
    [
        {"sampler": fokker.Transition(alpha=lambda rho: rho)},
        {"sampler": fokker.Ancestral(lambda z, rho, x_0_hat: z)},
        {"grid": lambda *a: torch.linspace(1, 0.1, 4)},
    ],
)
def test_a_function_of_ones_own_cannot_be_saved(own, tmp_path):
    posterior = fokker.fit(*pairs(500), recipe=replace(RECIPE, **own), steps=5)
    with pytest.raises(InputError, match="function"):
        posterior.save(tmp_path / "model")
    assert not (tmp_path / "model" / "model.json").exists()


def test_correlated_noise_cannot_be_saved(tmp_path):
    """Nothing on disk says which field it was: a model loaded with white noise would be another one."""
    field = fokker.CosineField(modes=8)
    noise = fokker.Correlated(field, torch.linspace(0, 1, 3, dtype=torch.float64)[:, None])
    process = fokker.VarianceExploding(noise=noise)
    posterior = fokker.fit(*pairs(500), recipe=RECIPE, steps=5)
    posterior.model.process = process
    with pytest.raises(InputError, match="correlated"):
        posterior.save(tmp_path / "model")


@pytest.mark.parametrize(
    ("pairs", "anew", "batch", "modulate"),
    [(9_000, False, 128, True), (9_000, True, 512, False), (50_000, False, 512, False)],
)
def test_the_default_recipe_follows_the_number_of_pairs(pairs, anew, batch, modulate):
    found = recipes.adapted(recipes.DEFAULT, pairs, anew)
    assert (found.training.batch_size, found.network.get("modulate", False)) == (batch, modulate)


def test_what_is_asked_for_is_not_adapted():
    """Coordinates and recipes that are given stay as they are; the name alone stands for the rule."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 2))
    y = x + rng.standard_normal((60, 2))
    assert fokker.fit(x, y, steps=1).recipe.coordinates == "curved"
    assert fokker.fit(x, y, steps=1, coordinates="posterior").recipe.coordinates == "posterior"
    assert fokker.fit(x, y, steps=1, recipe=recipes.DEFAULT).recipe.training.batch_size == 512
    assert fokker.fit(x, y, steps=1, likelihood=fokker.Gaussian(0.1)).recipe.training.batch_size == 512
