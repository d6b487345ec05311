"""Networks for functions: the same seam for all, one function on many grids, sets without order, and short fits."""

import math
import re
from itertools import pairwise

import pytest
import torch

from fokker.errors import InputError
from fokker.networks.build import build
from fokker.networks.fourier_operator import UShapedOperator
from fokker.networks.grids import averages, cosines, interpolation, resampled, waves

GRIDS = {  # name: (settings, a grid)
    "fourier_1d": ({"kind": "fourier_operator", "dimension": 1, "width": 8, "modes": 6, "depth": 2}, (20,)),
    "fourier_2d": ({"kind": "fourier_operator", "dimension": 2, "width": 8, "modes": 5, "depth": 2}, (12, 9)),
    "fourier_3d": ({"kind": "fourier_operator", "dimension": 3, "width": 4, "modes": 3, "depth": 2}, (6, 5, 4)),
    "fourier_1d_periodic": (
        {"kind": "fourier_operator", "dimension": 1, "width": 8, "modes": 6, "depth": 2, "basis": "fourier"},
        (20,),
    ),
    "fourier_2d_periodic": (
        {"kind": "fourier_operator", "dimension": 2, "width": 8, "modes": 4, "depth": 2, "basis": "fourier"},
        (12, 9),
    ),
    "u_shaped_1d": ({"kind": "u_shaped_operator", "sides": [16], "width": 4}, (16,)),
    "u_shaped_2d": ({"kind": "u_shaped_operator", "sides": [8, 12], "width": 4}, (8, 12)),
    "u_shaped_2d_odd": ({"kind": "u_shaped_operator", "sides": [9, 9], "width": 4, "levels": 2}, (18, 13)),
    "u_shaped_3d": ({"kind": "u_shaped_operator", "sides": [4, 4, 4], "width": 4, "levels": 2}, (4, 4, 8)),
    "unet": ({"kind": "unet", "width": 4, "levels": 3}, (12, 9)),
}
SETS = {  # name: settings
    **{f"set_{d}d": {"kind": "set_transformer", "dimension": d, "width": 16, "heads": 2} for d in (1, 2, 3)},
    "set_features": {"kind": "set_transformer", "dimension": 2, "c_query": 2, "width": 16, "heads": 2},
    "deeponet_1d": {"kind": "deeponet", "dimension": 1, "sensors": 7, "width": 16, "terms": 8},
    "deeponet_features": {"kind": "deeponet", "dimension": 2, "sensors": 7, "c_query": 2, "width": 16, "terms": 8},
}
ALL = [*GRIDS, *SETS]
TRANSFORMERS = [name for name in SETS if name.startswith("set_")]
C_IN, C_OUT, ROWS = 3, 2, 4


def made(name, start=False, **more):
    """A network in float64; its last layer, which starts at zero and would hide everything, is randomised."""
    torch.manual_seed(1)
    settings = GRIDS[name][0] if name in GRIDS else SETS[name]
    network = build({"c_in": C_IN, "c_out": C_OUT, **settings, **more}).double()
    if not start:
        torch.nn.init.normal_(network.leave.weight)
    return network


def given(name, rows=ROWS, points=7, queries=5):
    """Inputs by name, without the level."""
    generator = torch.Generator().manual_seed(2)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    if name in GRIDS:
        return {"x": draw(rows, C_IN, *GRIDS[name][1])}
    d, c_query = SETS[name]["dimension"], SETS[name].get("c_query", 0)
    out = {
        "values": draw(rows, points, C_IN),
        "points": torch.rand(rows, points, d, generator=generator, dtype=torch.float64),
        "query": torch.rand(rows, queries, d, generator=generator, dtype=torch.float64),
    }
    return out | ({"query_features": draw(rows, queries, c_query)} if c_query else {})


def levels(rows=ROWS):
    return torch.linspace(-1.2, 0.6, rows, dtype=torch.float64)


def close(a, b, tolerance=1e-11):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", ALL)
def test_it_starts_at_zero_and_gradients_reach_every_weight(name):
    assert not made(name, start=True)(**given(name), level=levels()).any()
    network = made(name)
    network(**given(name), level=levels()).square().sum().backward()
    missing = [key for key, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not missing


@pytest.mark.parametrize("name", ALL)
def test_settings_and_weights_rebuild_it(name):
    network = made(name)
    again = build(network.settings()).double()
    again.load_state_dict(network.state_dict())
    assert torch.equal(network(**given(name), level=levels()), again(**given(name), level=levels()))
    assert settings_are_plain(network.settings())


def settings_are_plain(settings):
    return all(isinstance(value, str | int | list) for value in settings.values())


@pytest.mark.parametrize("name", ALL)
def test_rows_do_not_depend_on_the_batch_and_levels_matter(name):
    network, inputs, level = made(name), given(name), levels()
    with torch.no_grad():
        whole = network(**inputs, level=level)
        alone = [network(**{k: v[i : i + 1] for k, v in inputs.items()}, level=level[i : i + 1]) for i in range(ROWS)]
        close(whole, torch.cat(alone))
        close(network(**inputs, level=level[:1]), network(**inputs, level=level[:1].expand(ROWS)))
        other, none = network(**inputs, level=level + 0.1), network(**inputs, level=None)
    assert whole.shape[0] == ROWS and C_OUT in (whole.shape[1], whole.shape[-1])
    spread = float(whole.std())
    for row in range(ROWS):
        assert float((other - whole)[row].abs().max()) > 1e-3 * spread
        assert float((none - whole)[row].abs().max()) > 1e-3 * spread


@pytest.mark.parametrize("name", ALL)
def test_single_precision_gives_the_same_to_its_rounding(name):
    network, inputs = made(name), given(name)
    with torch.inference_mode():
        double = network(**inputs, level=levels())
    network.float()
    with torch.inference_mode():
        single = network(**{k: v.float() for k, v in inputs.items()}, level=levels())
    assert single.dtype == torch.float32
    assert float((single - double).abs().max()) < 2e-5 * float(double.abs().max())
    network(**{k: v.float() for k, v in inputs.items()}, level=levels()).sum().backward()  # also after inference


@pytest.mark.parametrize("name", ALL)
def test_shapes_that_do_not_fit_are_refused(name):
    network, inputs = made(name), given(name)
    with pytest.raises(InputError, match=rf"level: got shape \(3,\), \({ROWS},\) or \(1,\) is accepted"):
        network(**inputs, level=levels(3))
    first = next(iter(inputs))
    with pytest.raises(InputError, match=f"{first}: got shape"):
        network(**(inputs | {first: inputs[first][:, :1] if name in GRIDS else inputs[first][..., :1]}), level=None)
    if name in SETS:
        for key in ("points", "query"):
            wrong = torch.cat([inputs[key]] * 2, -1)
            with pytest.raises(InputError, match=f"{key}: got shape {re.escape(str(tuple(wrong.shape)))}"):
                network(**(inputs | {key: wrong}), level=None)
        with pytest.raises(InputError, match="query_features: got"):
            features = None if "query_features" in inputs else inputs["query"]
            network(**(inputs | {"query_features": features}), level=None)


def test_waves_are_orthonormal_and_resampling_keeps_what_it_should():
    like = (torch.float64, torch.device("cpu"))
    for side in (7, 12):
        close(cosines(side, 7, like) @ cosines(side, 7, like).T / side, torch.eye(7, dtype=torch.float64))
        both = waves(side, 4, True, like)
        close(both @ both.mH / side, torch.eye(7, dtype=both.dtype))
    x = torch.linspace(0, 1, 13).double().square()
    close((averages(12, 5, like) @ x[1:]).mean(), x[1:].mean())
    middle = (torch.arange(6).double() + 0.5) / 6
    fine = (torch.arange(30).double() + 0.5) / 30
    inside = (fine >= middle[0]) & (fine <= middle[-1])
    close((interpolation(6, 30, like) @ middle)[inside], fine[inside])
    close(interpolation(6, 30, like).sum(1), torch.ones(30).double())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "fourier_operator", "basis": "sine"}, "basis: got 'sine', one of cosine, fourier is accepted"),
        ({"kind": "fourier_operator", "dimension": 4}, "dimension: got 4, 1 to 3 is accepted"),
        ({"kind": "u_shaped_operator", "sides": []}, r"sides: got \[\], 1 to 3 numbers of cells are accepted"),
        ({"kind": "set_transformer", "dimension": 1, "width": 9}, "width: got 9, a multiple of heads = 4 is accepted"),
    ],
)
def test_sizes_that_make_no_network_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        build({"c_in": 1, "c_out": 1, **settings})


# One function on three grids ------------------------------------------------------------------------------------------

SIDES = (32, 64, 128)


def smooth(side, dimension, periodic):
    """Three channels of a smooth function at the cell centres, (1, 3, side, ...)."""
    axis = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    grid = torch.meshgrid(*[axis] * dimension, indexing="ij")
    first, last = grid[0], grid[-1]
    if periodic:
        first, last = 0.3 * (2 * math.pi * first).sin(), 0.3 * (2 * math.pi * last).cos()
    return torch.stack([(12 * first + 5 * last).sin(), (first - 0.7 * last).exp() - 1, (first * last * 9).cos()])[None]


def differences(networks, dimension, periodic=False):
    """Relative root mean square of the output on one grid less that on the next, both averaged over 32^d cells."""
    with torch.no_grad():
        out = [
            resampled(network(smooth(side, dimension, periodic), levels(1)), [32] * dimension, averages)
            for side, network in zip(SIDES, networks)
        ]
    return [float((a - b).square().mean().sqrt() / out[-1].std()) for a, b in pairwise(out)]


@pytest.mark.parametrize("name", ["fourier_1d", "fourier_2d", "fourier_1d_periodic", "fourier_2d_periodic"])
def test_a_fourier_operator_means_the_same_on_every_grid(name):
    dimension = GRIDS[name][0]["dimension"]
    first, second = differences([made(name)] * 3, dimension, "periodic" in name)
    assert first < 0.01 and second < first / 3.5  # of second order: 4


@pytest.mark.parametrize("dimension", [1, 2])
@pytest.mark.parametrize("form", [{}, {"levels": 1}])
def test_a_u_shaped_operator_means_the_same_on_every_grid(dimension, form):
    name = f"u_shaped_{dimension}d"
    first, second = differences([made(name, sides=[32] * dimension, **form)] * 3, dimension)
    assert first < 0.01 and second < first / 3.5


def test_convolutions_of_neighbouring_cells_mean_another_thing_on_another_grid():
    """The same weights with entries one cell apart on every grid, and a network of images: neither passes the above."""
    undilated = [made("u_shaped_2d", sides=[side, side], levels=1, modes=8) for side in SIDES]
    for networks in (undilated, [made("unet")] * 3):
        first, second = differences(networks, 2)
        assert first > 0.02 and second > first / 3


def test_a_u_shaped_operator_convolves_at_the_distances_it_was_made_for():
    """On three times the grid, a field constant on each coarse cell: the middles see what they saw there."""
    network = made("u_shaped_1d", sides=[12], levels=1, modes=1)
    assert isinstance(network, UShapedOperator)
    coarse = torch.randn(1, C_IN, 12, dtype=torch.float64)
    fine = coarse.repeat_interleave(3, 2)
    torch.nn.init.zeros_(network.lift.weight[:, C_IN:])  # the coordinates differ from cell to cell
    close(network(fine, levels(1))[..., 1::3], network(coarse, levels(1)))


# Sets -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_order_and_padding_of_the_context_change_nothing(name):
    network, inputs = made(name), given(name)
    whole = network(**inputs, level=levels())
    order = torch.randperm(7, generator=torch.Generator().manual_seed(0))
    shuffled = inputs | {"values": inputs["values"][:, order], "points": inputs["points"][:, order]}
    close(network(**shuffled, level=levels()), whole)
    mask = torch.ones(ROWS, 9, dtype=torch.bool)
    mask[:, [2, 8]] = False
    places = [0, 1, 1, 2, 3, 4, 5, 6, 6]
    padded = inputs | {"values": inputs["values"][:, places], "points": inputs["points"][:, places], "mask": mask}
    padded["values"][:, 2], padded["points"][:, 8] = math.nan, math.inf
    close(network(**padded, level=levels()), whole)
    seen = network(**(inputs | {"mask": mask[:, :7]}), level=levels())
    assert float((seen - whole).detach().abs().amax((1, 2)).min()) > 1e-3  # a point that is hidden is missed


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_queries_do_not_see_each_other(name):
    network, inputs = made(name), given(name)
    whole = network(**inputs, level=levels())
    order = [3, 0, 4]
    fewer = {k: v[:, order] if k in ("query", "query_features") else v for k, v in inputs.items()}
    close(network(**fewer, level=levels()), whole[:, order])


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_one_point_and_none(name):
    """A single point, an empty context, and one whose points are all hidden: the last two are the same."""
    network = made(name)
    inputs = given(name, points=1)
    one = network(**inputs, level=levels()).detach()
    empty = network(
        **(inputs | {"values": inputs["values"][:, :0], "points": inputs["points"][:, :0]}), level=levels()
    ).detach()
    hidden = network(**inputs, mask=torch.zeros(ROWS, 1, dtype=torch.bool), level=levels())
    close(hidden, empty)
    assert one.isfinite().all() and empty.isfinite().all()
    assert float((one - empty).abs().max()) > 1e-3
    with pytest.raises(InputError, match="mask: got"):
        network(**inputs, mask=torch.zeros(ROWS, 1), level=levels())


@pytest.mark.parametrize("name", SETS)
def test_points_shared_by_all_rows(name):
    network, inputs = made(name), given(name)
    one = inputs | {key: inputs[key][:1] for key in ("points", "query")}
    each = inputs | {key: inputs[key][:1].expand(ROWS, -1, -1) for key in ("points", "query")}
    close(network(**one, level=levels()), network(**each, level=levels()))


def test_a_deeponet_needs_all_its_sensors():
    network, inputs = made("deeponet_1d"), given("deeponet_1d")
    with pytest.raises(InputError, match="values: got a mask, all 7 sensors"):
        network(**inputs, mask=torch.ones(ROWS, 7, dtype=torch.bool), level=None)
    with pytest.raises(InputError, match="values: got 6 values, all 7 sensors"):
        network(**given("deeponet_1d", points=6), level=None)


# Short fits -----------------------------------------------------------------------------------------------------------


def fields(rows, sides, generator):
    """Random cosine fields and the same smoothed by exp(Laplacian / 200), (rows, 1, *sides) each."""
    like, modes = (torch.float32, torch.device("cpu")), 8
    z = torch.randn(rows, 1, *[modes] * len(sides), generator=generator)
    k2 = sum((math.pi * k) ** 2 for k in torch.meshgrid(*[torch.arange(modes).float()] * len(sides), indexing="ij"))
    out = []
    for factor in (1 / (1 + k2 / 40), torch.exp(-k2 / 200) / (1 + k2 / 40)):
        field = z * factor
        for axis, side in enumerate(sides, 2):
            field = (field.movedim(axis, -1) @ cosines(side, modes, like)).movedim(-1, axis)
        out.append(field)
    return out


def fit(network, batch, steps, rate=3e-3):
    """Relative error of the fitted network on new rows; `batch(rows, generator)` gives inputs by name and targets."""
    generator = torch.Generator().manual_seed(5)
    optimizer = torch.optim.Adam(network.parameters(), rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        inputs, target = batch(16, generator)
        loss = (network(**inputs, level=None) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    inputs, target = batch(64, generator)
    with torch.no_grad():
        return float(((network(**inputs, level=None) - target).square().mean() / target.square().mean()).sqrt())


@pytest.mark.parametrize(
    ("settings", "sides", "steps"),
    [
        ({"kind": "fourier_operator", "dimension": 1, "width": 16, "modes": 8, "depth": 2}, (32,), 200),
        ({"kind": "u_shaped_operator", "sides": [32], "width": 8}, (32,), 200),
        ({"kind": "unet", "width": 8, "levels": 3}, (16, 16), 300),
    ],
)
def test_grid_networks_learn_a_smoothing_operator(settings, sides, steps):
    torch.manual_seed(3)

    def batch(rows, generator):
        x, target = fields(rows, sides, generator)
        return {"x": x}, target

    assert fit(build({"c_in": 1, "c_out": 1, **settings}), batch, steps) < 0.05


def test_a_set_transformer_learns_to_interpolate():
    """Waves from 12 random points, on 20 others, with less than two thirds of the error of the nearest value."""
    torch.manual_seed(3)

    def batch(rows, generator):
        points, query = (torch.rand(rows, n, 1, generator=generator) for n in (12, 20))
        factors = torch.randn(rows, 1, 4, generator=generator)

        def wave(x):
            angle = math.pi * torch.arange(1.0, 3.0) * x
            return (factors * torch.cat([angle.sin(), angle.cos()], -1)).sum(-1, keepdim=True)

        return {"values": wave(points), "points": points, "query": query}, wave(query)

    inputs, target = batch(2000, torch.Generator().manual_seed(6))
    nearest = (inputs["query"] - inputs["points"].mT).abs().argmin(2, keepdim=True)
    error = inputs["values"].gather(1, nearest) - target
    limit = float((error.square().mean() / target.square().mean()).sqrt()) / 1.5
    network = build({"kind": "set_transformer", "c_in": 1, "c_out": 1, "dimension": 1, "width": 48})
    assert fit(network, batch, 400, 2e-3) < limit < 0.2


def test_a_deeponet_learns_an_integral():
    """x -> the integral of a random cosine field from 0 to x."""
    torch.manual_seed(3)
    modes, sensors = torch.arange(1.0, 6.0), (torch.arange(20.0)[:, None] + 0.5) / 20

    def batch(rows, generator):
        factors = torch.randn(rows, 1, 5, generator=generator)
        query = torch.rand(rows, 20, 1, generator=generator)
        values = (factors * torch.cos(math.pi * modes * sensors)).sum(-1, keepdim=True)
        target = (factors * torch.sin(math.pi * modes * query) / (math.pi * modes)).sum(-1, keepdim=True)
        return {"values": values, "points": sensors[None], "query": query}, target

    network = build({"kind": "deeponet", "c_in": 1, "c_out": 1, "sensors": 20, "dimension": 1, "width": 64})
    assert fit(network, batch, 400) < 0.05
