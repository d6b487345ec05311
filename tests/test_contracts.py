"""The seams that later work needs, on exact models: every sampler with every kind of state, noise, condition and batch.

A new process, sampler or noise is one row in the lists of `exact.py`.
"""

import re
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

import fokker
from exact import (
    ALL_SAMPLERS,
    PROCESSES,
    SAMPLERS,
    Fixed,
    Frozen,
    gaussian,
    growing,
    levels,
    limit,
    mixture,
    moment_z,
)
from fokker.errors import InputError
from fokker.noise import White
from fokker.rng import Rows
from fokker.samplers import loop, sampler_from_settings
from fokker.score import Denoiser, Joint, MixtureScore
from fokker.states import Moments

F64 = torch.float64
each_sampler = pytest.mark.parametrize("sampler", ALL_SAMPLERS)
IN_RHO = [name for name in ALL_SAMPLERS if not name.startswith(("euler", "heun_time"))]
LOOK_AHEAD = [n for n in ALL_SAMPLERS if n.startswith(("heun", "rk45", "predictor", "annealed"))]  # to the level s
ONE_PART = [name for name in ALL_SAMPLERS if name != "rk45"]


def draw(model, sampler, count=40, **given):
    given = {"steps": 6, "seed": 1, **given}
    return fokker.sample(model, (count, 2), sampler=ALL_SAMPLERS[sampler], **given)


def close(a, b, tolerance=1e-9):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


# --- One denoiser on every process


@pytest.mark.parametrize("sampler", IN_RHO)
@pytest.mark.parametrize("noise", [White(), Fixed()])
def test_all_processes_coincide_on_one_rho_grid(sampler, noise):
    """ODE and SDE: the samplers step in rho, so on the times of one rho grid they are literally one algorithm."""
    rho = torch.tensor([15.0, 6.0, 2.0, 0.7, 0.2, 0.05], dtype=F64)
    base, found = mixture(replace(PROCESSES["vp2"], noise=noise)), {}
    for name, process in PROCESSES.items():
        model = base.on(replace(process, noise=noise))
        times = torch.cat([model.process.time_of(rho), torch.zeros(1, dtype=F64)])
        found[name] = draw(model, sampler, grid=times).samples
    for name in PROCESSES:
        close(found[name], found["vp2"], 1e-8 if sampler == "rk45" else 1e-9)


@pytest.mark.parametrize("sampler", IN_RHO)
def test_all_processes_coincide_on_the_default_grid(sampler):
    """All of them reach 20 standard deviations of these data."""
    base = gaussian(PROCESSES["vp2"])
    first = draw(base, sampler).samples
    for process in PROCESSES.values():
        close(draw(base.on(process), sampler).samples, first, 1e-8)


# --- alpha as a function of rho

WITH_ALPHA = [
    fokker.Transition,
    lambda alpha: fokker.Transition(alpha, 2),
    fokker.GaussianTransition,
    fokker.EulerMaruyama,
    fokker.HeunTime,
]


@pytest.mark.parametrize("kind", WITH_ALPHA)
def test_alpha_as_a_constant_function_is_the_number(kind):
    model = mixture(PROCESSES["vp1.5"])
    number, function = (
        fokker.sample(model, (30, 2), sampler=kind(alpha), steps=8).samples
        for alpha in (0.7, lambda rho: 0.7 + 0 * rho)
    )
    close(number, function, 1e-11)
    scalar = fokker.sample(model, (30, 2), sampler=kind(lambda rho: 0.7), steps=8).samples
    close(number, scalar, 1e-11)


@pytest.mark.parametrize("kind", [fokker.Transition, fokker.GaussianTransition, fokker.EulerMaruyama, fokker.HeunTime])
@pytest.mark.parametrize("alpha", [-0.1, float("nan"), float("inf"), True, "1"])
def test_bad_alphas_are_refused(kind, alpha):
    with pytest.raises(InputError, match="alpha"):
        kind(alpha=alpha)
    if not isinstance(alpha, str | bool):
        with pytest.raises(InputError, match="alpha"):
            fokker.sample(gaussian(PROCESSES["vp2"]), (2, 2), sampler=kind(alpha=lambda rho: alpha + 0 * rho))


def test_bad_orders_and_tolerances_are_refused():
    for order in (0, 3, 1.5):
        with pytest.raises(InputError, match="order"):
            fokker.Transition(order=order)
    for bad in (0.0, -1.0, float("nan")):
        with pytest.raises(InputError, match="tol"):
            fokker.RK45(rtol=bad)
        with pytest.raises(InputError, match="tol"):
            fokker.RK45(atol=bad)


# --- Named parts


@dataclass(frozen=True)
class Renamed(White):
    """White noise under the keys that a part of a joint model has."""

    name: str = ""

    def key(self, key):
        return key.at(part=self.name) if key.step else replace(key, part=f"/{self.name}{key.part}")

    def sample(self, like, key, points=None):
        return super().sample(like, self.key(key), points)


@dataclass(frozen=True)
class RenamedMoments(Moments):
    noise: Renamed

    def draw(self, like, key):
        return super().draw(like, self.noise.key(key))


def alone(model, name):
    """The model by itself, with the noise it has as the part `name` of a joint one."""
    noise = Renamed(name)
    other = model.on(replace(model.process, noise=noise))
    other.moments = RenamedMoments(model.moments.mean, model.moments.factor, noise)
    return other


@pytest.mark.parametrize("sampler", ONE_PART)
def test_joint_equals_separate_sampling(sampler):
    one = MixtureScore(
        PROCESSES["vp1"], [0.5, 0.5], torch.tensor([[-1.0], [1.0]], dtype=F64), 0.1 * torch.ones(2, 1, 1)
    )
    x, k = mixture(PROCESSES["vp1.5"]), one
    joint = Joint(x=x, k=k)
    t_min, t_max = joint.time_range
    times = torch.cat([fokker.UniformTime()(x.process, 6, t_min, t_max), torch.zeros(1, dtype=F64)])
    shapes = {"x": (40, 2), "k": (40, 1)}
    result = fokker.sample(joint, shapes, sampler=ALL_SAMPLERS[sampler], grid=times, trajectory=True)
    for name, model in (("x", x), ("k", k)):
        expected = fokker.sample(
            alone(model, name), shapes[name], sampler=ALL_SAMPLERS[sampler], grid=times, trajectory=True
        )
        close(result.samples[name], expected.samples)
        close(result.trajectory[name], expected.trajectory)
        assert result.nfe == expected.nfe
        assert result.settings["process"][name] == model.process.settings()


def test_parts_never_share_noise():
    model = gaussian(PROCESSES["vp2"])
    shapes = {"a": (2000, 2), "b": (2000, 2)}
    samples = fokker.sample(Joint(a=model, b=model), shapes, sampler=fokker.Transition(alpha=1.0), steps=8).samples
    together = torch.cat([samples["a"], samples["b"]], 1)
    correlation = torch.corrcoef(together.T)[:2, 2:] * 2000**0.5
    assert correlation.abs().max() < limit(4)


def test_rk45_refuses_named_parts():
    joint = Joint(x=gaussian(PROCESSES["vp2"]))
    with pytest.raises(InputError, match="named parts"):
        fokker.sample(joint, {"x": (3, 2)}, sampler=fokker.RK45())


# --- States of any shape, dtypes


class White3(Frozen):
    """N(0, I) for states of any shape."""

    def denoised(self, z, rho, cond):
        return z / (1 + fokker.states.column(rho, z) ** 2)


@each_sampler
@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (2, 1, 3)])
def test_states_of_any_shape(sampler, shape):
    model = White3(PROCESSES["vp1.5"], torch.zeros(2))
    model.moments = Moments(torch.zeros(shape), torch.ones(()))
    samples = fokker.sample(model, (5, *shape), sampler=ALL_SAMPLERS[sampler], steps=5).samples
    flat = White3(PROCESSES["vp1.5"], torch.zeros(2))
    size = int(np.prod(shape))
    flat.moments = Moments(torch.zeros(size), torch.ones(()))
    expected = fokker.sample(flat, (5, size), sampler=ALL_SAMPLERS[sampler], steps=5).samples
    assert samples.shape == (5, *shape) and samples.dtype == torch.float32
    close(samples.reshape(5, size), expected, 1e-5)


@each_sampler
def test_float32_and_float64(sampler):
    """The noise is the same, so the samples differ by the rounding of a few steps only."""
    process = PROCESSES["vp1.5"]
    single, double = (draw(gaussian(process, dtype), sampler).samples for dtype in (torch.float32, F64))
    assert single.dtype == torch.float32 and double.dtype == F64
    close(single.double(), double, 2e-4 if sampler == "rk45" else 2e-5)


# --- Batches


@each_sampler
@pytest.mark.parametrize("chunk", [7, 256, 1000])
def test_a_sample_does_not_depend_on_the_chunks(sampler, chunk, monkeypatch):
    model = mixture(PROCESSES["vp2"])
    count = 1100 if chunk == 1000 else 300
    whole = draw(model, sampler, count, steps=3, trajectory=True)
    monkeypatch.setattr(loop, "CHUNK", chunk)
    cut = draw(model, sampler, count, steps=3, trajectory=True)
    close(cut.samples, whole.samples)
    close(cut.trajectory, whole.trajectory)
    assert cut.nfe == whole.nfe
    assert all(torch.equal(cut.info[name], whole.info[name]) for name in whole.info)


@each_sampler
def test_a_sample_does_not_depend_on_who_else_is_drawn(sampler):
    model = mixture(PROCESSES["ve_geometric"])
    rows = Rows.grid(3, 300)
    whole = fokker.sample(model, (900, 2), sampler=ALL_SAMPLERS[sampler], steps=3, seed=1, rows=rows).samples
    for which in (np.array([0, 299, 300, 899]), np.array([555]), np.random.default_rng(0).permutation(900)[:50]):
        some = Rows(rows.measurement[which], rows.sample[which])
        part = fokker.sample(model, (len(which), 2), sampler=ALL_SAMPLERS[sampler], steps=3, seed=1, rows=some)
        close(part.samples, whole[torch.from_numpy(which)])
    close(draw(model, sampler, 300, steps=3).samples, whole[:300])
    assert not torch.equal(whole[:300], whole[300:600])


def test_rk45_of_a_sample_does_not_depend_on_a_hard_neighbour():
    """One row with a rough denoiser takes many more steps; the others go on as they would alone."""

    class Hard(MixtureScore):
        def denoised(self, z, rho, cond):
            easy = super().denoised(z, rho, cond)
            return torch.where(cond["hard"] > 0, easy + 0.3 * torch.sin(40 * z), easy)

    base = mixture(PROCESSES["ve_linear"])
    model = Hard(base.process, base.weights, base.means, base.covariances)
    grid = levels(base.process, 1, 10.0, 0.1)
    sampler = fokker.RK45(rtol=1e-6, atol=1e-6)
    hard = torch.zeros(20, 1)
    easy = fokker.sample(model, (20, 2), sampler=sampler, grid=grid, cond={"hard": hard})
    hard[7] = 1.0
    mixed = fokker.sample(model, (20, 2), sampler=sampler, grid=grid, cond={"hard": hard})
    others = [i for i in range(20) if i != 7]
    close(mixed.samples[others], easy.samples[others])
    assert torch.equal(mixed.info["evaluations"][others], easy.info["evaluations"][others])
    assert mixed.info["evaluations"][7] > 2 * easy.info["evaluations"].max()


@each_sampler
def test_a_sample_does_not_depend_on_the_threads(sampler):
    model, before = mixture(PROCESSES["vp3"]), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = draw(model, sampler, 3000, steps=3).samples
        torch.set_num_threads(4)
        four = draw(model, sampler, 3000, steps=3).samples
    finally:
        torch.set_num_threads(before)
    close(one, four)


def test_seeds_and_measurements_have_noise_of_their_own():
    model, rows = gaussian(PROCESSES["vp2"]), Rows.grid(2, 2000)
    first, second = fokker.sample(model, (4000, 2), steps=4, rows=rows).samples.chunk(2)
    other = fokker.sample(model, (2000, 2), steps=4, seed=1).samples
    correlation = torch.corrcoef(torch.cat([first, second, other], 1).T) * 2000**0.5
    between = torch.cat([correlation[:2, 2:].flatten(), correlation[2:4, 4:].flatten()])
    assert between.abs().max() < limit(len(between))


# --- Conditions


class Shifted(MixtureScore):
    """The mixture moved by cond["shift"] (B, 2) and scaled by cond["size"] (B, 1): a conditional model, exactly."""

    def denoised(self, z, rho, cond):
        inner = super().denoised((z - cond["shift"]) / cond["size"], rho.reshape(-1) / cond["size"][:, 0], cond)
        return cond["shift"] + cond["size"] * inner


def shifted():
    base = mixture(PROCESSES["vp1.5"])
    return Shifted(base.process, base.weights, base.means, base.covariances)


@each_sampler
def test_conditions_as_a_dict_for_one_for_each_and_for_measurements(sampler, monkeypatch):
    monkeypatch.setattr(loop, "CHUNK", 9)
    generator = torch.Generator().manual_seed(0)
    shift = torch.randn(3, 2, generator=generator, dtype=F64)
    size = 1 + torch.rand(3, 1, generator=generator, dtype=F64)
    model, rows = shifted(), Rows.grid(3, 7)
    sampler = ALL_SAMPLERS[sampler]

    def run(cond, rows, count):
        return fokker.sample(model, (count, 2), sampler=sampler, steps=4, cond=cond, rows=rows).samples

    by_measurement = run({"shift": shift, "size": size}, rows, 21)
    each = {"shift": shift.repeat_interleave(7, 0), "size": size.repeat_interleave(7, 0)}
    close(run(each, rows, 21), by_measurement)
    for m in range(3):
        one = Rows(np.full(7, m), np.arange(7))
        close(run({"shift": shift[m : m + 1], "size": size[m : m + 1]}, one, 7), by_measurement[7 * m : 7 * m + 7])
    mixed = run({"shift": shift, "size": size[:1]}, rows, 21)
    close(mixed[:7], by_measurement[:7])


def test_a_tensor_is_short_for_y():
    class OfY(MixtureScore):
        def denoised(self, z, rho, cond):
            return super().denoised(z - cond["y"], rho, cond) + cond["y"]

    base = mixture(PROCESSES["vp2"])
    model = OfY(base.process, base.weights, base.means, base.covariances)
    y = torch.arange(10.0, dtype=F64).reshape(5, 2)
    named = fokker.sample(model, (5, 2), steps=4, cond={"y": y}).samples
    assert torch.equal(fokker.sample(model, (5, 2), steps=4, cond=y).samples, named)


@pytest.mark.parametrize("count", [2, 5, 11])
def test_conditions_for_another_number_of_samples_are_refused(count):
    with pytest.raises(InputError, match="'y': got"):
        fokker.sample(gaussian(PROCESSES["vp2"]), (10, 2), steps=2, cond=torch.zeros(count, 2))
    rows = Rows.grid(12, 1)
    with pytest.raises(InputError, match="'y': got"):
        fokker.sample(gaussian(PROCESSES["vp2"]), (12, 2), steps=2, cond=torch.zeros(count, 2), rows=rows)


# --- Functions on point sets

PRIOR = fokker.CosineField(modes=16, alpha=2.0, tau=2.0, amplitude=3.0)
COLOR = fokker.CosineField(modes=20, alpha=1.2, tau=3.0, amplitude=2.0)


class FunctionScore(Denoiser):
    """f ~ N(0, K) seen at cond["points"] (B, P, 1); where cond["mask"] is zero there is padding: exact."""

    def __init__(self, process, dtype=F64):
        self.process, self.dtype, self.device = process, dtype, torch.device("cpu")
        self.rho_range, self.data_std = (0.01, 20.0), 1.0
        self.prior = fokker.Correlated(PRIOR)

    def denoised(self, z, rho, cond):
        mask = cond["mask"].double()
        phi, color = PRIOR.basis(cond["points"]), COLOR.basis(cond["points"])
        k, c = phi @ phi.mT, color @ color.mT
        both = mask[:, :, None] * mask[:, None]
        total = both * (k + rho.reshape(-1, 1, 1) ** 2 * c) + torch.diag_embed(1 - mask)
        weight = torch.linalg.solve(total, (mask * z.double())[..., None])
        return (both * k @ weight)[..., 0].to(z)

    def start(self, shape, t, key, cond):
        like = torch.empty(shape, dtype=self.dtype)
        data = self.prior.sample(like, key.at(part="data"), cond["points"])
        noise = self.process.noise.sample(like, key.at(part="noise"), cond["points"])
        return (self.process.scale(t) * data + self.process.sigma(t) * noise).to(self.dtype)


def point_sets(rows, count, padded):
    """`count - i` points in row i, then copies of a point far away as padding."""
    points = torch.rand(rows, count, 1, generator=torch.Generator().manual_seed(3), dtype=F64)
    mask = (torch.arange(count) < count - torch.arange(rows)[:, None]).double()
    points = torch.where(mask[..., None] > 0, points, 0.123)
    extra = padded - count
    return {
        "points": torch.cat([points, torch.full((rows, extra, 1), 0.77, dtype=F64)], 1),
        "mask": torch.cat([mask, torch.zeros(rows, extra, dtype=F64)], 1),
    }


@each_sampler
@pytest.mark.parametrize("process", ["ve_linear", "vp1.5"])
def test_padding_changes_nothing_at_the_real_points(sampler, process):
    model = FunctionScore(replace(PROCESSES[process], noise=fokker.Correlated(COLOR)))
    sampler, rows, count = ALL_SAMPLERS[sampler], 4, 7
    short, long = (
        fokker.sample(model, (rows, padded), sampler=sampler, steps=5, cond=point_sets(rows, count, padded))
        for padded in (count, 19)
    )
    real = point_sets(rows, count, count)["mask"] > 0
    close(long.samples[:, :count][real], short.samples[real], 1e-7)
    for row in range(rows):
        cond = {name: value[row : row + 1, : count - row] for name, value in point_sets(rows, count, count).items()}
        one = Rows(np.zeros(1, int), np.array([row]))
        single = fokker.sample(model, (1, count - row), sampler=sampler, steps=5, cond=cond, rows=one).samples
        close(short.samples[row, : count - row], single[0], 1e-7)


class Pointwise(FunctionScore):
    """A denoiser that looks at one point at a time."""

    def denoised(self, z, rho, cond):
        return z / (1 + fokker.states.column(rho, z) ** 2)


@each_sampler
def test_a_sample_of_a_function_is_the_same_on_two_grids(sampler):
    """First draw and noise of the steps are functions: a pointwise denoiser gives the same values at shared points."""
    model = Pointwise(replace(PROCESSES["vp2"], noise=fokker.Correlated(COLOR)))
    fine, found = (torch.arange(48, dtype=F64)[:, None] + 0.5) / 48, []
    tolerance = {"sampler": fokker.RK45(1e-10, 1e-10)} if sampler == "rk45" else {"sampler": ALL_SAMPLERS[sampler]}
    for points in (fine[::2], fine):
        cond = {"points": points[None], "mask": torch.ones(1, len(points), dtype=F64)}
        found.append(fokker.sample(model, (3, len(points)), steps=5, cond=cond, **tolerance).samples)
    close(found[1][:, ::2], found[0], 1e-8 if sampler == "rk45" else 1e-10)


def test_functions_have_the_covariance_of_their_prior():
    """Exact model, order 2: the step error is far below the Monte-Carlo error. False-alarm rate 1e-4."""
    model = FunctionScore(replace(PROCESSES["vp1"], noise=fokker.Correlated(COLOR)))
    points = torch.tensor([[0.1], [0.4], [0.9]], dtype=F64)
    cond = {"points": points[None], "mask": torch.ones(1, 3, dtype=F64)}
    samples = fokker.sample(model, (2000, 3), sampler=fokker.Heun(), steps=64, cond=cond).samples
    k = PRIOR.basis(points) @ PRIOR.basis(points).T
    z = moment_z(samples, torch.zeros(3, dtype=F64), k)
    assert z.abs().max() < limit(len(z))


# --- The loop


@each_sampler
def test_results_say_how_they_were_made(sampler):
    model = mixture(PROCESSES["vp1.5"])
    result = draw(model, sampler, 11, steps=6, trajectory=True)
    assert result.samples.shape == (11, 2)
    assert result.settings["sampler"] == ALL_SAMPLERS[sampler].settings()
    assert result.settings["process"] == {"name": "vp", "n": 1.5, "beta_min": 0.001, "beta_max": 15.0}
    assert result.settings["seed"] == 1 and result.seconds > 0
    times = result.settings["times"]
    assert times[-1] == 0.0 and times[0] == model.time_range[1]
    assert result.trajectory.shape == (len(times), 11, 2)
    assert torch.equal(result.trajectory[-1], result.samples)
    assert draw(model, sampler, 11, steps=6).trajectory is None
    again = fokker.sample(
        model, (11, 2), sampler=ALL_SAMPLERS[sampler], grid=torch.tensor(times, dtype=F64), seed=result.settings["seed"]
    )
    assert torch.equal(again.samples, result.samples)


@pytest.mark.parametrize(
    ("sampler", "nfe"),
    [
        ("transition1_1", 6),
        ("euler_maruyama_0", 6),
        ("ddim_0.6", 6),
        ("heun", 11),
        ("heun_time_0", 11),
        ("predictor_corrector", 6 + 5 * 2),
        ("annealed_langevin", 1 + 5 * 3),
    ],
)
def test_evaluations_are_counted(sampler, nfe):
    assert draw(mixture(PROCESSES["vp2"]), sampler, steps=6).nfe == nfe


def test_rk45_counts_what_each_sample_needed():
    result = draw(mixture(PROCESSES["vp2"]), "rk45", 50)
    assert result.info["evaluations"].shape == (50,)
    assert result.nfe == int(result.info["evaluations"].max())
    assert int(result.info["evaluations"].min()) < result.nfe


def test_no_level_outside_the_range_of_the_model_is_called():
    seen = []

    class Watched(MixtureScore):
        def denoised(self, z, rho, cond):
            seen.extend(rho.reshape(-1).tolist())
            return super().denoised(z, rho, cond)

    base = mixture(PROCESSES["vp2"])
    model = Watched(base.process, base.weights, base.means, base.covariances)
    for sampler in ALL_SAMPLERS:
        draw(model, sampler, 5)
    low, high = model.rho_range
    assert min(seen) > low * (1 - 1e-9) and max(seen) < high * (1 + 1e-9)


@each_sampler
def test_the_last_step_returns_the_denoised_value(sampler):
    model = mixture(PROCESSES["vp1"])
    path = draw(model, sampler, trajectory=True)
    before = path.settings["times"][-2]
    close(path.samples, model.denoise(path.trajectory[-2], before))


@each_sampler
def test_one_step_is_enough(sampler):
    assert draw(mixture(PROCESSES["vp2"]), sampler, steps=1).samples.isfinite().all()


@each_sampler
def test_a_model_that_is_not_finite_is_named(sampler):
    class Broken(MixtureScore):
        def denoised(self, z, rho, cond):
            value = super().denoised(z, rho, cond)
            return torch.where((cond["id"] == 13) & (rho.reshape(-1, 1) < 1), torch.nan, value)

    base = mixture(PROCESSES["ve_linear"])
    model = Broken(base.process, base.weights, base.means, base.covariances)
    rho = torch.tensor([10.0, 3.0, 0.5, 0.1], dtype=F64)  # the third level is the first that breaks
    grid = torch.cat([base.process.time_of(rho), torch.zeros(1, dtype=F64)])
    step = 2 if sampler in LOOK_AHEAD else 3
    rows, identity = Rows.grid(2, 10), torch.arange(20)[:, None]
    with pytest.raises(FloatingPointError, match=rf"after step {step}, first at sample 3 of measurement 1 \(1 rows"):
        fokker.sample(model, (20, 2), sampler=ALL_SAMPLERS[sampler], grid=grid, cond={"id": identity}, rows=rows)


def test_infinities_in_a_named_part_are_found():
    class Infinite(Frozen):
        def denoised(self, z, rho, cond):
            return torch.cat([z[:2], torch.inf * z[2:]])

    joint = Joint(x=gaussian(PROCESSES["vp2"], torch.float32), k=Infinite(PROCESSES["vp2"], torch.zeros(2)))
    with pytest.raises(FloatingPointError, match=r"k is not finite after step 1, first at sample 2"):
        fokker.sample(joint, {"x": (4, 2), "k": (4, 2)}, sampler=fokker.Transition(), steps=3)


@pytest.mark.parametrize("steps", [0, -1, 1.5, True, "8", None])
def test_bad_numbers_of_steps_are_refused(steps):
    with pytest.raises(InputError, match="steps"):
        fokker.sample(gaussian(PROCESSES["vp2"]), (2, 2), steps=steps)


@pytest.mark.parametrize("eta", [-0.1, 1.1, float("nan"), float("inf"), True, "1", None])
def test_bad_etas_are_refused(eta):
    with pytest.raises(InputError, match="eta: got"):
        fokker.DDIM(eta=eta)


@pytest.mark.parametrize("kind", [fokker.PredictorCorrector, fokker.AnnealedLangevin])
def test_bad_langevin_steps_are_refused(kind):
    for steps in (0, -1, 1.5, True, "2"):
        with pytest.raises(InputError, match="steps: got"):
            kind(steps=steps)
    for size in (0, -0.1, 4, float("nan"), float("inf"), True, "1"):
        with pytest.raises(InputError, match="step_size: got"):
            kind(step_size=size)
    with pytest.raises(InputError, match="predictor: got"):
        fokker.PredictorCorrector(predictor=0.5)


@pytest.mark.parametrize("shape", [(0, 2), (), (-1, 2), (2.5, 2), {"x": (2, 2), "k": (3, 2)}, {}])
def test_bad_shapes_are_refused(shape):
    with pytest.raises(InputError, match="shape"):
        fokker.sample(gaussian(PROCESSES["vp2"]), shape)


@pytest.mark.parametrize("grid", [[0.2, 0.5], [0.5], [0.5, 0.5, 0.1], [0.99, 0.5], [0.5, 1e-9], [0.5, float("nan")]])
def test_bad_grids_are_refused(grid):
    with pytest.raises(InputError, match="grid"):
        fokker.sample(gaussian(PROCESSES["vp2"]), (2, 2), grid=torch.tensor(grid))


def test_rows_must_fit_the_shape():
    with pytest.raises(InputError, match="rows"):
        fokker.sample(gaussian(PROCESSES["vp2"]), (3, 2), rows=Rows.grid(2, 2))


def test_progress_is_told(monkeypatch):
    monkeypatch.setattr(loop, "CHUNK", 4)
    told = []
    fokker.sample(gaussian(PROCESSES["vp2"]), (10, 2), steps=2, progress=lambda done, of: told.append((done, of)))
    assert told == [(4, 10), (8, 10), (10, 10)]


def test_gradients_can_be_taken_inside_a_denoiser():
    """The loop uses no_grad, not inference mode: guidance differentiates."""

    class Guided(MixtureScore):
        def denoised(self, z, rho, cond):
            with torch.enable_grad():
                z = z.detach().requires_grad_()
                value = super().denoised(z, rho, cond)
                slope = torch.autograd.grad(value.sum(), z)[0]
            return (value + 0 * slope).detach()

    base = mixture(PROCESSES["vp2"])
    model = Guided(base.process, base.weights, base.means, base.covariances)
    result = draw(model, "transition2_1")
    assert not result.samples.requires_grad
    close(result.samples, draw(base, "transition2_1").samples)


@pytest.mark.parametrize("sampler", [name for name in ALL_SAMPLERS if not name.endswith("function")])
def test_samplers_come_back_from_their_settings(sampler):
    assert sampler_from_settings(ALL_SAMPLERS[sampler].settings()) == ALL_SAMPLERS[sampler]


def test_settings_of_samplers_tell_them_apart():
    found = [repr(sampler.settings()) for sampler in ALL_SAMPLERS.values()]
    assert len(set(found)) == len(found)
    assert fokker.Transition(alpha=growing).settings()["alpha"] == "growing"
    assert all(re.fullmatch(r"[a-z_0-9]+", s.settings()["name"]) for s in ALL_SAMPLERS.values())
    assert {bool(s.adaptive) for s, _ in SAMPLERS.values()} == {False} and fokker.RK45().adaptive
