"""Steps doubled until nothing moves: the answer is the exact one, and too few steps are seen to be too few."""

import math

import pytest
import torch

import fokker
from exact import gaussian, mixture
from fokker.errors import Diverges, InputError
from fokker.operators import Matrix
from fokker.posterior.doubts import Doubt
from test_guided import F64, ROW, VE, posterior_mixture

Y = torch.tensor([0.7], dtype=F64)
GIVEN = {"forward": Matrix(ROW), "likelihood": fokker.Gaussian(0.5)}


def test_particles_are_refined_to_the_exact_answer():
    """Eight populations: means and evidence within five standard errors, those of resampled particles 1.5 times iid."""
    law, evidence = posterior_mixture(VE, ROW, torch.tensor(0.25, dtype=F64), Y)
    found = fokker.refined(fokker.TwistedSMC(mixture(VE), particles=1024, **GIVEN), Y, 4000, steps=2)
    runs = found.settings["refined"]
    assert [run["steps"] for run in runs] == [2 * 2**i for i in range(len(runs))] and len(runs) > 2
    assert runs[1]["moved"] > 1 and runs[-1]["moved"] <= 1 and float(found.checks["moved"]) == runs[-1]["moved"]
    assert found.samples.shape == (4000, 2) and found.y.shape == Y.shape
    mean = law.weights @ law.means
    spread = found.samples.double().std(0)
    assert float(((found.samples.double().mean(0) - mean) / spread).abs().max()) < 5 * 1.5 / 4000**0.5
    single = fokker.TwistedSMC(mixture(VE), particles=1024, **GIVEN).sample(Y.expand(32, 1), 1, steps=runs[-1]["steps"])
    ratio = (single.log_evidence - evidence).exp()  # its mean over populations is 1, for the chain
    assert float((found.log_evidence - evidence).exp() - 1) == pytest.approx(0, abs=5 * float(ratio.std()) / 8**0.5)


def test_each_measurement_has_its_own_answer_and_the_call_is_reproducible():
    posterior, y = fokker.MomentMatching(gaussian(VE), **GIVEN), torch.tensor([[0.7], [-2.0]], dtype=F64)
    found, again = (fokker.refined(posterior, y, 50, seed=3, steps=4) for _ in range(2))
    assert found.samples.shape == (2, 50, 2) and found.checks["moved"].shape == (2,)
    assert torch.equal(found.samples, again.samples)


def test_what_still_moves_is_told():
    posterior = fokker.TwistedSMC(mixture(VE), particles=1024, **GIVEN)
    with pytest.warns(UserWarning, match="still move between 2 and 4 steps"):
        fokker.refined(posterior, Y, 100, steps=2, most=4)
    with pytest.raises(InputError, match="steps and most"):
        fokker.refined(posterior, Y, 100, steps=8, most=8)
    with pytest.raises(InputError, match="posterior: got MixtureScore"):
        fokker.refined(mixture(VE), Y, 100)


class Stiff(fokker.MomentMatching):
    """Diverges below 16 steps."""

    def sample(self, *given, steps, **more):
        if steps < 16:
            raise Diverges("too few")
        return super().sample(*given, steps=steps, **more)


def test_a_run_that_diverges_counts_as_one_that_moved():
    posterior = Stiff(gaussian(VE), **GIVEN)
    runs = fokker.refined(posterior, Y, 100, steps=4).settings["refined"]
    failed = {"moved": math.inf, "diverged": True}
    assert runs[:3] == [{"steps": 4, **failed}, {"steps": 8, **failed}, {"steps": 16, "moved": math.inf}]
    assert runs[-1]["steps"] > 16 and runs[-1]["moved"] <= 1
    with pytest.raises(Diverges):
        fokker.refined(posterior, Y, 100, steps=4, most=15)
    with pytest.warns(UserWarning, match="still move between 8 and 16 steps"):  # the last has none to compare with
        fokker.refined(posterior, Y, 100, steps=4, most=16)


def test_a_doubt_names_the_measurement_that_was_asked_for():
    y = torch.tensor([[0.7], [90.0]], dtype=F64)
    with pytest.warns(Doubt, match="^measurement 1: ") as told:
        fokker.refined(fokker.MomentMatching(gaussian(VE), **GIVEN), y, 50, steps=16)
    assert len([one for one in told if one.category is Doubt]) == 1
