"""The page and the figure of `field_baselines.py`, from its record."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.lines import Line2D
from peers.field_models import COLOURED, DEEPONET, FNO, GUIDED, NETWORKS, WHITE

from fokker.problems.field_data import SHIFT
from fokker.problems.field_metrics import COVERED
from fokker.problems.field_settings import COVARIANCE, EXACT, LABELS, NETWORK, NO_NETWORK
from fokker.report.drawing import STYLE, new, save
from fokker.report.field_figures import PUBLISHED

ORDER = (EXACT, NETWORK, NO_NETWORK, COVARIANCE, WHITE, COLOURED, FNO, DEEPONET)
NAMES = {**LABELS, NETWORK: "fokker", **{name: name for name in NETWORKS}}
MARKS = {
    NETWORK: ("o", "#0072B2"), NO_NETWORK: ("s", "#808080"), COVARIANCE: ("D", "#B0B0B0"), WHITE: ("^", "#D55E00"),
    COLOURED: ("v", "#CC79A7"), FNO: ("P", "#009E73"), DEEPONET: ("X", "#E69F00"),
}  # fmt: skip
LIMITS_128 = {"inverse": 5.4, "forward": 1.4}  # %, of the exact posterior mean, 500 of 128 x 128 values, no noise


def summary(part: Mapping[str, Any], method: str) -> dict[str, Any]:
    """Means over the cases: ratio, error over that of the exact mean, with its standard error over the cases."""
    cases, exact = part[method]["cases"], part[EXACT]["cases"]
    error, limit = np.array(cases["error"]), np.array(cases["limit"])
    ratio = error.mean() / limit.mean()
    own: dict[str, Any] = {
        "error": 100 * error.mean(), "limit": 100 * limit.mean(), "ratio": ratio,
        "ratio_se": (error - ratio * limit).std(ddof=1) / np.sqrt(len(error)) / limit.mean(),
        "crps": np.mean(cases["crps"]) / np.mean(exact["crps"]), "seconds": np.mean(cases["seconds"]),
    }  # fmt: skip
    if "sample_error" in cases:
        own["one"] = 100 * np.mean(cases["sample_error"])
        counted = np.array(cases["coverage"])[np.array(cases["covered"]) > 0]
        own["coverage"] = 100 * counted.mean(0)
    if "wrong" in cases:
        own["wrong"] = 100 * np.mean(cases["wrong"])
    return own


def title(part: str) -> str:
    """poisson.inverse.noise=0.01 -> Poisson inverse, 1 %."""
    family, task, level = part.split(".", 2)
    return f"{family.capitalize()} {task}, noise {100 * float(level.removeprefix('noise=')):g} %"


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Error over the exact limit by task: ours and the baselines on the same cases, published figures below."""
    parts = result["parts"]
    with matplotlib.rc_context(STYLE):
        figure = new(9.5, 6.6)
        here, there = figure.subplots(2, 1, sharex=True, height_ratios=[len(parts), 2])
        for place, part in enumerate(parts.values()):
            for k, method in enumerate(ORDER[1:]):
                found, (mark, color) = summary(part, method), MARKS[method]
                y = place + 0.11 * (k - 3)
                here.errorbar(found["ratio"], y, xerr=2 * found["ratio_se"], fmt=mark, color=color, ms=6, lw=1)
                if "one" in found:
                    here.plot(found["one"] / found["limit"], y, mark, color=color, mfc="white", ms=5)
        size = result["size"]
        here.set(yticks=range(len(parts)), yticklabels=[title(part) for part in parts], ylim=(len(parts) - 0.45, -0.55))
        count = {32: 31}.get(size["n"], "some")
        here.set_title(f"measured here: {size['n']} x {size['n']}, {count} points, {size['cases']} cases")
        for place, (task, limit) in enumerate(LIMITS_128.items()):
            for k, (name, value) in enumerate(PUBLISHED["poisson"][task].items()):
                there.plot(value / limit, place, "*", color="black", mfc="white", ms=9)
                up = (6, -13)[k % 2]
                there.annotate(
                    name, (value / limit, place), (0, up), textcoords="offset points", ha="center", fontsize=7
                )
        labels = [f"Poisson {task}, limit {limit} %" for task, limit in LIMITS_128.items()]
        there.set(yticks=range(len(labels)), yticklabels=labels, ylim=(len(labels) - 0.4, -0.6), xscale="log")
        there.set_title("published: 128 x 128, 500 points, no noise, one sample, other cases and another budget")
        there.set_xlabel("relative L2 error / error of the exact posterior mean")
        for axes in (here, there):
            axes.axvline(1, color="black", lw=1.5)
            axes.axvline(2**0.5, color="black", lw=1, ls=":")
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:.0e}"[0] in "235" else "")
        handles = [Line2D([], [], color=MARKS[m][1], marker=MARKS[m][0], ls="", label=NAMES[m]) for m in ORDER[1:]]
        handles.append(Line2D([], [], color="black", marker="o", mfc="white", ls="", label="open: one sample"))
        handles.append(Line2D([], [], color="black", lw=1.5, label="exact mean"))
        handles.append(Line2D([], [], color="black", lw=1, ls=":", label="one exact sample, about"))
        figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8)
        save(figure, path)


def page(result: Mapping[str, Any]) -> str:
    """docs/field_baselines.md."""
    size, parts = result["size"], result["parts"]
    lines = [
        "# Fields from a few values: regression and hand-tuned guidance",
        "",
        "![Error of each method over that of the exact posterior mean](field_baselines.png)",
        "",
        f"Written by `benchmarks/field_baselines.py`. The {size['cases']} cases of `fokker run poisson-field`, "
        f"`helmholtz-field` and `threshold-field`: {size['n']} x {size['n']} cells, 31 of them seen; each method is "
        "scored on the same cases, beside their exact posterior. Error: relative L2 error of the mean of the samples "
        "(of the one answer of a regression), then over that of the exact mean, with its standard error over the "
        f"cases. CRPS: over that of {size['draws']} exact samples; of a regression its absolute error. Coverage by "
        "ranks, in %. Seconds of "
        "CPU of a case, on one thread.",
        "",
        *findings(parts),
    ]
    for name, part in parts.items():
        limit = summary(part, EXACT)["limit"]
        lines += [
            "",
            f"## {title(name)}",
            "",
            f"The exact posterior mean is off by {limit:.2f} %.",
            "",
            "| method | error, % | / limit | one sample, % | CRPS / exact | 50 % | 80 % | 95 % | seconds |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for method in ORDER:
            found = summary(part, method)
            cover = [f"{v:.1f}" for v in found["coverage"]] if "coverage" in found else [""] * len(COVERED)
            one = f"{found['one']:.2f}" if "one" in found else ""
            lines.append(
                f"| {NAMES[method]} | {found['error']:.2f} | {found['ratio']:.3f} ± {found['ratio_se']:.3f} | {one} | "
                f"{found['crps']:.3f} | {' | '.join(cover)} | {found['seconds']:.2f} |"
            )
    lines += ["", "## How each was made", "", *made(result)]
    return "\n".join(lines) + "\n"


def findings(parts: Mapping[str, Any]) -> list[str]:
    """The range of each method, and where it is better than fokker: paired differences with their standard errors."""
    lines = []
    measures = {"error": "error of the mean", "sample_error": "error of one sample", "crps": "CRPS"}
    for method in (*GUIDED, FNO, DEEPONET, NO_NETWORK, COVARIANCE):
        ratios = [summary(part, method)["ratio"] for part in parts.values()]
        better = []
        for name, part in parts.items():
            own, ours = part[method]["cases"], part[NETWORK]["cases"]
            for measure, told in measures.items():
                if measure in own and np.mean(own[measure]) < np.mean(ours[measure]):
                    gain = (np.array(ours[measure]) - np.array(own[measure])) / np.mean(ours[measure])
                    se = gain.std(ddof=1) / np.sqrt(len(gain))
                    better.append(f"{title(name)}: {told} {100 * gain.mean():.1f} ± {100 * se:.1f} % less")
        found = f"better than fokker: {'; '.join(better)}" if better else "nowhere better than fokker"
        lines.append(f"- {NAMES[method]}: {min(ratios):.2f} to {max(ratios):.2f} times the limit; {found}.")
    return lines


def made(result: Mapping[str, Any]) -> list[str]:
    """Networks, training, weights, what differs from the published forms."""
    size, parts = result["size"], result["parts"]
    own = {
        name.partition(".")[0]: f"{found['steps']:,} steps ({found['wall_seconds']:.0f} seconds of wall clock)"
        for name, found in ((name, part[NETWORK]["training"]) for name, part in parts.items())
    }
    lines = [
        f"Every network sees the same {size['fields']:,} fields in batches of 16. fokker takes the weights of the "
        f"package: {own['poisson']} for the equations, whose field is Gaussian so that nothing is to be learned but "
        f"the spectrum, {own['threshold']} for the threshold, some 410 of CPU on one thread. The baselines "
        "had about as much for the threshold and more for the equations: the seconds below, of CPU on one thread.",
        "",
        "| method | network of | steps | seconds | weights |",
        "|---|---|---|---|---|",
    ]
    seen = set()
    for name, part in parts.items():
        family, task, _ = name.split(".", 2)
        for method in NETWORKS:
            of = f"{family}, (g, u)" if method in GUIDED and family in SHIFT else f"{family} {task}"
            if (method, of) in seen:
                continue
            seen.add((method, of))
            found = part[method]["training"]
            lines.append(f"| {method} | {of} | {found['steps']} | {found['seconds']:.0f} | {found['parameters']:,} |")
    lines += [
        "",
        f"- **{WHITE}**: white noise on the grid, a small U-Net with the preconditioning of Karras et al. 2022, over "
        "both fields at once. After each step the state loses w times the gradient of |r|, through the denoiser, r the "
        "values seen less the denoised ones in deviations of the field; in the last fifth of the steps a tenth of that "
        "and v times the gradient of the norm of Lap u - g, in sines so that it vanishes for every solution.",
        f"- **{COLOURED}**: the same with noise of covariance (-Lap + 9)^-1.5, cut at the grid, a Fourier operator and "
        "the gradient multiplied by that covariance.",
        f"- Both take {size['steps']} steps of one evaluation and one backward pass (published: 2,000 and 500) of a "
        f"second-order transition, and {size['guided_draws']} samples, whose mean is off by "
        f"{100 * ((1 + 1 / size['guided_draws']) ** 0.5 - 1):.1f} % more than that of infinitely many exact ones. "
        f"Weights are chosen on {size['tuned_on']} other cases of each task and noise, by the error of the mean of "
        f"{size['tuned_draws']} samples: w from five values a factor of two apart (more where the best is at an end), "
        "then alpha of the steps 1 or 0, then v from 0, 0.01, 0.03, 0.1 and 0.3. All that were tried are in "
        "benchmarks/results/field_baselines.json. The threshold has no equation.",
        f"- **{FNO}** and **{DEEPONET}**: least squares for the wanted field, from the values on the grid with zeros "
        "where nothing is seen, the mask of points, and the noise; points and noise are drawn anew at every step, and "
        "one network serves both levels of noise of a task. A regression gives a mean and no uncertainty.",
        "- The Gaussians are told the points, the noise and the equation; so is fokker. The guided baselines are told "
        "the points and the equation, the regressions the points and the noise.",
        "",
        "| task | method | w | v | alpha | error on the cases it was chosen on, % | their limit, % |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, part in parts.items():
        for method in GUIDED:
            found = part[method]["tuning"]
            own = found["weights"]
            lines.append(
                f"| {title(name)} | {method} | {own['data']:g} | {own['equation']:g} | {own['alpha']:g} | "
                f"{100 * found['error']:.1f} | {100 * found['limit']:.1f} |"
            )
    versions = ", ".join(f"{name} {found}" for name, found in result["versions"].items())
    lines += [
        "",
        "Published figures are those that `fokker run poisson-field` shows: one sample for each truth, 500 of 128 x "
        "128 values, networks trained on 50,000 fields. Their limit is that of the exact posterior mean on 20 to 30 "
        "fields of that size, not of the published cases, and one exact sample has 1.4 times its error; FunDPS's "
        "published forward error is about that. Grid, points and budget differ from those above, so that only "
        "distances from the limit may be compared, with care.",
        "",
        f"{result['machine']}; {versions}; {result['date']}.",
    ]
    return lines
