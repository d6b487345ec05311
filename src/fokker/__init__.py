"""Bayesian inverse problems with diffusion models: posterior samples that can be trusted."""

from fokker.api import fit, load
from fokker.errors import InputError
from fokker.likelihoods import Gaussian
from fokker.noise import Correlated, White
from fokker.posterior.conditional import ConditionalPosterior
from fokker.posterior.recipes import Recipe
from fokker.posterior.samples import PosteriorSamples
from fokker.processes import NoiseProcess, VarianceExploding, VariancePreserving
from fokker.random_fields import CosineField
from fokker.samplers import (
    DDIM,
    RK45,
    AnnealedLangevin,
    EulerMaruyama,
    GaussianTransition,
    Heun,
    HeunTime,
    PredictorCorrector,
    SampleResult,
    Transition,
    encode,
    langevin,
    sample,
)
from fokker.score import GaussianScore, Joint, MixtureScore, ScoreModel
from fokker.time_grid import Karras, LogSNR, UniformTime

__version__ = "0.1.0"

__all__ = [
    "DDIM", "RK45", "AnnealedLangevin",
    "ConditionalPosterior", "Correlated", "CosineField", "EulerMaruyama", "Gaussian", "GaussianScore",
    "GaussianTransition", "Heun", "HeunTime",
    "InputError", "Joint", "Karras", "LogSNR", "MixtureScore", "NoiseProcess", "PosteriorSamples",
    "PredictorCorrector", "Recipe",
    "SampleResult", "ScoreModel", "Transition", "UniformTime", "VarianceExploding", "VariancePreserving", "White",
    "encode", "fit", "langevin", "load", "sample",
]  # fmt: skip
