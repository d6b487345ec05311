"""docs/functions.md and its figures, from the results of discretisation.py and context_points.py.

python benchmarks/functions_page.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from functions_figures import MODELS, NOISES, SAME, SIZES, context, discretisation

from fokker.report.drawing import STYLE, save

RESULTS, DOCS = Path(__file__).parent / "results", Path(__file__).parents[1] / "docs"
STUDIES = {
    "number": "How many observations",
    "place": "Where 8 observations are",
    "context": "How many points carry the state (cells; for the network of sets points beside the observations)",
    "context_place": "Where 24 points that carry the state are",
}


def discretisation_text(found: dict[str, Any]) -> list[str]:
    """The section on grids."""
    same, law = found["same"], found["law"]
    over = {key: [law[f"{key}-{n}"]["length"] / law[f"true-{n}"]["length"] for n in SIZES] for key in NOISES}
    lines = [
        "## Trained on one grid, asked on others",
        "",
        f"A Fourier operator of {found['steps']:,} steps of 16 fields, out of {found['fields']:,} of two values on "
        "32 x 32 cells (`threshold` of the field problems), is sampled from one seed on 32 x 32, 64 x 64 and "
        "128 x 128, once trained and sampled with noise of trace class, the law of the fields themselves, and once "
        "with white noise on the cells: same network, fields, steps and seed. The levels of white noise reach "
        "sqrt(1,024) times as high, as a wave needs to be lost in it, and are drawn around higher ones in training, "
        "exp(0.7 + 2 N) deviations, "
        "not tuned; those of trace class were the best of three, "
        f"exp({found['trace_level']:g} + 1.4 N) (exp(-0.4 + 1.4 N), the default of `fit_functions`, makes patches 0.78 "
        "times as long as true ones, exp(1.5 + 1.4 N) 0.84 times; steps of 64 fields 0.72 times).",
        "",
        "![One seed on three grids by both noises, and what changes with the grid](discretisation.png)",
        "",
        "**One seed is one function** with noise of trace class. L2 difference to 128 x 128, in standard deviations of "
        f"the field, {found['same_draws']} draws; over cells: means over the 32 x 32 cells that all grids share; at "
        "points: 1,000 scattered ones, to which the cosines of each grid continue its function.",
        "",
        "| | places | n = 32 | 64 | 96 |",
        "|---|---|---|---|---|",
    ]
    for name, label in SAME.items():
        values = found["one_evaluation"] if name == "one_evaluation" else same[name]
        for places, row in values.items():
            lines.append(f"| {label} | {places} | " + " | ".join(f"{v:.2g}" for v in row.values()) + " |")
    prior, floor = same["prior"]["cells"], same["two_values"]["cells"]
    log = same["posterior"]["points"]
    lines += [
        "",
        f"From 64 x 64 on the prior differs by little more than fields with jumps must ({prior['64']:.2g} against "
        f"{floor['64']:.2g}, {prior['96']:.2g} against {floor['96']:.2g}): the operator has a limit as the grid "
        f"refines. On the grid of training itself the difference is larger, {prior['32']:.2g} against "
        f"{floor['32']:.2g}: 32 cells do not resolve the jumps of a field that is being made, and a chain that decides "
        "otherwise in one place makes another field there. Where fields are smooth the grid matters little: the "
        "log-normal posterior (31 observations, weights of the package) differs by at most "
        f"{100 * max(log.values()):.1f} % of a deviation at scattered points, though it does not fall from the first "
        f"grid on: {log['32']:.3f}, {log['64']:.3f}, {log['96']:.3f}. Without a network values at scattered points "
        f"agree to {max(same['prior_no_network']['points'].values()):.1g}: noise and Gaussian part are functions, and "
        "the estimated mean is one of cubic splines between the cells, which differ by that. One "
        "evaluation of the denoiser, whose fields have no jumps yet, falls fast.",
        "",
        "**White noise has another law on every grid.** Correlation length and variance of means over 1/32 cells, over "
        f"those of 1,000 true fields on the same grid; {found['law_draws']} draws, standard errors over the draws; "
        "between: cells with neither of the two values, 3 and 12, but from 4.5 to 10.5.",
        "",
        "| | n | correlation length | variance | between |",
        "|---|---|---|---|---|",
    ]
    for name, label in NOISES.items():
        for n in SIZES:
            one, true = law[f"{name}-{n}"], law[f"true-{n}"]
            lines.append(
                f"| {label} | {n} | {one['length'] / true['length']:.2f} +- {one['length_se'] / true['length']:.2f} | "
                f"{one['variance'] / true['variance']:.3f} +- {one['variance_se'] / true['variance']:.3f} | "
                f"{100 * one['between']:.1f} % |"
            )
    fall = {key: law[f"{key}-128"]["spectrum"][10] / law["true-128"]["spectrum"][10] for key in NOISES}
    lines += [
        "",
        f"On 128 x 128 white noise makes patches {over['white'][2]:.2f} times as long as true ones, "
        f"against {over['white'][0]:.2f} on the grid of training, and {100 * fall['white']:.0f} % of their energy at "
        f"wave number 10 (noise of trace class: {100 * fall['trace']:.0f} %): every wave sees 1/16 of the noise that "
        f"the network believes in. By noise of trace class the length goes from {over['trace'][0]:.2f} to "
        f"{over['trace'][1]:.2f} and {over['trace'][2]:.2f}, each within 0.03. One "
        "seed on two grids of white noise gives unrelated fields.",
        "",
        "What noise of trace class costs here: on 32 x 32, the grid of training, white noise gives the better prior "
        f"(correlation length {over['white'][0]:.2f} of the true one against {over['trace'][0]:.2f}, "
        f"{100 * law['white-32']['between']:.1f} % of cells between the values against "
        f"{100 * law['trace-32']['between']:.1f} %). Our reading: one signal-to-noise ratio for all waves leaves no "
        "order in which coarse shapes are decided before fine ones, and the network has not learned to decide them "
        "at once. More weight on high levels, where shapes are decided, helps, at the price of low ones. Their energy "
        "at the highest waves is twice the true one, on every grid.",
        "",
        "At scattered points: a network on grids answers on any grid, and `fokker.operators.PointValues` continues its "
        "samples, as above; a network of sets, `fit_functions(..., points=)`, answers at the points themselves, "
        "`prior.at(points)`, and `PointScore.decode` between them. Noise on a grid of nodes, interpolated to points "
        "(`fokker.InterpolatedField`), has the same property, as its nodes stay where they are; its variance falls to "
        "(2/3)^d on average between them.",
    ]
    return lines


def context_text(found: dict[str, Any]) -> list[str]:
    """The section on context points, with a table for each study."""
    studies, settings = found["studies"], found["settings"]
    lines = [
        "## Must the points be as many, and lie, as in training?",
        "",
        "Functions are waves with flat crests (`waves` of `fokker run regression-1d`), whose posteriors are known "
        f"exactly. Training: {settings['observations']} observations, uniform over 128 cells, with noise of "
        f"{settings['std']:g}; {settings['steps']:,} steps for operators on grids, {settings['set_steps']:,} for the "
        "network of sets. In the tables: error of the mean and CRPS over those of as many exact samples on the same "
        f"{settings['cases']} functions, with standard errors, and coverage of 95 % intervals by ranks, from "
        f"{settings['draws']} samples each.",
        "",
        "![CRPS over exact by number and places of observations and of the points of the state](context_points.png)",
        "",
    ]
    lines += [*context_answer(studies, found["sets_loss"]), ""]
    for study, title in STUDIES.items():
        kinds: dict[tuple[str, ...], list[str]] = {}
        for name, rows in studies[study].items():
            kinds.setdefault(tuple(rows), []).append(name)
        lines += [f"**{title}**", ""]
        for columns, names in kinds.items():
            lines += ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
            for name in names:
                cells = [
                    f"{r['error']:.2f} +- {r['error_se']:.2f}; {r['crps']:.2f} +- {r['crps_se']:.2f}; "
                    f"{100 * r['coverage95']:.0f} %"
                    for r in studies[study][name].values()
                ]
                lines.append(f"| {MODELS[name][0]} | " + " | ".join(cells) + " |")
            lines.append("")
    return lines


def context_answer(studies: dict[str, Any], loss: dict[str, float]) -> list[str]:
    """What the tables say."""
    crps = {
        study: {k: {s: r["crps"] for s, r in rows.items()} for k, rows in one.items()} for study, one in studies.items()
    }
    cover = {name: studies["number"][name]["32"]["coverage95"] for name in MODELS if name in studies["number"]}
    number, spread, exact = crps["number"], crps["context_place"], studies["place"]["operator"]
    places, gaussian = crps["place"]["operator"], crps["place"]["gaussian"]
    grids, sets = crps["context"]["operator"], crps["context"]["sets"]
    return [
        "**In number, no, where the denoiser contains the Gaussian conditional; yes, where it does not.** Trained with "
        f"8 observations and told 2 to 32, the operator's CRPS is {_run(number['operator'])} times that of exact "
        f"samples, and {_run(number['varied'])} times where it was trained with 1 to 32. Told the "
        f"observations as they are, trained with 8, it is {_run(number['told'])} times, with "
        f"intervals of 95 % that cover {100 * cover['told']:.0f} % at 32; "
        f"training with 1 to 32 mends that ({_run(number['told_varied'])}). The ratio grows with the number for "
        "all others, as the exact posterior becomes narrower than what the networks resolve.",
        "",
        f"The network of sets learns slowly ({_first(loss)}), but it does, and with the Gaussian conditional inside it "
        f"takes other numbers too ({_run(number['sets'])}); its intervals of 95 % cover "
        f"{100 * studies['number']['sets']['2']['coverage95']:.0f} % at 2 observations and "
        f"{100 * cover['sets']:.0f} % at 32.",
        "",
        "**In places, no loss is seen** for observations in one half or by Beta(2, 5): the operator's "
        f"{places['clustered']:.2f} and {places['beta']:.2f} beside {places['uniform']:.2f} where they are uniform. "
        f"Equally apart, all models are further from exact ({places['regular']:.2f}; without a network "
        f"{gaussian['regular']:.2f} after {gaussian['uniform']:.2f}): the exact answer is much better there, its CRPS "
        f"{exact['regular']['exact_crps']:.3f} after {exact['uniform']['exact_crps']:.3f}. Whether training at such "
        "points would do better was not tried.",
        "",
        "**The points that carry the state** may be a quarter to four times those of training: on grids "
        f"({_run(grids)} on {', '.join(grids)} cells, trained on 128), and for the network of sets ({_run(sets)} at "
        f"{', '.join(sets)} points; without a network {_run(crps['context']['gaussian_sets'])}). Nor must they lie as "
        f"in training ({_run(spread['sets'])} for {', '.join(spread['sets'])}; without a network "
        f"{_run(spread['gaussian_sets'])}).",
    ]


def _run(values: dict[str, float]) -> str:
    return ", ".join(f"{v:.2f}" for v in values.values())


def _first(loss: dict[str, float]) -> str:
    steps = list(loss)
    return f"validation loss {loss[steps[0]]:.2f} after {steps[0]} steps, {loss[steps[-1]]:.2f} after {steps[-1]}"


def page(grids: dict[str, Any], points: dict[str, Any]) -> list[str]:
    """Both sections, and where the first question is answered."""
    machines = [
        f"{name}: {one['machine']}, {one['cores']} cores, one thread, {one['date']}, torch {one['versions']['torch']}, "
        f"fokker {one['versions']['fokker']}"
        for name, one in (("grids", grids), ("points", points))
    ]
    return [
        "# Functions: grids and points",
        "",
        "Written by `benchmarks/functions_page.py` from the results of `benchmarks/discretisation.py` and "
        "`benchmarks/context_points.py`. A third question, where a sampler should start and what starting from noise "
        "alone costs, is answered on the page that `fokker run regression-1d` writes.",
        "",
        *discretisation_text(grids),
        "",
        *context_text(points),
        "; ".join(machines) + ".",
    ]


if __name__ == "__main__":
    with matplotlib.rc_context(STYLE):
        told = json.loads((RESULTS / "discretisation.json").read_text())
        save(discretisation(told, np.load(RESULTS / "discretisation.npz")), DOCS / "discretisation.png")
        asked = json.loads((RESULTS / "context_points.json").read_text())
        save(context(asked), DOCS / "context_points.png")
    (DOCS / "functions.md").write_text("\n".join(page(told, asked)) + "\n")
