"""What a run of regression is asked to do, its test cases, and the ways to answer them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fokker.errors import InputError
from fokker.fields.fitting import FUNCTIONS
from fokker.fields.observations import PointObservations
from fokker.fields.posterior import FunctionPosterior
from fokker.fields.prior import FunctionPrior
from fokker.likelihoods import Gaussian
from fokker.operators.evaluation import PointValues
from fokker.posterior.guided import GuidedPosterior
from fokker.posterior.pigdm import PiGDM
from fokker.posterior.recipes import Recipe
from fokker.problems.folder import plain
from fokker.problems.regression_families import FAMILIES
from fokker.rng import check_seed, stream

EXACT, NO_NETWORK = "exact", "no_network"
AMORTIZED, PRIOR = "amortized", "prior"  # kinds of models: trained with observations, and without
METHODS = {"amortized": AMORTIZED, "guided": PRIOR, "pigdm": PRIOR, NO_NETWORK: PRIOR}  # method: the model it takes
LABELS = {
    "amortized": "amortized", "guided": "guided", "pigdm": "PiGDM", NO_NETWORK: "no network", EXACT: "exact",
}  # fmt: skip
MOST = 16  # points, at most
NOISE = (0.05, 0.2)  # bounds of the standard deviation of the noise, uniform in log between them
OBSERVATIONS = PointObservations(1, MOST, *NOISE)
FIELDS = 40_000
_FINE = replace(  # fine waves tell a rough function from a smooth one
    FUNCTIONS,
    network={**FUNCTIONS.network, "modes": 64, "depth": 4},
    training=replace(FUNCTIONS.training, steps=2_000, batch_size=16),
)
_WIDE = replace(
    FUNCTIONS,
    network={**FUNCTIONS.network, "width": 48, "modes": 32, "depth": 6},
    training=replace(FUNCTIONS.training, batch_size=32),
)
# Which wave it was is decided at high levels, most of all by data, from which a network learns it slowly.
_WAVES = {
    AMORTIZED: replace(_WIDE, level_mean=1.5, training=replace(_WIDE.training, steps=15_000)),
    PRIOR: replace(_WIDE, level_mean=0.5, training=replace(_WIDE.training, steps=10_000)),
}


@dataclass(frozen=True)
class RegressionRun:
    """Everything that a run is asked to do; `config.json` holds it whole."""

    families: tuple[str, ...] = ("matern", "switch", "waves")
    """Laws of functions: matern (a Gaussian process), switch (one of two), waves (not Gaussian at all)."""
    cases: int = 100
    """Functions to be found, for each family, from 1 to 16 points in turn."""
    draws: int = 64
    """Samples of each posterior; fewer than 39 cannot show that 95 % intervals are too narrow."""
    steps: int = 16
    """Levels of every chain."""
    fields: int = FIELDS
    """Functions to learn from; another number takes a training."""
    train: int = 0
    """Train anew, every model for so many steps; 0: the weights of the package."""
    seed: int = 0
    """Fixes every number of the run."""

    def __post_init__(self) -> None:
        if not self.families or len(set(self.families)) < len(self.families) or set(self.families) - set(FAMILIES):
            known = ", ".join(FAMILIES)
            raise InputError(f"families: got {self.families!r}, one or more of {known}, each once, are accepted")
        least = {"cases": 2, "draws": 9, "steps": 2, "fields": 20, "train": 0}
        for name, lowest in least.items():
            value = getattr(self, name)
            if value < lowest:
                raise InputError(f"{name}: got {value}, an integer of at least {lowest} is accepted")
        check_seed(self.seed)
        if self.fields != FIELDS and not self.train:
            raise InputError(
                f"fields: got {self.fields} for the weights of the package, {FIELDS} is accepted, which they come "
                "from; any number with train, the steps of a training"
            )

    def answers(self) -> list[str]:
        """FAMILY.METHOD of all answers, the exact one of each family last."""
        return [f"{family}.{method}" for family in self.families for method in (*METHODS, EXACT)]

    def recipe(self, family: str, kind: str) -> Recipe:
        """How a model is trained, or the one of the package was."""
        found = _WAVES[kind] if family == "waves" else _FINE
        return replace(found, training=replace(found.training, steps=self.train or found.training.steps))

    def settings(self) -> dict[str, Any]:
        """All options as JSON."""
        return {"problem": "regression-1d", **{k: plain(v) for k, v in asdict(self).items()}}

    @classmethod
    def presets(cls) -> dict[str, RegressionRun]:
        """quick and paper."""
        return {"quick": cls(), "paper": replace(cls(), cases=400, steps=32)}


@dataclass(frozen=True)
class Cases:
    """What is told of each function of a family, fixed by the seed.

    points (M, 16) and y (M, 16), the first count (M,) of which are told, std (M,) of the noise; truth (M, 128) on the
    cells.
    """

    points: Tensor
    y: Tensor
    count: Tensor
    std: Tensor
    truth: Tensor

    @classmethod
    def of(cls, run: RegressionRun, family: str) -> Cases:
        """Points uniform on the interval, their number 1 to 16 in turn."""
        rng = stream(run.seed, f"regression/{family}/cases")
        functions = FAMILIES[family].draw(run.cases, run.seed, f"{family}/truths")
        points = torch.from_numpy(rng.random((run.cases, MOST)))
        std = torch.from_numpy(NOISE[0] * (NOISE[1] / NOISE[0]) ** rng.random(run.cases))
        noise = std[:, None] * torch.from_numpy(rng.standard_normal(points.shape))
        count = torch.from_numpy(1 + np.arange(run.cases) % MOST)
        return cls(points, functions.at(points) + noise, count, std, functions.cells)

    def told(self, case: int) -> tuple[Tensor, Tensor, float]:
        """points (m,), y (m,) and the noise of one case."""
        m = int(self.count[case])
        return self.points[case, :m], self.y[case, :m], float(self.std[case])

    @cached_property
    def shown(self) -> Tensor:
        """y (M, 16), NaN where nothing is told."""
        return torch.where(torch.arange(MOST) < self.count[:, None], self.y, torch.nan)


def build(method: str, prior: FunctionPrior, points: Tensor, std: float) -> GuidedPosterior:
    """The posterior of a method given values at points (m,)."""
    where, likelihood = points[:, None], Gaussian(std)
    if method == "pigdm":
        model = prior.at()
        return PiGDM(model, forward=PointValues(model.x_shape, where), likelihood=likelihood)
    return FunctionPosterior.of_values(
        prior.no_network() if method == NO_NETWORK else prior, where, likelihood=likelihood
    )
