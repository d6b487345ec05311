"""The guidance battery's page: which guided posterior for which problem.

    fokker run guidance-battery --preset paper --out runs/battery     most of an hour on 2 cores
    python benchmarks/guidance_battery.py runs/battery

Writes benchmarks/results/guidance_battery.json (every number of the run), docs/guidance.md and docs/guidance.png.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
from pathlib import Path

import numpy as np

from fokker.problems.battery_cases import all_cases
from fokker.problems.battery_run import GuidanceBattery
from fokker.problems.battery_summary import rows
from fokker.report import files
from fokker.report.battery_page import HEADER, LIMITS, READING, choice, table

ROOT = Path(__file__).parent.parent
RESULT = Path(__file__).parent / "results" / "guidance_battery.json"
PAGE, PICTURE = ROOT / "docs" / "guidance.md", ROOT / "docs" / "guidance.png"
SELECTION = (
    "How counts are approximated by a Gaussian (its variance from the predicted rate, at least a quarter of a count) "
    "was chosen on the three cases of counts. What `fokker.guided` takes was chosen by this table: for every kind "
    "within 15 % of the nearest method of that cost or less, which a test holds."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    out = parser.parse_args().run
    settings, versions = files.read_settings(out, GuidanceBattery.problem, GuidanceBattery)
    metrics = files.read_metrics(out)
    machine = {
        "date": datetime.date.today().isoformat(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "versions": versions,
    }
    RESULT.write_text(json.dumps({**machine, "settings": settings.settings(), "metrics": metrics}, indent=1) + "\n")
    shutil.copyfile(out / "figures" / "costs.png", PICTURE)
    found = rows(metrics)
    kinds = list(dict.fromkeys(row.kind for row in found))
    again = {key: value for key, value in metrics.items() if key.endswith(".reseed")}
    middle, most = np.quantile(list(again.values()), [0.5, 0.95])
    worst = max(again, key=lambda key: again[key])
    number = len(settings.cases) if len(settings.cases) < len(all_cases()) else "all"
    text = [
        "# Guided posteriors against exact ones",
        "",
        "Written by `benchmarks/guidance_battery.py` from a run of `fokker run guidance-battery`: every method on "
        f"{number} of its {len(all_cases())} problems whose posterior is known, {settings.measurements} "
        f"measurements of each, {settings.draws} samples each, {settings.repeats} times, up to {settings.most_steps} "
        "steps. Distances near 1 differ by chance.",
        "",
        "| kind of problem | take |",
        "|---|---|",
        *(f"| {kind} | {choice(found, kind)} |" for kind in kinds),
        "",
        "![Distance from the exact posterior against seconds, for each kind of problem](guidance.png)",
        "",
        READING,
        "",
        f"Sampling everything anew with another seed changes a distance by {100 * middle:.0f} % of it in the middle of "
        f"{len(again)} rows (case, method, steps) and by {100 * most:.0f} % or less in 95 of 100; by "
        f"{100 * again[worst]:.0f} % in the worst, `{worst.removesuffix('.reseed')}`.",
        "",
        SELECTION,
        "",
        "Moment matching and particles with steps doubled until nothing moves: [guidance_exact.md](guidance_exact.md).",
        "",
    ]
    for kind in kinds:
        text += [f"## {kind[0].upper()}{kind[1:]}", "", "| " + " | ".join(HEADER) + " |", "|---" * len(HEADER) + "|"]
        text += ["| " + " | ".join(line) + " |" for line in table(found, kind)]
        text.append("")
    text += ["## Limits", "", *(f"- {limit}" for limit in LIMITS), ""]
    text.append(f"{machine['machine']}, {machine['cores']} cores, {machine['date']}.")
    PAGE.write_text("\n".join(text) + "\n")


if __name__ == "__main__":
    main()
