"""Running the guidance battery: every method on every case, measured against the exact posterior.

Each case leaves results/CASE.json (and, for two unknowns, samples to look at); what is there is not done again.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from fokker.diagnostics.two_sample import sliced_wasserstein
from fokker.errors import Diverges, InputError
from fokker.problems.battery_cases import Built, Case, Exact, all_cases
from fokker.problems.battery_methods import FEW_DIMENSIONS, METHODS, Method
from fokker.problems.folder import held, is_from, plain
from fokker.problems.parallel import Progress, Task, run_side_by_side
from fokker.rng import check_seed
from fokker.storage import read_sealed, write_json, write_sealed, write_tensors

PACKAGES = ("fokker", "torch", "numpy", "scipy", "scikit-fem")
REFERENCE = 4096  # exact draws that samples are compared with
EXACT = "exact"
MANY = 12  # names, beyond which those that are like the one given are told
METRICS = ("sliced_wasserstein", "bias", "variance_ratio", "coverage_80")
QUICK = (
    "gaussian-8-under-0.3", "gaussian-8-over-0.3", "mixture-2-under-0.3", "mixture-8-under-0.3", "squares-0.1",
    "modulus-0.5", "counts-10", "flux-5",
)  # fmt: skip


@dataclass(frozen=True)
class GuidanceBattery:
    """Everything that a run is asked to do; `config.json` holds it whole."""

    problem: ClassVar[str] = "guidance-battery"

    cases: tuple[str, ...] = QUICK
    """Cases by name: gaussian or mixture, 2, 8 or 64 unknowns, under- or over-determined, noise 0.05, 0.3 or 1 (0.3 for
    64 unknowns), as gaussian-8-over-0.3; squares, modulus or clipped, noise 0.1 or 0.5, as squares-0.1; counts-1, 10 or
    100; flux-0.5, 5 or 50. The page of a paper run lists all."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Methods by name."""
    most_steps: int = 32
    """Methods are run with their own numbers of steps up to this; with their fewest in any case."""
    measurements: int = 4
    """Measurements of each case, drawn from its prior."""
    draws: int = 512
    """Samples for each measurement."""
    repeats: int = 1
    """How often everything is sampled anew, with another seed."""
    seed: int = 0
    """Fixes every number of the run but the seconds."""

    def __post_init__(self) -> None:
        for name, known in (("cases", all_cases()), ("methods", METHODS)):
            for value in getattr(self, name):
                if value not in known:
                    raise InputError(f"{name}: got {value!r}, {_near(value, list(known))} is accepted")
            if not getattr(self, name) or len(set(getattr(self, name))) < len(getattr(self, name)):
                raise InputError(f"{name}: got {getattr(self, name)!r}, one or more, each once, are accepted")
        for name, least in (("measurements", 1), ("draws", 50), ("repeats", 1), ("most_steps", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name}: got {getattr(self, name)}, an integer of at least {least} is accepted")
        check_seed(self.seed)

    @classmethod
    def presets(cls) -> dict[str, GuidanceBattery]:
        """quick: eight cases in a few minutes; paper: all of them, with more steps, twice, in an hour."""
        return {"quick": cls(), "paper": cls(cases=tuple(all_cases()), most_steps=1000, repeats=2)}

    def settings(self) -> dict[str, Any]:
        """All options as JSON."""
        return {"problem": self.problem, **{name: plain(value) for name, value in asdict(self).items()}}

    def steps_of(self, method: Method, case: Case) -> list[int]:
        """The numbers of steps that a method is run with: particles of many unknowns with the fewest alone."""
        many = case.dimension > FEW_DIMENSIONS and "particles" in method.options
        return [k for k in method.steps if k == method.steps[0] or (k <= self.most_steps and not many)]


def run(
    settings: GuidanceBattery, out: Path, progress: Progress, report: Callable[[Path], object] | None = None
) -> dict[str, float]:
    """Do all that is not done yet in the folder `out` and return the metrics, which are in metrics.json too.

    `report(out)` is called at the end, while the folder is still held. Raises InputError where the folder holds a run
    with other settings or is in use, OSError where the disk fails.
    """
    with held(settings.settings(), PACKAGES, out):
        (out / "results").mkdir(exist_ok=True)
        # The longest first, so that both processes end at about the same time.
        order = sorted(settings.cases, key=lambda name: -all_cases()[name].dimension)
        missing = [name for name in order if not _done(settings, name, out)]
        run_side_by_side([Task(solve, (settings, name, out)) for name in missing], progress)
        metrics: dict[str, float] = {}
        for name in settings.cases:
            metrics |= read_sealed(out / "results" / f"{name}.json")["numbers"]
        write_json(out / "metrics.json", metrics)
        if report is not None:
            report(out)
        return metrics


def solve(settings: GuidanceBattery, name: str, out: Path, progress: Progress) -> None:
    """All methods on one case: results/CASE.json, and samples of two unknowns in results/CASE.safetensors."""
    case, (path, pictures) = all_cases()[name], _paths(name, out)
    torch.set_num_threads(1)
    built = case.build()
    y = built.measurements(settings.measurements)
    exact = built.exact(y.numpy(), REFERENCE, settings.seed)
    methods = [METHODS[key] for key in settings.methods if METHODS[key].takes(case, built)]
    jobs = [(method, steps) for method in methods for steps in settings.steps_of(method, case)]
    numbers, kept = _floor(settings, case, built, y.numpy(), exact), {"exact": exact.draws[0, : settings.draws]}
    for index, (method, steps) in enumerate(jobs):
        progress(f"{name}", index, len(jobs))
        found = [_measured(settings, method, steps, built, y, exact, again) for again in range(settings.repeats)]
        numbers |= {
            f"{name}.{method.name}.steps={steps}.{key}": value for key, value in joined([f[0] for f in found]).items()
        }
        if found[0][1] is not None:
            kept[f"{method.name}.steps={steps}"] = found[0][1]
    progress(f"{name}", len(jobs), len(jobs))
    if case.dimension == 2:
        tensors = {key: torch.from_numpy(value.astype(np.float32)) for key, value in kept.items()}
        write_tensors(pictures, tensors, _origin(settings))
    write_sealed(path, {**_origin(settings), "numbers": numbers})


def _near(value: str, known: list[str]) -> str:
    """The names that may have been meant, or what names look like where these are many."""
    if len(known) <= MANY:
        return f"one of {', '.join(known)}"
    like = get_close_matches(value, known, 3) or known[:1]
    return f"a name such as {', '.join(like)} ({len(known)} in all, see --help)"


def _paths(name: str, out: Path) -> tuple[Path, Path]:
    return out / "results" / f"{name}.json", out / "results" / f"{name}.safetensors"


def _origin(settings: GuidanceBattery) -> dict[str, str]:
    """All that decides a result."""
    return {"settings": json.dumps(settings.settings())}


def _done(settings: GuidanceBattery, name: str, out: Path) -> bool:
    path, pictures = _paths(name, out)
    try:
        whole = read_sealed(path).get("settings") == _origin(settings)["settings"]
    except InputError:
        return False
    return whole and (all_cases()[name].dimension > 2 or is_from(pictures, _origin(settings)))


def _floor(settings: GuidanceBattery, case: Case, built: Built, y: NDArray, exact: Exact) -> dict[str, float]:
    """What the measures give for exact samples, as many as the methods draw."""
    found = []
    for again in range(max(4, settings.repeats)):
        draws = built.exact(y, settings.draws, settings.seed + 1 + again).draws
        found.append(compared(draws, exact))
    return {f"{case.name}.{EXACT}.{key}": float(np.mean([f[key] for f in found])) for key in METRICS}


def _measured(
    settings: GuidanceBattery, method: Method, steps: int, built: Built, y: torch.Tensor, exact: Exact, again: int
) -> tuple[dict[str, float], NDArray | None]:
    """The measures of a method, and its samples of the first measurement; only "diverged" where it has none."""
    started = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that particles are few is told by their numbers
        try:
            found = method.build(built).sample(y, settings.draws, settings.seed + 1000 * again, steps=steps)
        except Diverges:
            return {"diverged": 1.0}, None
    seconds = time.process_time() - started
    samples = found.samples.double().numpy()
    numbers = {**compared(samples, exact), "diverged": 0.0, "nfe": float(found.nfe), "seconds": seconds}
    if found.log_evidence is not None:
        numbers["log_evidence_error"] = float(np.abs(found.log_evidence.numpy() - exact.evidence).mean())
        numbers["least_ess"] = float(found.checks["least_ess"].min())
    return numbers, samples[0]


def compared(samples: NDArray, exact: Exact) -> dict[str, float]:
    """Samples (M, n, d) against the exact posteriors, all in units of the exact standard deviations.

    sliced_wasserstein: to exact draws, mean over M. bias: root mean square over the entries of (mean - exact mean),
    mean over M. variance_ratio: geometric mean over entries and M. coverage_80: what part of the exact posterior the
    central intervals hold that hold 80 % of the samples, entry by entry, mean over entries and M.
    """
    scale = exact.std[:, None]
    apart = [sliced_wasserstein(a, b) for a, b in zip(samples / scale, exact.draws / scale)]
    offset = (samples.mean(1) - exact.mean) / exact.std
    ratio = samples.var(1) / exact.std**2
    low, high = np.quantile(samples, [0.1, 0.9], axis=1)[:, :, None]
    return {
        "sliced_wasserstein": float(np.mean(apart)),
        "bias": float(np.sqrt((offset**2).mean(1)).mean()),
        "variance_ratio": float(np.exp(np.log(np.maximum(ratio, 1e-12)).mean())),
        "coverage_80": float(((exact.draws >= low) & (exact.draws <= high)).mean()),
    }


def joined(repeats: list[dict[str, float]]) -> dict[str, float]:
    """Means over the repeats; `reseed`: the largest change of the distance from their mean, relative to it."""
    alive = [one for one in repeats if not one["diverged"]]
    out = {"diverged": 1 - len(alive) / len(repeats)}
    for key in alive[0] if alive else ():
        if key != "diverged":
            # the first time that a method runs, it is slower by what is then loaded
            out[key] = float((np.min if key == "seconds" else np.mean)([one[key] for one in alive]))
    if len(alive) > 1:
        apart = np.array([one["sliced_wasserstein"] for one in alive])
        out["reseed"] = float(np.abs(apart - apart.mean()).max() / apart.mean())
    return out
