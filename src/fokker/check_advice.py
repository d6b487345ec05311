"""What to do next, after a check: the advice that follows from what was found and from how the fit went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fokker.check_measurement import Measured
from fokker.check_simulator import Simulates, renamed
from fokker.diagnostics.calibration import Verdict
from fokker.simulation.programs import ModelFile

CLEAR = 3.0  # standard errors beyond which a difference is told
OTHERS = "other coordinates (logarithms of what varies over decades, --bounds, --positive)"


@dataclass(frozen=True)
class Fitted:
    """What is known of a fit.

    cut: whether its steps were over while the validation loss still fell, or had not begun to; None where that is not
    known. short: whether they were fewer than it takes to see that nothing improves any more. simulator: settings of
    the simulator that made the pairs, see `ModelFile.settings`; names: what it calls the entries of x and y that the
    fit has; both empty where they are not known.
    """

    cut: bool | None = None
    short: bool = False
    simulator: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)


UNKNOWN = Fitted()


def other_simulator(simulator: Simulates | None, fitted: Fitted) -> str:
    """What is to be told of a simulator that is known not to be that of the pairs; empty where it is not."""
    made = fitted.simulator
    if not isinstance(simulator, ModelFile) or "sha256" not in made:
        return ""
    if "program" in made:
        return f"the pairs of the fit were made by the program {made['program']!r}, not by simulate of {simulator.name}"
    if made["sha256"] == simulator.settings["sha256"]:
        return ""
    names = renamed(simulator, fitted.names)
    told = f"{simulator.name} differs from the file that made the pairs of the fit ({made.get('file')}, by its SHA-256)"
    return f"{told}, and {names}" if names else told


def advice(
    verdict: Verdict,
    scores: Mapping[str, tuple[float, float, float]],
    measured: Sequence[Measured],
    fitted: Fitted,
    simulator: Simulates | None,
) -> tuple[str, ...]:
    """The steps, those first that cost least. Longer training is advised only where there is something left to gain."""
    steps, adds = [], not scores or any(z > CLEAR for _, _, z in scores.values())
    longer = adds if fitted.cut is None else fitted.cut and (adds or fitted.short)
    if verdict.calibrated and any(_contradicted(one) for one in measured):
        steps.append(_same_first(simulator, fitted))
    if not verdict.calibrated:
        what = "fit to more pairs (`fokker simulate -n`)"
        what = f"train longer (--steps) if the training was cut, {what}" if longer else f"{what} or in {OTHERS}"
        steps.append(f"{what}, and make sure that the rows of this check come from the same simulator")
    if not adds:
        steps.append("use posterior.no_network(), which needs no network, or fit to more pairs")
    if any(m.wrong_around for m in measured):
        steps.append(
            f"where the posterior is wrong around a measurement, {'train longer (--steps) or ' if longer else ''}"
            "fit to more pairs, best from a prior that is cut to where its answer lies"
        )
    if any(m.strange for m in measured):
        steps.append(
            "look for an error of units or recording in the strange measurement; if there is none, the prior is too "
            "narrow or the simulator leaves something out"
        )
    return tuple(steps)


def _contradicted(one: Measured) -> bool:
    """Whether new simulations disagree with the posterior of a measurement that looks like the training data."""
    return (one.wrong_around and one.local is not None) or (one.strange and one.p_predictive is not None)


def _same_first(simulator: Simulates | None, fitted: Fitted) -> str:
    right = "on the rows of this check the posterior is right"
    different = other_simulator(simulator, fitted)
    if different:
        return f"check with the simulator of the pairs first: {different}; {right}"
    if fitted.simulator and isinstance(simulator, ModelFile):
        return (
            f"the simulator may not be the one that made the pairs: make sure first that nothing {simulator.name} "
            f"imports or reads has changed since; {right}"
        )
    return f"the simulator may not be the one that made the pairs: make sure of that first; {right}"
