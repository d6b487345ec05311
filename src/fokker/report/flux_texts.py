"""What the page of each channel problem says in words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fokker.problems.boundary_flux import BoundaryFlux
from fokker.problems.boundary_flux_sensors import BoundaryFluxSensors

SAME_LAW = (
    "The test fluxes come from the same prior and simulator as the training pairs. Another law of the flux, another "
    "flow or another kind of noise has not been tried here."
)
SAMPLES = (
    "The exact posterior is itself a sample: a Markov chain, with a Monte-Carlo error of a few percent of one "
    "posterior standard deviation in each mean. Cases whose chains had not converged are left out, and counted above."
)
AVERAGE = (
    "Coverage is an average over wall segments and test cases. It does not promise the same for every measurement."
)
ERRORS = "Numbers after ± are one standard error over the test cases; verdicts compare the numbers without it."


@dataclass(frozen=True)
class Texts:
    """settings: rows of the table of settings that only this problem has, each made from the run."""

    title: str
    question: str
    noise: str = "Standard deviation of the sensor noise"
    settings: Mapping[str, Callable[[object], str]] = field(default_factory=dict)
    limits: tuple[str, ...] = (SAME_LAW, SAMPLES, AVERAGE, ERRORS)


def _kind_of_noise(run: object) -> str:
    assert isinstance(run, BoundaryFlux)
    kinds = {
        "gaussian": "Gaussian",
        "lognormal": "multiplicative, log-normal (the noise is the standard deviation of the logarithm)",
        "saturating": f"Gaussian, readings above {run.saturation:g} are cut",
    }
    return kinds[run.sensors]


def _kind_of_layout(run: object) -> str:
    assert isinstance(run, BoundaryFluxSensors)
    told = {"mask": "told which are on", "minus-one": "those that are off read -1, as published"}
    return f"each on with probability {run.probability:g}; {told[run.encoding]}"


TEXTS = {
    "boundary-flux": Texts(
        "Boundary flux from 30 sensors",
        "Where does a chemical enter the channel, and how sure can one be, when all that is seen are 30 noisy sensors?",
        settings={"Kind of noise": _kind_of_noise},
    ),
    "boundary-flux-sensors": Texts(
        "Boundary flux from sensors that may be off",
        "One model for every layout of up to 30 sensors: where does the chemical enter, with the sensors there are?",
        settings={"Sensors": _kind_of_layout},
    ),
    "boundary-flux-reaction": Texts(
        "Boundary flux with growth in the channel",
        "Where does a chemical enter the channel, when it multiplies on its way and sensors respond nonlinearly?",
    ),
}
