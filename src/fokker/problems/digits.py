"""The 8 x 8 digits of scikit-learn: images, what is measured of them, and the posterior of a Gaussian prior.

Source: Alpaydin and Kaynak 1998 (optical recognition of handwritten digits, UCI); the images are the 1,797 of its test
part, as scikit-learn ships them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fokker.errors import InputError
from fokker.likelihood_counts import Poisson
from fokker.likelihoods import Gaussian
from fokker.operators import Blur, Identity, Inpainting, LinearOperator, Matrix, gaussian_kernel
from fokker.rng import stream, torch_generator

SHAPE = (8, 8)
LEVELS = 16  # the darkest pixel
TRAIN = 1_500  # images; the other 297 are never seen in training
TEST = 297
SHA256 = "8f26b2bd9d135c256808f68f14fdabddde6d9c7f869ae419704b051f0f14b3b3"  # of all images, a byte for each pixel
SPREAD = 0.5  # grey levels: the standard deviation by which every pixel is spread, so that images have a density
NOISE = 0.05  # standard deviation of Gaussian noise, in units of the darkest pixel
GAIN, BACKGROUND = 16.0, 2.0  # counts for the darkest pixel, and without any light


@dataclass(frozen=True)
class Digits:
    """Images (N, 8, 8), float64, 0 white and 1 the darkest, their labels (N,) and numbers in the source (N,)."""

    images: NDArray
    labels: NDArray
    rows: NDArray


@dataclass(frozen=True)
class Case:
    """What is measured: forward operator and likelihood. title: in words."""

    name: str
    title: str
    forward: LinearOperator
    likelihood: Any

    def measure(self, x: NDArray, seed: int, kind: str) -> Tensor:
        """y (M, *y_shape) of images x (M, 8, 8), its noise fixed by the seed, the case and the kind of truths."""
        clean = self.forward(torch.from_numpy(np.asarray(x, dtype=np.float64)))
        return self.likelihood.sample(clean, torch_generator(seed, f"digits/{self.name}/{kind}"))

    def linear_data(self, y: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """y in units of the operator's value (M, m), and the variance (m,) of its noise, x spread around `mean`.

        Counts have a variance that depends on x; its expectation makes the estimate that is linear in them the best.
        """
        flat = y.double().flatten(1)
        if isinstance(self.likelihood, Poisson):
            rate = GAIN * self.forward(mean[None]).flatten().clamp(min=0) + BACKGROUND
            return (flat - BACKGROUND) / GAIN, rate / GAIN**2
        return flat, torch.full((flat.shape[1],), NOISE**2, dtype=torch.float64)


def _box() -> Case:
    forward = Inpainting.box(SHAPE, top=2, left=2, height=4, width=4)
    return Case("box", f"the middle 4 x 4 pixels hidden, noise {NOISE:g}", forward, Gaussian(NOISE))


def _blur() -> Case:
    forward = Matrix(Blur(gaussian_kernel(1.0, 5), SHAPE, "zero").matrix(), SHAPE, SHAPE)  # its spectrum is known
    return Case("blur", f"blurred by a Gaussian of one pixel, noise {NOISE:g}", forward, Gaussian(NOISE))


def _counts() -> Case:
    title = f"Poisson counts: {GAIN:g} for the darkest pixel, {BACKGROUND:g} for white"
    return Case("counts", title, Identity(SHAPE), Poisson(GAIN, BACKGROUND))


CASES: dict[str, Callable[[], Case]] = {"box": _box, "blur": _blur, "counts": _counts}


def load(seed: int) -> tuple[Digits, Digits]:
    """Training and test images, parted by the seed, every pixel spread by half a grey level.

    Raises ImportError where scikit-learn is missing, InputError where its images are not the known ones.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("the digits need scikit-learn: pip install 'fokker[check]'") from error
    found = load_digits()
    raw = np.asarray(found.images, dtype=np.uint8)
    if hashlib.sha256(raw.tobytes()).hexdigest() != SHA256:
        raise InputError(f"digits: scikit-learn has {len(raw)} images other than the known 1,797 (SHA-256 {SHA256})")
    rng = stream(seed, "digits/split")
    order = rng.permutation(len(raw))
    images = (raw + SPREAD * rng.standard_normal(raw.shape)) / LEVELS
    parts = (np.sort(order[:TRAIN]), order[TRAIN:])
    train, test = (Digits(images[rows], np.asarray(found.target)[rows], rows) for rows in parts)
    return train, test


class GaussianPosterior:
    """p(x given y) of the Gaussian prior with the mean and the covariance of images (N, 8, 8): no network.

    With data A x + noise of variance R it is N(mean + K (y - A mean), C - K A C), K = C A^T (A C A^T + R)^-1: exact for
    Gaussian noise. For counts, R is the expected variance: the best estimate that is linear in the counts.
    """

    def __init__(self, images: NDArray, case: Case):
        x = torch.from_numpy(images).flatten(1)
        self.case, self.prior_mean, c = case, x.mean(0), x.T.cov()
        a = case.forward.matrix().double()
        _, variance = case.linear_data(torch.zeros(1, *case.forward.y_shape), self.prior_mean.reshape(SHAPE))
        self.gain = torch.linalg.solve(a @ c @ a.T + variance.diag(), a @ c).T
        self.a, self.covariance = a, c - self.gain @ a @ c

    def mean(self, y: Tensor) -> Tensor:
        """(M, 8, 8) for y (M, *y_shape)."""
        data, _ = self.case.linear_data(y, self.prior_mean.reshape(SHAPE))
        return (self.prior_mean + (data - self.prior_mean @ self.a.T) @ self.gain.T).unflatten(1, SHAPE)

    def sample(self, y: Tensor, n: int, seed: int, kind: str) -> Tensor:
        """(M, n, 8, 8), fixed by the seed, the case and the kind of truths."""
        values, vectors = torch.linalg.eigh(self.covariance)
        root = vectors * values.clamp(min=0).sqrt()
        xi = stream(seed, f"digits/{self.case.name}/{kind}/gaussian").standard_normal((len(y), n, root.shape[0]))
        return self.mean(y)[:, None] + (torch.from_numpy(xi) @ root.T).unflatten(2, SHAPE)


def pseudo_inverse(case: Case, y: Tensor) -> Tensor:
    """The image of least norm among those that fit y best (M, 8, 8): no prior at all."""
    data, _ = case.linear_data(y, torch.zeros(SHAPE, dtype=torch.float64))
    return case.forward.pseudo_inverse(data.reshape(y.shape))
