"""Samplers: one loop and the steps that plug into it."""

from fokker.samplers.euler_maruyama import EulerMaruyama
from fokker.samplers.gaussian_transition import GaussianTransition
from fokker.samplers.heun import Heun
from fokker.samplers.loop import Carried, Sampler, SampleResult, sample
from fokker.samplers.rk45 import RK45
from fokker.samplers.transition import Transition

__all__ = [
    "RK45",
    "Carried",
    "EulerMaruyama",
    "GaussianTransition",
    "Heun",
    "SampleResult",
    "Sampler",
    "Transition",
    "sample",
]
