"""Small networks: one measurement for all rows costs nothing but gives the same, settings rebuild, starts at zero."""

import pytest
import torch

from fokker.errors import InputError
from fokker.networks.build import build
from fokker.networks.mlp import ConditionalMLP

FORMS = [
    {},
    {"modulate": True},
    {"modulate": True, "level_width": 16},
]


def network(features=3, **form):
    torch.manual_seed(1)
    made = ConditionalMLP(2, features, width=16, depth=3, trunk_width=8, trunk_depth=2, **form).double()
    torch.nn.init.normal_(made.leave.weight)  # it starts at zero, and would hide everything
    return made


@pytest.mark.parametrize("form", FORMS)
def test_one_measurement_and_level_for_all_rows_change_nothing(form):
    """Rows that share an embedding by stride, rows with a copy each, and one row alone: equal to rounding."""
    made, x, level = network(**form), torch.randn(7, 2).double(), torch.tensor([0.3]).double()
    with torch.no_grad():
        row = made.embed(torch.randn(1, 3).double())
        shared = made(x, level, row.expand(7, -1))
        copied = made(x, level, row.repeat(7, 1))
        alone = torch.cat([made(x[i : i + 1], level, row) for i in range(7)])
    torch.testing.assert_close(shared, copied, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(shared, alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_conditions_and_levels_reach_the_output(form):
    made, x = network(**form), torch.randn(1, 2).double()
    with torch.no_grad():
        base = made(x, torch.tensor([0.3]).double(), made.embed(torch.zeros(1, 3).double()))
        for level, feature in ((0.4, 0.0), (0.3, 0.1)):
            other = made(x, torch.tensor([level]).double(), made.embed(torch.full((1, 3), feature).double()))
            assert float((other - base).abs().max()) > 1e-4


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("features", [0, 3])
def test_settings_rebuild_it(form, features):
    made = network(features, **form)
    again = build(made.settings()).double()
    again.load_state_dict(made.state_dict())
    x, level, given = torch.randn(5, 2).double(), torch.rand(5).double(), torch.randn(5, features).double()
    assert torch.equal(made(x, level, made.embed(given)), again(x, level, again.embed(given)))


def test_it_starts_at_zero_and_gradients_reach_every_weight():
    made = ConditionalMLP(2, 3, width=16, modulate=True)
    assert not made(torch.randn(4, 2), torch.rand(4), made.embed(torch.randn(4, 3))).any()
    torch.nn.init.normal_(made.leave.weight)
    made(torch.randn(4, 2), torch.rand(4), made.embed(torch.randn(4, 3))).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in made.parameters())


def test_an_unknown_kind_is_refused():
    with pytest.raises(InputError, match="network: got 'other'"):
        build({"kind": "other"})
