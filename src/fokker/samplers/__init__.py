"""Samplers: one loop and the steps that plug into it."""

from typing import Any

from fokker.errors import InputError
from fokker.samplers.ancestral import Ancestral
from fokker.samplers.base import Carried, Sampler
from fokker.samplers.euler_maruyama import EulerMaruyama
from fokker.samplers.gaussian_transition import GaussianTransition
from fokker.samplers.heun import Heun
from fokker.samplers.loop import SampleResult, sample
from fokker.samplers.rk45 import RK45
from fokker.samplers.transition import Transition

__all__ = [
    "RK45", "Ancestral", "Carried", "EulerMaruyama", "GaussianTransition", "Heun", "SampleResult", "Sampler",
    "Transition", "sample", "sampler_from_settings",
]  # fmt: skip


def sampler_from_settings(settings: dict[str, Any]) -> Sampler:
    """The sampler that `settings()` described; InputError for an unknown name or a parameter that is not accepted."""
    kinds: dict[str, Any] = {
        "transition": Transition,
        "ancestral": Ancestral,
        "gaussian_transition": GaussianTransition,
        "euler_maruyama": EulerMaruyama,
        "heun": Heun,
        "rk45": RK45,
    }
    if settings.get("name") not in kinds:
        raise InputError(f"sampler: got {settings.get('name')!r}, one of {', '.join(kinds)} is accepted")
    return kinds[settings["name"]](**{key: value for key, value in settings.items() if key != "name"})
