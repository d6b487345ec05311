"""The page of a check: the verdict in words, then numbers and pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fokker.checking import Checked
from fokker.report import drawing
from fokker.report.page import Check, Page
from fokker.storage import atomic_path, write_json, write_text

SHOWN = 40  # entries of x in the figure and the table
BLUE, RED, GREY = "#0072B2", "#D55E00", "#999999"


def write(checked: Checked, model: str, out: Path) -> Path:
    """check.html, check.json and check.png in the folder `out`; returns the page's path."""
    out.mkdir(parents=True, exist_ok=True)
    with atomic_path(out / "check.png") as picture:
        _figure(checked, picture)
    write_json(out / "check.json", checked.numbers())
    verdict = checked.verdict
    lede = "On the rows of this check nothing is wrong." if verdict.calibrated else "It is wrong, in ways named below."
    strange = [str(k) for k, one in enumerate(checked.measured) if one.strange]
    if strange:
        lede += f" Measurement {', '.join(strange[:5])}: not like the training data, or not explained."
    wrong = [str(k) for k, one in enumerate(checked.measured) if one.wrong_around]
    if wrong:
        lede += f" Around measurement {', '.join(wrong[:5])} it is found wrong, as 1 in 100 exact ones would be."
    page = Page(f"May this posterior be believed? {model}", lede)
    page.section("Verdict")
    page.checks([Check(text, False if text in verdict.words else None) for text in checked.words])
    for k, one in enumerate(checked.measured):
        page.subsection(f"Measurement {k}")
        page.points(list(one.words))
    if checked.steps:
        page.subsection("What to do next")
        page.points(list(checked.steps))
    if checked.not_possible:
        page.subsection("Not possible")
        page.points(list(checked.not_possible))
    page.section("Numbers")
    page.table(
        ["entry", "shift", "width", "contraction", "p, ranks", "p, shift with y", "p, width with y"],
        [
            [e.name, f"{e.shift:+.3f}", f"{e.width:.3f}", "" if e.contraction is None else f"{e.contraction:.3f}"]
            + [f"{p:.2g}" for p in (e.p_ranks, e.p_shift, e.p_width)]
            for e in verdict.entries[:SHOWN]
        ],
        f"Entries of x on {verdict.cases} rows that the fit has not seen",
    )
    page.text(
        "shift: how far the truth lies above the samples, in posterior standard deviations. width: how many times as "
        "wide the samples should be. contraction: how much of the variance of x the measurement removes."
    )
    joint = ", ".join(f"{p:.2g} with references from {name}" for name, p in verdict.p_joint.items())
    page.text(f"Whole vectors by their distances (TARP): p = {joint}.")
    if checked.scores:
        rows = [
            [name, *(f"{v:.4g}" for v in values[:2]), f"{values[2]:.1f}"] for name, values in checked.scores.items()
        ]
        caption = "Scores in standard deviations of x, lower is better"
        page.table(["score", "learned", "no network", "z of the difference"], rows, caption)
    page.figure(
        out / "check.png",
        "shift and width of every entry of x with their 95 % ranges",
        "Dots: the rows. Grey: where 95 % of exact samples would have each dot. Right of 1: too narrow.",
    )
    write_text(out / "check.html", page.html())
    return out / "check.html"


def _figure(checked: Checked, path: Path) -> None:
    entries, cases = checked.verdict.entries[:SHOWN], checked.verdict.cases
    places = np.arange(len(entries))
    figure = drawing.new(9, 1.4 + 0.24 * len(entries))
    left, right = figure.subplots(1, 2, sharey=True)
    flagged = [any(text.startswith(f"{e.name}:") for text in checked.verdict.words) for e in entries]
    colours = [RED if wrong else BLUE for wrong in flagged]
    for axes, values, centre, error, label in (
        (left, [e.shift for e in entries], 0.0, 1 / np.sqrt(cases), "shift, posterior standard deviations"),
        (
            right,
            [e.width for e in entries],
            1.0,
            1 / np.sqrt(2 * cases),
            "width: samples should be this many times as wide",
        ),
    ):
        axes.axvspan(centre - 1.96 * error, centre + 1.96 * error, color=GREY, alpha=0.3, lw=0)
        axes.axvline(centre, color=GREY, lw=1)
        axes.scatter(values, places, c=colours, s=22, zorder=3)
        far = max(4 * error, 1.15 * max(abs(v - centre) for v in values))
        axes.set(xlabel=label, xlim=(centre - far, centre + far), ylim=(-0.7, len(entries) - 0.3))
    left.set_yticks(places, [e.name for e in entries])
    left.invert_yaxis()
    drawing.save(figure, path)
