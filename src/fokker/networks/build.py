"""Networks from their settings."""

from __future__ import annotations

from typing import Any

from torch import nn

from fokker.errors import InputError
from fokker.networks.deeponet import DeepONet
from fokker.networks.fourier_operator import FourierOperator, UShapedOperator
from fokker.networks.mlp import ConditionalMLP, PlainMLP
from fokker.networks.set_transformer import SetTransformer
from fokker.networks.summary import LayoutMLP
from fokker.networks.unet import UNet

KINDS: dict[str, type[nn.Module]] = {
    "conditional_mlp": ConditionalMLP,
    "plain_mlp": PlainMLP,
    "layout_mlp": LayoutMLP,
    "fourier_operator": FourierOperator,
    "u_shaped_operator": UShapedOperator,
    "unet": UNet,
    "deeponet": DeepONet,
    "set_transformer": SetTransformer,
}


def build(settings: dict[str, Any]) -> nn.Module:
    """The untrained network that `settings()` described; InputError for an unknown kind."""
    sizes = {name: value for name, value in settings.items() if name != "kind"}
    if settings.get("kind") not in KINDS:
        raise InputError(f"network: got {settings.get('kind')!r}, one of {', '.join(KINDS)} is accepted")
    return KINDS[settings["kind"]](**sizes)
