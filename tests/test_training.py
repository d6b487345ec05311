"""Training: what is minimised, what is kept, and that interrupted runs continue to the very same weights."""

import json
from dataclasses import asdict, replace

import pytest
import torch

import fokker
from exact import limit
from fokker.coordinates import estimate
from fokker.errors import InputError
from fokker.losses import LogNormalLevels
from fokker.networks.build import build
from fokker.networks.denoiser import PRECONDITIONINGS, NetworkScore
from fokker.networks.mlp import ConditionalMLP, PlainMLP
from fokker.parametrisations import PARAMETRISATIONS, to_x0
from fokker.posterior.recipes import DEFAULT, PUBLISHED
from fokker.rng import torch_generator
from fokker.states import Moments
from fokker.storage import read_tensors, write_tensors
from fokker.training import Trainer, TrainSettings, validation_levels

SMALL = {"kind": "conditional_mlp", "width": 16, "depth": 2, "trunk_width": 16, "trunk_depth": 2}
QUICK = TrainSettings(steps=40, batch_size=32, copies=2, warmup=5, validate_every=10)
RECIPE = replace(DEFAULT, network=SMALL, training=QUICK)


def pairs(count=300, seed=0):
    """The mean of x bends with y: x = y^2 / 2 + noise in the first entry."""
    generator = torch_generator(seed, "pairs")
    y = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    noise = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    return torch.stack([y[:, 0] ** 2 / 2, y[:, 1] - y[:, 2]], 1) + 0.3 * noise, y


def trainer(settings=QUICK, seed=0, coordinates="posterior", batch=None):
    x, y = pairs()
    mapping = estimate(coordinates, x, y)
    torch.manual_seed(0)
    network = ConditionalMLP(2, mapping.features({"y": y}).shape[1], 16, 2, 16, 2)
    model = NetworkScore(
        fokker.VarianceExploding(), network, mapping, Moments(torch.zeros(2), torch.ones(())), (0.002, 20.0)
    )
    xi, features = mapping.forward(x, {"y": y}).float(), mapping.features({"y": y})

    def rows(step):
        which = torch.randint(250, (settings.batch_size,), generator=torch_generator(seed, "batch", step))
        return xi[which], {"features": features[which]}

    levels = LogNormalLevels((0.002, 20.0), 1.0, -0.4, 1.4)
    return Trainer(model, batch or rows, levels, (xi[250:], {"features": features[250:]}), settings, seed)


def weights(network):
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def test_training_lowers_the_loss():
    run = trainer(replace(QUICK, steps=300, validate_every=100), coordinates="standard")  # nothing known of x given y
    before = validation_levels(run.model, run.model.network, run._validation, 0)
    records = list(run.run())
    assert [r.step for r in records] == [100, 200, 300] and all(r.steps == 300 for r in records)
    assert records[-1].validation_loss < 0.9 * sum(before.values()) / len(before)
    assert records[-1].training_loss < records[0].training_loss
    assert set(records[0].validation_levels) == {"0.02", "0.1", "0.3", "1", "3", "10"}


def test_the_same_seed_gives_the_same_weights():
    first, second, other = (trainer(seed=seed, coordinates="standard") for seed in (0, 0, 1))
    for run in (first, second, other):
        assert len(list(run.run())) == 4
    assert torch.equal(weights(first.model.network), weights(second.model.network))
    assert not torch.equal(weights(first.model.network), weights(other.model.network))


@pytest.mark.parametrize("after", [1, 2, 3, 4])
@pytest.mark.parametrize("schedule", ["cosine", "constant", "plateau"])
def test_a_run_resumed_from_its_files_has_the_very_same_weights(tmp_path, after, schedule):
    settings = replace(QUICK, schedule=schedule, weight_decay=1e-3)
    whole = trainer(settings)
    records = list(whole.run())
    broken = trainer(settings)
    for record in broken.run():
        if record.step == 10 * after:
            tensors, values = broken.state()
            break
    write_tensors(tmp_path / "state.safetensors", tensors, {"values": json.dumps(values)})
    read, metadata = read_tensors(tmp_path / "state.safetensors")
    resumed = trainer(settings)
    with torch.no_grad():
        for parameter in resumed.model.network.parameters():
            parameter.add_(1.0)  # nothing of its own start may be left
    resumed.resume(read, json.loads(metadata["values"]))
    rest = list(resumed.run())
    assert len(rest) == 4 - after
    for one, other in zip(whole._networks(), resumed._networks()):
        assert torch.equal(weights(one[1]), weights(other[1]))
    timeless = [{**asdict(r), "seconds": 0} for r in records]
    assert [{**asdict(r), "seconds": 0} for r in resumed.records] == timeless
    assert resumed.best_step == whole.best_step and resumed.best_loss == whole.best_loss


def test_a_state_does_not_change_while_training_goes_on():
    run = trainer()
    steps = run.run()
    next(steps)
    tensors, _ = run.state()
    before = {name: value.clone() for name, value in tensors.items()}
    next(steps)
    assert all(torch.equal(before[name], tensors[name]) for name in tensors)


def test_states_of_other_settings_are_refused():
    run = trainer()
    next(run.run())
    state = run.state()
    for other in (trainer(replace(QUICK, steps=50)), trainer(seed=1)):
        with pytest.raises(InputError, match="checkpoint"):
            other.resume(*state)


def test_the_best_weights_are_kept():
    """A learning rate that ruins the network after a good start: what is left is no worse than any validation."""
    run = trainer(replace(QUICK, steps=60, learning_rate=0.3, schedule="constant", warmup=30, ema=0.0))
    records = list(run.run())
    kept = validation_levels(run.model, run.model.network, run._validation, 0)
    loss = sum(kept.values()) / len(kept)
    untrained = trainer()
    start = validation_levels(untrained.model, untrained.model.network, untrained._validation, 0)
    assert loss <= min(r.validation_loss for r in records) + 1e-12
    assert loss <= sum(start.values()) / len(start) + 1e-12
    assert records[-1].validation_loss > loss and run.best_step < 60  # the control: the last weights are worse
    assert run.best_loss == pytest.approx(loss) and records[-1].best_step == run.best_step


def test_a_network_that_learns_nothing_is_not_used():
    x, _ = pairs()
    noise = torch.randn(32, 2, generator=torch_generator(0, "noise"))

    def useless(step):
        return 50 + noise, {"features": torch.zeros(32, 5)}

    run = trainer(replace(QUICK, ema=0.0), batch=useless)
    before = weights(run.model.network)
    assert len(list(run.run())) == 4
    assert run.best_step == 0 and torch.equal(weights(run.model.network), before) and len(x)


def test_patience_ends_a_run_that_no_longer_improves():
    run = trainer(replace(QUICK, steps=1000, learning_rate=0.3, schedule="constant", ema=0.0, patience=3))
    records = list(run.run())
    assert records[-1].step - run.best_step == 30 and records[-1].step < 1000


def test_a_loss_that_is_not_finite_is_told():
    def broken(step):
        return torch.full((32, 2), torch.nan if step == 7 else 1.0), {"features": torch.zeros(32, 5)}

    with pytest.raises(FloatingPointError, match="step 7"):
        list(trainer(batch=broken).run())


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"steps": 1.5},
        {"batch_size": 0},
        {"copies": -1},
        {"validate_every": True},
        {"schedule": "linear"},
        {"weighting": "none"},
        {"relative": -0.1},
    ],
)
def test_bad_settings_are_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        TrainSettings(**wrong)


# --- An untrained network


@pytest.mark.parametrize("sizes", [(16, 2), (32, 3)])
def test_an_untrained_network_is_the_gaussian_conditional(sizes):
    """EDM preconditioning with a last layer of zero: D = z d^2 / (d^2 + rho^2), the exact denoiser of N(0, I)."""
    run = trainer()
    run.model.network = ConditionalMLP(2, 5, *sizes, 16, 2)
    exact = fokker.GaussianScore(fokker.VarianceExploding(), torch.zeros(2), torch.eye(2))
    z, cond = 3 * torch.randn(10, 2, generator=torch_generator(0, "z")), {"features": torch.ones(10, 5)}
    for rho in (0.01, 0.5, 20.0):
        value = run.model.denoised(z, torch.tensor(rho, dtype=torch.float64), cond)
        torch.testing.assert_close(value, exact.denoise(z, exact.process.time_of(rho)), rtol=1e-5, atol=1e-6)


def test_its_validation_loss_is_one_at_every_level():
    """On data that are N(0, I) given y, to the Monte-Carlo error of 50 pairs x 2 entries (false-alarm rate 1e-4)."""
    run = trainer()
    x = torch.randn(20_000, 2, generator=torch_generator(0, "x"))
    by_level = validation_levels(run.model, run.model.network, (x, {"features": torch.zeros(20_000, 5)}), 0)
    # |D - x_0|^2 weight is chi-squared with 2 degrees of freedom over 2: variance 1 per pair.
    assert max(abs(v - 1) for v in by_level.values()) * 20_000**0.5 < limit(len(by_level))


def test_preconditionings_written_out():
    run = trainer()
    network = PlainMLP(2, 5, 16, 3)
    z, features = torch.randn(4, 2, generator=torch_generator(0, "z")), torch.ones(4, 5)
    process, rho, d = fokker.VariancePreserving(n=1.5), torch.tensor(0.7, dtype=torch.float64), 1.3
    common = (run.model.coordinates, run.model.moments, (0.002, 20.0))
    edm = NetworkScore(process, network, *common, data_std=d)
    level = torch.full((4,), float(rho.log() / 4))
    total = d**2 + 0.49
    expected = d**2 / total * z + 0.7 * d / total**0.5 * network(z / total**0.5, level, features)
    torch.testing.assert_close(edm.denoised(z, rho, {"features": features}), expected, rtol=1e-5, atol=1e-6)
    eps = NetworkScore(process, network, *common, preconditioning="eps", data_std=d)
    t = process.time_of(rho)
    noise = network((process.scale(t) * z).float(), t.float().expand(4), features)
    torch.testing.assert_close(eps.denoised(z, rho, {"features": features}), z - 0.7 * noise, rtol=1e-5, atol=1e-6)
    moved = eps.on(fokker.VarianceExploding()).denoised(z, rho, {"features": features})
    torch.testing.assert_close(moved, z - 0.7 * noise, rtol=1e-5, atol=1e-6)
    for name in PARAMETRISATIONS:
        model = NetworkScore(process, network, *common, preconditioning=name, data_std=d)
        expected = to_x0((process.scale(t) * z).float(), t, process, **{name: noise})
        for at in (process, fokker.VarianceExploding()):
            value = model.on(at).denoised(z, rho, {"features": features})
            torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(InputError, match="preconditioning"):
        NetworkScore(process, network, *common, preconditioning="other")


@pytest.mark.parametrize("preconditioning", PRECONDITIONINGS)
@pytest.mark.parametrize("process", [fokker.VarianceExploding(sigma_max=5.0), fokker.VariancePreserving(n=1)])
def test_every_preconditioning_learns_a_linear_gaussian_problem(preconditioning, process):
    """Trained on the squared error of its own quantity, judged by the score loss, against the untrained network."""
    generator = torch_generator(0, "linear")
    y = torch.randn(400, 1, generator=generator)
    x = y + 0.3 * torch.randn(400, 1, generator=generator)
    recipe = replace(PUBLISHED, preconditioning=preconditioning, network={"kind": "plain_mlp", "width": 32, "depth": 3})
    losses = []
    for steps, rate in ((1, 0.0), (150, 3e-3)):
        settings = TrainSettings(
            steps=steps, batch_size=128, copies=2, learning_rate=rate, warmup=10, ema=0.9, weighting=preconditioning
        )
        posterior = fokker.fit(
            x, y, process=process, recipe=replace(recipe, training=settings),
            progress=lambda record: losses.append(record.validation_loss),
        )  # fmt: skip
    assert losses[-1] < 0.7 * losses[0]
    assert posterior.sample(y[:2], 4, steps=20).samples.isfinite().all()


def test_the_embedding_is_computed_once_for_each_measurement():
    model, features = trainer().model, torch.randn(3, 5, generator=torch_generator(0, "f"))
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.normal_(generator=torch_generator(0, "w"), std=0.3)
    prepared = model.prepare({"features": features})
    assert model.prepare(prepared) is prepared and len(prepared["embedding"]) == 3
    z, rho = torch.ones(3, 2), torch.tensor(0.5, dtype=torch.float64)
    torch.testing.assert_close(model.denoised(z, rho, prepared), model.denoised(z, rho, {"features": features}))


@pytest.mark.parametrize("network", [ConditionalMLP(2, 5, 16, 3, 8, 2), PlainMLP(2, 5, 16, 3)])
def test_networks_are_rebuilt_from_their_settings(network):
    other = build(network.settings())
    other.load_state_dict(network.state_dict())
    level, x, features = torch.tensor([0.1]), torch.ones(4, 2), torch.ones(4, 5)
    expected = network(x, level, network.embed(features))
    assert torch.equal(other(x, level, other.embed(features)), expected)
    each = network(x, level.expand(4), network.embed(features))
    torch.testing.assert_close(each, expected)
    with pytest.raises(InputError, match="network"):
        build({"kind": "other"})


# --- fit in a folder


class Interrupted(Exception):
    pass


def stop_at(step):
    def progress(record):
        if record.step == step:
            raise Interrupted

    return progress


@pytest.mark.parametrize("step", [10, 30, 40])
def test_a_fit_that_was_interrupted_continues_to_the_same_weights(tmp_path, step):
    x, y = pairs()
    whole = fokker.fit(x, y, recipe=RECIPE, seed=3)
    with pytest.raises(Interrupted):
        fokker.fit(x, y, recipe=RECIPE, seed=3, out=tmp_path / "fit", progress=stop_at(step))
    seen = []
    resumed = fokker.fit(x, y, recipe=RECIPE, seed=3, out=tmp_path / "fit", progress=seen.append)
    assert [record.step for record in seen] == list(range(step + 10, 41, 10))
    assert torch.equal(weights(resumed.model.network), weights(whole.model.network))
    again = []
    loaded = fokker.fit(x, y, recipe=RECIPE, seed=3, out=tmp_path / "fit", progress=again.append)
    assert again == [] and torch.equal(weights(loaded.model.network), weights(whole.model.network))


def test_a_folder_of_other_data_or_settings_is_refused(tmp_path):
    x, y = pairs()
    folder = tmp_path / "fit"
    with pytest.raises(Interrupted):
        fokker.fit(x, y, recipe=RECIPE, out=folder, progress=stop_at(20))

    def refused():
        changed = x.clone()
        changed[5, 1] += 1e-12
        with pytest.raises(InputError, match="other data"):
            fokker.fit(changed, y, recipe=RECIPE, out=folder)
        with pytest.raises(InputError, match="other data"):
            fokker.fit(x, y, recipe=RECIPE, likelihood=fokker.Gaussian(0.1), out=folder)
        with pytest.raises(InputError, match="training"):
            fokker.fit(x, y, recipe=RECIPE, steps=50, out=folder)
        with pytest.raises(InputError, match="seed"):
            fokker.fit(x, y, recipe=RECIPE, seed=1, out=folder)
        with pytest.raises(InputError, match="process"):
            fokker.fit(x, y, recipe=RECIPE, process=fokker.VariancePreserving(), out=folder)
        with pytest.raises(InputError, match="coordinates"):
            fokker.fit(x, y, recipe=RECIPE, coordinates="standard", out=folder)
        with pytest.raises(InputError, match="level"):
            fokker.fit(x, y, recipe=replace(RECIPE, level_mean=0.0), out=folder)
        with pytest.raises(InputError, match="held_out"):
            fokker.fit(x, y, recipe=replace(RECIPE, held_out=0.1), out=folder)

    refused()
    fokker.fit(x, y, recipe=RECIPE, out=folder)
    refused()


@pytest.mark.parametrize(
    "build",
    [
        lambda s: fokker.Gaussian(covariance=s * torch.eye(3)),
        lambda s: fokker.Gaussian(s * torch.ones(3)),
        lambda s: fokker.Poisson(2.0, s * torch.ones(3)),
    ],
)
def test_laws_whose_arrays_print_alike_are_other_data(tmp_path, build):
    x, y = pairs()
    fokker.fit(x, y, recipe=RECIPE, likelihood=build(1.1), out=tmp_path / "fit")
    fokker.fit(x, y, recipe=RECIPE, likelihood=build(1.1), out=tmp_path / "fit")
    with pytest.raises(InputError, match="other data"):
        fokker.fit(x, y, recipe=RECIPE, likelihood=build(1.1 * (1 + 1e-6)), out=tmp_path / "fit")


def test_the_global_random_state_is_left_alone(tmp_path):
    x, y = pairs()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fokker.fit(x, y, recipe=RECIPE)
    assert torch.equal(torch.rand(3), expected)


def test_the_published_recipe_is_that_of_the_paper():
    assert (PUBLISHED.coordinates, PUBLISHED.preconditioning, PUBLISHED.levels) == ("minmax", "eps", "uniform_t")
    assert PUBLISHED.training.schedule == "constant" and PUBLISHED.training.weighting == "eps"
    assert PUBLISHED.network["kind"] == "plain_mlp" and PUBLISHED.grid == fokker.UniformTime()
    quick = replace(PUBLISHED, training=replace(PUBLISHED.training, steps=20, batch_size=32, validate_every=10))
    x, y = pairs()
    posterior = fokker.fit(x, y, recipe=quick, process=fokker.VariancePreserving(n=1))
    assert posterior.sample(y[:2], 4, steps=20).samples.isfinite().all()


def test_a_plateau_ends_where_nothing_gets_better_and_falls_to_zero():
    """Pairs without any relation, few enough to be learned by heart: the rate leaves its plateau after the patience,
    the weights are the best again, and the rate falls to its last step in a third of the steps so far.
    """
    x, y = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)), torch.randn(200, 3)
    settings = replace(DEFAULT.training, schedule="plateau", steps=4000, validate_every=20, patience=5, batch_size=100)
    records = []
    fokker.fit(x, y, recipe=replace(DEFAULT, training=settings), progress=records.append)
    steps = [record.step for record in records]
    left = next(r.step for r in records if r.step - r.best_step >= 100)
    assert steps[-1] == left + max(1, left // 3) < 4000


def test_a_plateau_that_nothing_ends_is_left_for_the_last_quarter():
    """Rates step by step: constant for three quarters of the steps, then a straight line to zero."""
    run = trainer(replace(QUICK, schedule="plateau", steps=80, warmup=1, patience=100))
    rates, step = [], run._one_step

    def watched(index):
        found = step(index)
        rates.append(run.optimizer.param_groups[0]["lr"])
        return found

    run._one_step = watched
    assert len(list(run.run())) == 8
    expected = [1.0] * 60 + [1 - k / 20 for k in range(20)]
    assert torch.allclose(torch.tensor(rates) / run.settings.learning_rate, torch.tensor(expected))
