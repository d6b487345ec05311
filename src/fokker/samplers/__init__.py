"""Samplers: one loop and the steps that plug into it."""

from typing import Any

from fokker.errors import InputError
from fokker.samplers.ancestral import Ancestral
from fokker.samplers.base import Carried, Sampler
from fokker.samplers.corrector import AnnealedLangevin, PredictorCorrector
from fokker.samplers.ddim import DDIM
from fokker.samplers.encoding import encode
from fokker.samplers.euler_maruyama import EulerMaruyama
from fokker.samplers.gaussian_transition import GaussianTransition
from fokker.samplers.heun import Heun
from fokker.samplers.heun_time import HeunTime
from fokker.samplers.langevin import langevin
from fokker.samplers.loop import SampleResult, sample
from fokker.samplers.rk45 import RK45
from fokker.samplers.transition import Transition

__all__ = [
    "DDIM", "RK45", "Ancestral", "AnnealedLangevin", "Carried", "EulerMaruyama", "GaussianTransition", "Heun",
    "HeunTime", "PredictorCorrector", "SampleResult", "Sampler", "Transition", "encode", "langevin", "sample",
    "sampler_from_settings",
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
        "ddim": DDIM,
        "heun_time": HeunTime,
        "predictor_corrector": PredictorCorrector,
        "annealed_langevin": AnnealedLangevin,
    }
    if settings.get("name") not in kinds:
        raise InputError(f"sampler: got {settings.get('name')!r}, one of {', '.join(kinds)} is accepted")
    parameters = {key: value for key, value in settings.items() if key != "name"}
    if "predictor" in parameters:
        parameters["predictor"] = sampler_from_settings(parameters["predictor"])
    return kinds[settings["name"]](**parameters)
