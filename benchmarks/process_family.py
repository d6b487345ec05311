"""m, sigma and g^2 of the variance preserving family over n: docs/process_family.png and docs/process_family.md.

python benchmarks/process_family.py
"""

from pathlib import Path

import matplotlib
import torch

from fokker import VariancePreserving
from fokker.report.flux_figures import STYLE, new, save

ORDERS = (0.5, 1, 1.5, 2, 3, 4)
TIMES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
DOCS = Path(__file__).parents[1] / "docs"
# Colour-blind safe; n = 1 and n = 2, the two known members, are drawn thicker.
COLORS = {0.5: "#56B4E9", 1: "#0072B2", 1.5: "#009E73", 2: "#000000", 3: "#E69F00", 4: "#D55E00"}
NAMES = {1: "$n = 1$, straight path $m + \\sigma = 1$", 2: "$n = 2$, the known process (DDPM)"}


def curves() -> None:
    """Four panels: m, sigma and g^2 over t, and sigma over m, with which the family is defined."""
    t = torch.linspace(0, 1, 801, dtype=torch.float64)
    early = torch.logspace(-5, 0, 801, dtype=torch.float64)
    figure = new(9.6, 6.6)
    (signal, noise), (diffusion, plane) = figure.subplots(2, 2)
    processes = {n: VariancePreserving(n=n) for n in ORDERS}
    signal.plot(t, processes[2].scale(t), color="black", lw=1.8)
    signal.text(0.52, 0.62, "the same for every $n$", transform=signal.transAxes)
    for n, process in processes.items():
        look = {"color": COLORS[n], "lw": 2.2 if n in NAMES else 1.4, "label": NAMES.get(n, f"$n = {n:g}$")}
        noise.plot(t, process.sigma(t), **look)
        diffusion.plot(early, process.diffusion_squared(early), **look)
        plane.plot(process.scale(t), process.sigma(t), **look)
    signal.set(xlabel="time $t$", ylabel="$m(t)$, factor on the signal", xlim=(0, 1), ylim=(0, 1.03))
    noise.set(xlabel="time $t$", ylabel="$\\sigma(t)$, standard deviation of the noise", xlim=(0, 1), ylim=(0, 1.03))
    diffusion.set(xlabel="time $t$ (logarithmic)", ylabel="$g^2(t)$, per unit of time", xscale="log", yscale="log")
    diffusion.set(xlim=(1e-5, 1), ylim=(1e-4, 40))
    plane.set(xlabel="$m$", ylabel="$\\sigma$", xlim=(0, 1.03), ylim=(0, 1.03), aspect="equal")
    titles = ("Signal", "Noise", "Diffusion", "$m^n + \\sigma^n = 1$, from data ($m = 1$) to noise")
    for axes, title in zip((signal, noise, diffusion, plane), titles):
        axes.set_title(title)
    handles, labels = noise.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    save(figure, DOCS / "process_family.png")


def table() -> None:
    """The same numbers at a few times."""
    process = VariancePreserving()
    lines = [
        "# The variance preserving family",
        "",
        "Written by `benchmarks/process_family.py`: `VariancePreserving(n)` with its default beta(t) = "
        f"{process.beta_min:g} + {process.beta_max - process.beta_min:g} t, B(t) the integral of beta. "
        "m = exp(-B/2) does not depend on n; sigma = (1 - m^n)^(1/n); g^2 = beta (1 - m^n)^((2 - n)/n). Times t run "
        "over [0, 1], g^2 is per unit of time; at n = 2 it is beta itself; as t falls to 0 it vanishes for n < 2, and "
        "for n > 2 it grows without bound, integrably (with this beta only below about t = 1e-4).",
        "",
        "![m, sigma and g^2 for six n](process_family.png)",
    ]
    t = torch.tensor(TIMES, dtype=torch.float64)
    lines += ["", "## m", "", _row("n", [f"t = {v:g}" for v in TIMES]), "|---" * (len(TIMES) + 1) + "|"]
    lines.append(_row("all", [f"{v:.4g}" for v in process.scale(t).tolist()]))
    for title, method in (("sigma", "sigma"), ("g^2", "diffusion_squared")):
        lines += ["", f"## {title}", "", _row("n", [f"t = {v:g}" for v in TIMES]), "|---" * (len(TIMES) + 1) + "|"]
        for n in ORDERS:
            values = getattr(VariancePreserving(n=n), method)(t).tolist()
            lines.append(_row(f"{n:g}", [f"{v:.4g}" for v in values]))
    (DOCS / "process_family.md").write_text("\n".join(lines) + "\n")


def _row(first: str, cells: list[str]) -> str:
    return "| " + " | ".join([first, *cells]) + " |"


if __name__ == "__main__":
    with matplotlib.rc_context(STYLE):
        curves()
    table()
