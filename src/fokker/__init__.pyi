from . import operators
from .api import fit, fit_prior, load
from .choice import guided
from .composition import SumScore, classifier_free
from .custom_process import CustomProcess
from .ddpm import DDPM
from .errors import InputError
from .estimated_fields import CosineSpectrum
from .fields.fitting import fit_functions
from .fields.observations import PointObservations
from .fields.posterior import FunctionPosterior
from .fields.prior import FunctionPrior
from .flow_density import log_prob
from .grids import Grid
from .interpolated_fields import InterpolatedField
from .kernel_fields import KernelField
from .likelihood_counts import Poisson
from .likelihood_custom import LogDensity
from .likelihood_scale import Laplace, Multiplicative, StudentT, UnknownNoise
from .likelihoods import Gaussian, LogNormal, Saturating
from .networks.foreign import wrap_eps
from .networks.variance_head import VarianceHead
from .noise import Correlated, OnGrid, White
from .operators.base import LinearOperator, SpectralOperator
from .operators.layouts import RandomLayouts
from .pde.mesh_fields import MeshField, SparseMeshField, TriangleMesh
from .posterior.conditional import ConditionalPosterior
from .posterior.daps import DAPS
from .posterior.ddrm import DDRM
from .posterior.dps import DPS
from .posterior.known import KnownLikelihood, MonteCarlo
from .posterior.moment_matching import MomentMatching
from .posterior.pigdm import PiGDM
from .posterior.prior import Prior
from .posterior.recipes import Recipe
from .posterior.refinement import refined
from .posterior.samples import PosteriorSamples
from .posterior.smc import TwistedSMC
from .processes import NoiseProcess, VarianceExploding, VariancePreserving
from .random_fields import CosineField, Field, PeriodicField, SineField
from .samplers import (
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
from .score import GaussianScore, Joint, MixtureScore, ScoreModel
from .tilted import TiltedScore
from .time_grid import DDPMIndices, Karras, LogSNR, UniformTime
from .variational import VariationalBound, fit_variance, variational_bound

__version__: str

__all__ = [
    "DAPS", "DDIM", "DDPM", "DDRM", "DPS", "RK45", "Ancestral", "AnnealedLangevin", "ConditionalPosterior",
    "Correlated", "CosineField", "CosineSpectrum", "CustomProcess", "DDPMIndices", "EulerMaruyama", "Field",
    "FunctionPosterior", "FunctionPrior", "Gaussian", "GaussianScore", "GaussianTransition", "Grid", "Heun", "HeunTime",
    "InputError", "InterpolatedField", "Joint", "Karras", "KernelField", "KnownLikelihood", "Laplace", "LinearOperator",
    "LogDensity", "LogNormal", "LogSNR", "MeshField", "MixtureScore", "MomentMatching", "MonteCarlo", "Multiplicative",
    "NoiseProcess", "OnGrid", "PeriodicField", "PiGDM", "PointObservations", "Poisson", "PosteriorSamples",
    "PredictorCorrector", "Prior", "RandomLayouts", "Recipe", "SampleResult", "Saturating", "ScoreModel", "SineField",
    "SparseMeshField", "SpectralOperator", "StudentT", "SumScore", "TiltedScore", "Transition", "TriangleMesh",
    "TwistedSMC", "UniformTime", "UnknownNoise", "VarianceExploding", "VarianceHead", "VariancePreserving",
    "VariationalBound", "White", "classifier_free", "encode", "fit", "fit_functions", "fit_prior", "fit_variance",
    "guided", "langevin", "load", "log_prob", "operators", "refined", "sample", "variational_bound", "wrap_eps",
]  # fmt: skip
