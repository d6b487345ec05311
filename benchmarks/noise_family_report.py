"""Figure and tables of the study of n and alpha, from results/noise_family.json.

Writes docs/noise_family.png and, below the line of docs/noise_family.md that says so, the tables; the text above that
line is written by hand and belongs to the committed results.

    python benchmarks/noise_family_report.py
"""

import json
import math
from pathlib import Path

import matplotlib
import torch
from noise_family_targets import LINES

from fokker import VariancePreserving
from fokker.report.drawing import STYLE, new, save

HERE = Path(__file__).parent
DOCS = HERE.parent / "docs"
MARK = "<!-- below: written by benchmarks/noise_family_report.py -->"
OWN, EULER = "rho_min 0.002", {"euler": "Euler-Maruyama in t", "heun": "Heun in t"}
COLORS = {"0": "#000000", "0.25": "#0072B2", "0.5": "#009E73", "1": "#E69F00", "2": "#D55E00"}
CAPTION = (
    "Geometric mean of W1 over the five targets on the line, for alpha = 0 and, in brackets, for the best alpha where "
    "that is another."
)
DEFAULT = "gaussian_transition"


def mean(errors: list[float]) -> float:
    """The geometric mean: a target that is hard for all does not decide alone."""
    return math.exp(sum(map(math.log, errors)) / len(errors))


def own(results: dict, grid: str, sampler: str, process: str, alpha: str, i: int) -> float:
    """Mean W1 over the targets on the line."""
    return mean([results[t]["own clock"][grid][sampler][process][alpha][i][1] for t in LINES])


def in_rho(results: dict, sampler: str, alpha: str, i: int) -> float:
    """The same for a sampler in rho."""
    return mean([results[t]["rho, karras"][sampler][alpha][i][1] for t in LINES])


def draw(record: dict) -> None:
    """Error over n, a curve for each alpha, a row for each sampler, a column for each number of evaluations."""
    results, settings = record["results"], record["settings"]
    orders = settings["orders"]
    figure = new(11, 6.2)
    axes = figure.subplots(2, len(settings["budgets"]), sharex=True, sharey=True)
    for row, (sampler, title) in zip(axes, EULER.items()):
        for i, ax in enumerate(row):
            for a, color in COLORS.items():
                errors = [own(results, OWN, sampler, f"n={n:g}", a, i) for n in orders]
                label = f"$\\alpha = {a}$" + {"0": ", the ODE", "1": ", the reverse SDE"}.get(a, "")
                ax.plot(range(len(orders)), errors, "o-", color=color, ms=3.5, lw=1.5, label=label)
            lines = (
                (own(results, OWN, sampler, "ve", "0", i), "VE, uniform in $t$, $\\alpha = 0$", "#777777", "-."),
                (
                    in_rho(results, DEFAULT, "0", i),
                    "in $\\rho$ on Karras levels (GaussianTransition), $\\alpha = 0$",
                    "#CC79A7",
                    "--",
                ),
                (in_rho(results, DEFAULT, "1", -1), "floor of the measurement for $\\alpha > 0$", "#999999", ":"),
            )
            for error, label, color, dashes in lines:
                ax.axhline(error, color=color, ls=dashes, lw=1.6, label=label, zorder=1)
            evaluations = results[LINES[0]]["own clock"][OWN][sampler]["n=2"]["0"][i][0]
            ax.set_title(f"{title.split(' in ')[0]}, {evaluations} evaluations")
            ax.set(yscale="log", xticks=range(len(orders)), xticklabels=[f"{n:g}" for n in orders])
            ax.grid(axis="y", color="#dddddd", lw=0.6)
        row[0].set_ylabel("$W_1$ / standard deviation of target")
    for ax in axes[1]:
        ax.set_xlabel("$n$ of the process")
    figure.suptitle(
        "Error of the samples for exact denoisers, each $n$ on its own uniform $t$ grid (mean of five targets)"
    )
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    save(figure, DOCS / "noise_family.png")


def best(processes: dict, i: int) -> str:
    """n, alpha, and the smallest error over them at the i-th budget."""
    rows = [(r[i], n[2:], a) for n, alphas in processes.items() if n != "ve" for a, r in alphas.items()]
    (_, error, spread), n, alpha = min(rows, key=lambda row: row[0][1])
    return f"{n}, {alpha}: {number(error)}" + (f" ± {number(spread)}" if spread else "")


def number(value: float) -> str:
    """Two digits."""
    return f"{value:.2g}"


def clocks(record: dict) -> list[str]:
    """Where each n's clock puts its levels, and what the law of the first draw at t = 1 costs."""
    rows = []
    for n in record["settings"]["orders"]:
        process = VariancePreserving(n=n)
        high, low = (float(process.time_of(rho)) for rho in reversed(record["settings"]["rho"]))
        rho = process.noise_to_signal(torch.linspace(high, low, 32, dtype=torch.float64))
        edges = ((rho >= 1).sum(), ((rho < 1) & (rho >= 0.1)).sum(), (rho < 0.1).sum())
        end = record["results"][LINES[0]]["terminal"][f"{n:g}"]
        laws = [mean([record["results"][t]["terminal"][f"{n:g}"][law] for t in LINES]) for law in list(end)[1:]]
        rows.append([f"{n:g}", f"{end['rho(1)']:.1f}", f"{high:.3f}", number(low), *(str(int(e)) for e in edges),
                     number(float(rho[-2])), *map(number, laws)])  # fmt: skip
    return table(
        ["n", "rho(1)", "t at rho 20", "t at rho 0.002", "levels of 32 above rho 1", "0.1 to 1", "below 0.1",
         "last level but one", "W1, start from own moments at t = 1", "N(0, sigma(1)^2)", "N(0, 1)"], rows)  # fmt: skip


def means(record: dict, grid: str, sampler: str) -> list[str]:
    """Mean error of every n at the best alpha, which is given."""
    results, budgets = record["results"], record["settings"]["budgets"]
    example = results[LINES[0]]["own clock"][grid][sampler]
    rows = []
    for process, r in example.items():
        cells = []
        for i in range(len(budgets)):
            error, alpha = min((own(results, grid, sampler, process, a, i), a) for a in r)
            ode = own(results, grid, sampler, process, "0", i)
            cells.append(f"{number(ode)}" + (f" ({alpha}: {number(error)})" if alpha != "0" else ""))
        rows.append([process, *cells])
    return table(["", *(f"{v[0]}" for v in example["n=2"]["0"])], rows)


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Markdown."""
    return ["| " + " | ".join(r) + " |" for r in [head, ["---"] * len(head), *rows]]


def tables(record: dict) -> list[str]:
    """All below the mark."""
    results, budgets = record["results"], record["settings"]["budgets"]
    machine = record["machine"]
    lines = [f"{machine['cpu']}, one thread, {record['cpu_seconds']} s, {record['date']}; all numbers are in "
             "`benchmarks/results/noise_family.json`."]  # fmt: skip
    lines += ["", "## The clocks", "", *clocks(record)]
    for grid in results[LINES[0]]["own clock"]:
        for sampler, title in EULER.items():
            lines += ["", f"## {title}, grid: {grid}", "", CAPTION, "", *means(record, grid, sampler)]
    lines += ["", "## The standard normal distribution itself, alpha = 0", ""]
    exact = {title: results["Gaussian"]["own clock"][OWN][sampler] for sampler, title in EULER.items()}
    rows = [[f"{title}, {n}", *(number(r[1]) for r in a["0"])] for title, v in exact.items() for n, a in v.items()]
    lines += table(["", *map(str, budgets)], rows)
    lines += ["", "## In rho, on the Karras grid", "", "Mean over the five targets.", ""]
    names = {"gaussian_transition": "GaussianTransition", "transition_2": "Transition, order 2",
             "transition": "Transition, order 1 (DDIM, ancestral)", "heun_rho": "Heun"}  # fmt: skip
    rows = [[f"{names[s]}, alpha = {a}", *(number(in_rho(results, s, a, i)) for i in range(len(budgets) + 1))]
            for s in names for a in results[LINES[0]]["rho, karras"][s]]  # fmt: skip
    lines += table(["", *map(str, budgets), "256"], rows)
    for sampler, title in EULER.items():
        lines += ["", f"## Best n and alpha on each target, {title}, grid: {OWN}", "",
                  "n, alpha: W1 ± its standard error (none where nothing is random).", ""]  # fmt: skip
        rows = [[t, *(best(r["own clock"][OWN][sampler], i) for i in range(len(budgets)))] for t, r in results.items()
                if t != "Gaussian"]  # fmt: skip
        lines += table(["", *map(str, budgets)], rows)
    return lines


def main() -> None:
    """The figure, and the tables below the mark."""
    record = json.loads((HERE / "results" / "noise_family.json").read_text())
    with matplotlib.rc_context(STYLE):
        draw(record)
    page = DOCS / "noise_family.md"
    text = page.read_text().split(MARK)[0] if page.exists() else "# n and alpha\n\n"
    page.write_text(text + MARK + "\n\n" + "\n".join(tables(record)) + "\n")


if __name__ == "__main__":
    main()
