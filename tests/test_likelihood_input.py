"""Likelihoods: wrong shapes, data that cannot be and bad parameters are told in one line."""

import math

import numpy as np
import pytest
import torch

import fokker
from fokker.errors import InputError
from laws import LAWS, data


@pytest.mark.parametrize("name", LAWS)
def test_shapes_that_disagree_are_refused(name):
    law = LAWS[name].build(1)
    y, clean = data(law)
    for wrong in (y[:3], y[0], y[:, :2], y[:, :1], y[..., None], y.sum()):
        for ask in (law.log_prob, law.slope):
            with pytest.raises(InputError, match=r"^y: got shape \(.*clean values \(20, 3\) is accepted$"):
                ask(wrong, clean)


@pytest.mark.parametrize("name", LAWS)
def test_data_are_checked(name):
    law = LAWS[name].build(1)
    y, _ = data(law)
    law.check(y)
    law.check(y.float())
    for value in (math.nan, math.inf, -math.inf):
        wrong = y.clone()
        wrong[4, 1] = value
        with pytest.raises(InputError, match=rf"^y: got {value} at \[4, 1\], .* accepted$"):
            law.check(wrong)


BAD = [
    *((lambda v=v: fokker.Gaussian(v), "noise: got") for v in (-0.1, math.nan, math.inf, "1")),
    *((lambda v=v: fokker.LogNormal(v), "noise: got") for v in (-0.1, math.nan, math.inf, "1")),
    *((lambda v=v: fokker.Saturating(v, 1.0), "noise: got") for v in (-0.1, math.nan, math.inf, "1")),
    *((lambda v=v: fokker.Saturating(0.1, v), "level: got") for v in (math.nan, math.inf, "1")),
    (lambda: fokker.Gaussian([0.1, -0.2]), r"noise: got -0.2 at \[1\], a finite standard deviation >= 0 is accepted"),
    (lambda: fokker.Gaussian(np.array([[0.1, math.nan]])), r"noise: got nan at \[0, 1\]"),
    (lambda: fokker.Gaussian(["a"]), "noise: got"),
    *((lambda v=v: fokker.Poisson(v), "gain: got") for v in (0, -1.0, math.nan, math.inf, "1", None)),
    *((lambda v=v: fokker.Poisson(1.0, v), "background: got") for v in (-1.0, math.nan, "1", None, [1.0, -2.0])),
    *((lambda v=v: fokker.Multiplicative(v), "std: got") for v in (0, -1.0, math.nan, math.inf, "1")),
    *((lambda v=v: fokker.Multiplicative(0.1, v), "floor: got") for v in (0, -1.0, math.nan, "1")),
    *((lambda v=v: fokker.Laplace(v), "scale: got") for v in (0, -1.0, math.nan, math.inf, "1")),
    *((lambda v=v: fokker.StudentT(v, 1.0), "df: got") for v in (0, -1.0, math.nan, math.inf, "1")),
    *((lambda v=v: fokker.StudentT(3.0, v), "scale: got") for v in (0, -1.0, math.nan, math.inf, "1")),
    *((lambda v=v: fokker.UnknownNoise(v, 1.0), "shape: got") for v in (0, -1.0, math.nan, math.inf, "1")),
    *((lambda v=v: fokker.UnknownNoise(1.0, v), "rate: got") for v in (0, -1.0, math.nan, math.inf, "1")),
    *((lambda v=v: fokker.LogDensity(v), "log_prob: got") for v in (None, 1.0, "normal")),
    (lambda: fokker.LogDensity(lambda y, clean: y, sample=0.1), "sample: got 0.1, a function is accepted"),
    *(
        (lambda v=v: fokker.Gaussian(covariance=v), "covariance: got .* symmetric positive definite")
        for v in (
            *(torch.eye(2) - 1, torch.zeros(2, 2), torch.ones(3), torch.ones(2, 3), -torch.eye(2), "R", [[1], [1, 2]]),
            *(torch.eye(2) * math.nan, torch.tensor([[1.0, 0.5], [0.0, 1.0]])),
        )
    ),
    (lambda: fokker.Gaussian(), "exactly one of std and covariance"),
    (lambda: fokker.Gaussian(0.1, torch.eye(2)), "exactly one of std and covariance"),
]


@pytest.mark.parametrize(("build", "message"), BAD)
def test_bad_parameters_are_refused(build, message):
    with pytest.raises(InputError, match=f"^(Gaussian: )?{message}") as refused:
        build()
    assert "\n" not in str(refused.value) and "accepted" in str(refused.value)
