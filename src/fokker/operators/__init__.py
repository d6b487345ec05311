"""Forward operators: any differentiable callable is one; these know their shapes, and the linear ones much more."""

from fokker.operators.base import Composition, LinearOperator, Matrix, SpectralOperator
from fokker.operators.blur import Blur
from fokker.operators.channel import ChannelSensors
from fokker.operators.evaluation import PointValues
from fokker.operators.field_solves import DirichletSolve
from fokker.operators.forward import Composed, ForwardOperator
from fokker.operators.kernels import gaussian_kernel, motion_kernel, random_motion_kernel
from fokker.operators.layouts import RandomLayouts
from fokker.operators.nonlinear import Clip, PhaseRetrieval
from fokker.operators.selection import (
    CompressedSensing,
    CosineSensing,
    Identity,
    Inpainting,
    Subsampling,
    SuperResolution,
)
from fokker.operators.sensors import SensorArray
from fokker.operators.tomography import RadonTransform

__all__ = [
    "Blur", "ChannelSensors", "Clip", "Composed", "Composition", "CompressedSensing", "CosineSensing",
    "DirichletSolve", "ForwardOperator", "Identity", "Inpainting", "LinearOperator", "Matrix", "PhaseRetrieval",
    "PointValues", "RadonTransform", "RandomLayouts", "SensorArray", "SpectralOperator", "Subsampling",
    "SuperResolution", "gaussian_kernel", "motion_kernel", "random_motion_kernel",
]  # fmt: skip
