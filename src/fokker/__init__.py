"""Bayesian inverse problems with diffusion models: posterior samples that can be trusted."""

from fokker.api import fit, load
from fokker.composition import SumScore, TiltedScore, classifier_free
from fokker.errors import InputError
from fokker.flow_density import log_prob
from fokker.likelihoods import Gaussian
from fokker.noise import Correlated, White
from fokker.posterior.conditional import ConditionalPosterior
from fokker.posterior.recipes import Recipe
from fokker.posterior.samples import PosteriorSamples
from fokker.processes import NoiseProcess, VarianceExploding, VariancePreserving
from fokker.random_fields import CosineField
from fokker.samplers import RK45, EulerMaruyama, GaussianTransition, Heun, SampleResult, Transition, sample
from fokker.score import GaussianScore, Joint, MixtureScore, ScoreModel
from fokker.time_grid import Karras, LogSNR, UniformTime

__version__ = "0.1.0"

__all__ = [
    "RK45", "ConditionalPosterior", "Correlated", "CosineField", "EulerMaruyama", "Gaussian", "GaussianScore",
    "GaussianTransition", "Heun",
    "InputError", "Joint", "Karras", "LogSNR", "MixtureScore", "NoiseProcess", "PosteriorSamples", "Recipe",
    "SampleResult", "ScoreModel", "SumScore", "TiltedScore", "Transition", "UniformTime", "VarianceExploding",
    "VariancePreserving", "White", "classifier_free", "fit", "load", "log_prob", "sample",
]  # fmt: skip
