"""Bayesian inverse problems with diffusion models: posterior samples that can be trusted."""

from fokker.api import fit, fit_prior, load
from fokker.composition import SumScore, classifier_free
from fokker.custom_process import CustomProcess
from fokker.ddpm import DDPM
from fokker.errors import InputError
from fokker.flow_density import log_prob
from fokker.likelihoods import Gaussian, LogNormal, Saturating
from fokker.networks.foreign import wrap_eps
from fokker.networks.variance_head import VarianceHead
from fokker.noise import Correlated, White
from fokker.operators.layouts import RandomLayouts
from fokker.posterior.conditional import ConditionalPosterior
from fokker.posterior.prior import Prior
from fokker.posterior.recipes import Recipe
from fokker.posterior.samples import PosteriorSamples
from fokker.processes import NoiseProcess, VarianceExploding, VariancePreserving
from fokker.random_fields import CosineField
from fokker.samplers import (
    DDIM,
    RK45,
    Ancestral,
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
from fokker.tilted import TiltedScore
from fokker.time_grid import DDPMIndices, Karras, LogSNR, UniformTime
from fokker.variational import VariationalBound, fit_variance, variational_bound

__version__ = "0.1.0"

__all__ = [
    "DDIM", "DDPM", "RK45", "Ancestral", "AnnealedLangevin", "ConditionalPosterior", "Correlated", "CosineField",
    "CustomProcess", "DDPMIndices", "EulerMaruyama", "Gaussian", "GaussianScore", "GaussianTransition", "Heun",
    "HeunTime", "InputError", "Joint", "Karras", "LogNormal", "LogSNR", "MixtureScore", "NoiseProcess",
    "PosteriorSamples", "PredictorCorrector", "Prior", "RandomLayouts", "Recipe", "SampleResult", "Saturating",
    "ScoreModel", "SumScore", "TiltedScore", "Transition", "UniformTime", "VarianceExploding", "VarianceHead",
    "VariancePreserving", "VariationalBound", "White", "classifier_free", "encode", "fit", "fit_prior",
    "fit_variance", "langevin", "load", "log_prob", "sample", "variational_bound", "wrap_eps",
]  # fmt: skip
