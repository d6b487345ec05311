"""Networks from their settings."""

from __future__ import annotations

from typing import Any

from torch import nn

from fokker.errors import InputError
from fokker.networks.mlp import ConditionalMLP, PlainMLP
from fokker.networks.summary import LayoutMLP


def build(settings: dict[str, Any]) -> nn.Module:
    """The untrained network that `settings()` described; InputError for an unknown kind."""
    kinds = {"conditional_mlp": ConditionalMLP, "plain_mlp": PlainMLP, "layout_mlp": LayoutMLP}
    sizes = {name: value for name, value in settings.items() if name != "kind"}
    if settings.get("kind") not in kinds:
        raise InputError(f"network: got {settings.get('kind')!r}, one of {', '.join(kinds)} is accepted")
    return kinds[settings["kind"]](**sizes)
