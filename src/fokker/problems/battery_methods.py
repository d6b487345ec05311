"""The methods of the guidance battery, with the numbers of steps each is run with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fokker.errors import InputError
from fokker.posterior.daps import DAPS
from fokker.posterior.ddrm import DDRM
from fokker.posterior.dps import DPS
from fokker.posterior.guided import GuidedPosterior
from fokker.posterior.known import KnownLikelihood, MonteCarlo
from fokker.posterior.moment_matching import MomentMatching
from fokker.posterior.pigdm import PiGDM
from fokker.posterior.smc import TwistedSMC
from fokker.problems.battery_cases import Built, Case

FEW_DIMENSIONS = 8  # in which averages over draws, and particles, are of use


@dataclass(frozen=True)
class Method:
    """A row of the table. steps: the numbers of steps it is run with; most: dimensions up to which it is run."""

    name: str
    words: str
    make: Callable[..., GuidedPosterior]
    steps: tuple[int, ...]
    most: int = 64
    options: Mapping[str, Any] = field(default_factory=dict)

    def build(self, built: Built) -> GuidedPosterior:
        """The posterior; InputError where the method refuses the case."""
        given = {"forward": built.forward, "likelihood": built.likelihood, **self.options}
        return self.make(built.prior, **given)

    def takes(self, case: Case, built: Built) -> bool:
        """Whether it is run on the case."""
        if case.dimension > self.most:
            return False
        try:
            self.build(built)
        except InputError:
            return False
        return True


METHODS = {
    method.name: method
    for method in (
        Method("dps", "DPS, step from the noise", DPS, (32, 128, 512)),
        Method("dps-released", "DPS, released form, scale 0.3", DPS, (100, 1000), options={"scale": 0.3}),
        Method("pigdm", "PiGDM", PiGDM, (16, 32, 128)),
        Method("moments", "moment matching", MomentMatching, (16, 32, 128)),
        Method("ddrm", "DDRM", DDRM, (20, 100)),
        Method("daps", "DAPS, five evaluations a step", DAPS, (10, 40)),
        Method("smc-pigdm", "twisted SMC, PiGDM", TwistedSMC, (32, 128), 30, {"twist": PiGDM, "particles": 4096}),
        Method(
            "smc-moments", "twisted SMC, moment matching", TwistedSMC, (32, 128), 30,
            {"twist": MomentMatching, "particles": 4096},
        ),
        Method("smc-dps", "twisted SMC, DPS", TwistedSMC, (32, 128), 30, {"twist": DPS, "particles": 4096}),
        Method("monte-carlo", "Monte Carlo, 256 draws", MonteCarlo, (32,), 2, {"draws": 256}),
        Method("known", "p(y given x_t) known", KnownLikelihood, (32, 128)),
    )
}  # fmt: skip
