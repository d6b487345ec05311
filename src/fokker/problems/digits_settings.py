"""What a run of the digits is asked to do, and which methods that makes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from fokker.errors import InputError
from fokker.posterior.ddrm import DDRM
from fokker.posterior.dps import DPS
from fokker.posterior.guided import GuidedPosterior
from fokker.posterior.moment_matching import MomentMatching
from fokker.posterior.pigdm import PiGDM
from fokker.posterior.prior import Prior
from fokker.posterior.smc import TwistedSMC
from fokker.problems.digits import CASES, TEST, Case
from fokker.problems.folder import plain
from fokker.rng import check_seed

REAL, SIMULATED = "real", "simulated"
KINDS = (REAL, SIMULATED)  # of truths: images that the prior has not seen, and draws of the prior itself
LABELS = {
    "pigdm": "PiGDM", "moment_matching": "moment matching", "smc": "twisted SMC", "ddrm": "DDRM", "dps": "DPS",
}  # fmt: skip
LINEAR = ("pigdm", "moment_matching", "smc", "ddrm", "dps")  # the first is the default of the case
COUNTS = ("pigdm", "smc", "dps")
STEPS = {"moment_matching": 32, "ddrm": 20, "dps": 500}  # other methods have the run's own


@dataclass(frozen=True)
class DigitsRun:
    """Everything that a run is asked to do; `config.json` holds it whole."""

    cases: tuple[str, ...] = ("box", "blur", "counts")
    """What is measured: box (the middle is hidden), blur, counts (Poisson)."""
    images: int = 64
    """Test images for each case, and as many draws of the learned prior; at most 297."""
    draws: int = 39
    """Samples for each measurement; fewer than 39 cannot show that 95 % intervals are too narrow."""
    steps: int = 64
    """Levels of PiGDM and twisted SMC, and of the chain that draws from the prior."""
    particles: int = 256
    """Particles of twisted SMC for each measurement."""
    training_steps: int = 8_000
    """Longest training of the prior in steps."""
    seed: int = 0
    """Fixes every number of the run."""

    def __post_init__(self) -> None:
        if not self.cases or len(set(self.cases)) < len(self.cases) or set(self.cases) - set(CASES):
            known = ", ".join(CASES)
            raise InputError(f"cases: got {self.cases!r}, one or more of {known}, each once, are accepted")
        least = {"images": 10, "draws": 9, "steps": 2, "particles": 2, "training_steps": 1}
        for name, lowest in least.items():
            value = getattr(self, name)
            if value < lowest:
                raise InputError(f"{name}: got {value}, an integer of at least {lowest} is accepted")
        if self.images > TEST:
            raise InputError(f"images: got {self.images}, at most {TEST} are accepted: the prior has seen the others")
        check_seed(self.seed)

    def methods(self, case: str) -> list[Method]:
        """Those that are measured on a case; the first is its default."""
        return [Method(self, case, name) for name in (COUNTS if case == "counts" else LINEAR)]

    def all_methods(self) -> list[Method]:
        """Those of all cases."""
        return [method for case in self.cases for method in self.methods(case)]

    def settings(self) -> dict[str, Any]:
        """All options as JSON."""
        return {"problem": "digits", **{k: plain(v) for k, v in asdict(self).items()}}

    @classmethod
    def presets(cls) -> dict[str, DigitsRun]:
        """quick and paper."""
        return {"quick": cls(), "paper": cls(images=200, draws=99, particles=1024)}


@dataclass(frozen=True)
class Method:
    """A way to sample the posterior of a case."""

    run: DigitsRun
    case_name: str
    name: str

    @property
    def steps(self) -> int:
        """Levels of its chain."""
        return STEPS.get(self.name, self.run.steps)

    @property
    def key(self) -> str:
        """CASE.METHOD in metric keys."""
        return f"{self.case_name}.{self.name}"

    def build(self, prior: Prior, case: Case) -> GuidedPosterior:
        """The posterior, ready to be sampled."""
        kinds: dict[str, Any] = {
            "pigdm": PiGDM,
            "moment_matching": MomentMatching,
            "ddrm": DDRM,
            "dps": DPS,
            "smc": partial(TwistedSMC, particles=self.run.particles),
        }
        return kinds[self.name](prior, forward=case.forward, likelihood=case.likelihood)
