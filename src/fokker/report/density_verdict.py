"""Whether a density run can be trusted: sentences made from its numbers, each beside its target."""

from __future__ import annotations

from collections.abc import Mapping

from fokker.errors import InputError
from fokker.problems.density_metrics import EXACT, NO_NETWORK
from fokker.problems.density_settings import FULL_LENGTH, DensityRun
from fokker.report.density_figures import label, process_label
from fokker.report.page import Check

TARGETS = {
    "tanh": {"w1": 0.020, "ks": 0.035},
    "bimodal": {"w1": 0.025, "ks": 0.025},
    "spiral": {"w1": 0.017, "ks": 0.022},
}
TRAIN_SECONDS, DRAW_SECONDS, EVALUATIONS = 15.0, 0.5, 32
PAIRS, DRAWS = 10_000, 10_000  # that the targets are for


class Lookup:
    """Metrics of a run by method and name."""

    def __init__(self, run: DensityRun, metrics: Mapping[str, float]):
        self.run, self.metrics = run, metrics

    def has(self, method: str, name: str) -> bool:
        """Whether it was measured."""
        return f"{self.run.density}.{method}.{name}" in self.metrics

    def __call__(self, method: str, name: str) -> float:
        """InputError where it was not."""
        key = f"{self.run.density}.{method}.{name}"
        if key not in self.metrics:
            raise InputError(f"metrics.json: has no {key}; running the same command again makes it")
        return self.metrics[key]


def published_length(run: DensityRun) -> str:
    """How long the published recipe was trained, in words that must stand beside each of its numbers."""
    if run.published_steps == FULL_LENGTH:
        return f"its full length, {FULL_LENGTH:,} training steps"
    return f"{run.published_steps:,} training steps instead of its full {FULL_LENGTH:,}"


def verdict(run: DensityRun, metrics: Mapping[str, float]) -> list[Check]:
    """Sentences about a run, computed from its metrics; targets are judged for 10,000 pairs and draws of the default
    recipe only. Raises InputError where a metric is missing.
    """
    get, judged = Lookup(run, metrics), (run.pairs, run.draws) == (PAIRS, DRAWS)
    checks = []
    ours = [method for method in run.methods() if method.model.recipe_name == "default"]
    aims = TARGETS[run.density]
    for method in ours:
        w1, ks = (get(method.name, name) for name in ("w1", "ks"))
        text = (
            f"{label(method).capitalize()}: W1 to the exact conditional is {w1:.4f} (exact samples: "
            f"{get(EXACT, 'w1'):.4f}) and KS {ks:.4f} (exact samples: {get(EXACT, 'ks'):.4f}), averaged over four y."
        )
        aim = f" Target: at most {aims['w1']:g} and {aims['ks']:g}."
        checks.append(Check(text + aim, w1 <= aims["w1"] and ks <= aims["ks"]) if judged else Check(text))
    if ours:
        checks += _cost(run, get, judged)
    if ours and get.has(NO_NETWORK, "w1"):
        best = min(get(method.name, "w1") for method in ours)
        gaussian = get(NO_NETWORK, "w1")
        finding = (
            f"the network divides it by {gaussian / best:.1f}." if best < gaussian else "the network adds nothing."
        )
        checks.append(Check(f"The Gaussian without any network has W1 {gaussian:.4f}: {finding}"))
    if "published" in run.recipes:
        found = ", ".join(
            f"{process_label(m.process_name)} {m.sampler_name.upper()} {get(m.name, 'w1'):.4f}"
            for m in run.methods()
            if m.model.recipe_name == "published"
        )
        text = f"The published set-up, after {published_length(run)}, has W1: {found}. No target is set for this."
        checks.append(Check(text))
    return checks


def _cost(run: DensityRun, get: Lookup, judged: bool) -> list[Check]:
    """Training, evaluations and drawing of the default recipe."""
    names = [method.name for method in run.methods() if method.model.recipe_name == "default"]
    trained, slowest = get("default.train", "seconds"), max(get(name, "seconds") for name in names)
    most, total = max(get(name, "nfe") for name in names), run.draws * len(run.law.y_values)
    train = f"Training took {trained:.1f} s on one core ({get('default.train', 'steps'):,g} steps)."
    draw = f"Drawing {total:,} samples took at most {slowest:.2f} s, {most:g} network evaluations each, on one core."
    if not judged:
        return [Check(train), Check(draw)]
    aim = f" Target: at most {DRAW_SECONDS:g} s and {EVALUATIONS}."
    return [
        Check(f"{train} Target: at most {TRAIN_SECONDS:g} s.", trained <= TRAIN_SECONDS),
        Check(draw + aim, slowest <= DRAW_SECONDS and most <= EVALUATIONS),
    ]
