"""docs/guidance_peers.md, from benchmarks/results/guidance.json."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

ONCE, TWICE = 1.05, 1 / 1.3  # targets: seconds per step of DPS over deepinv's, by its evaluations in a step

HEAD = """# Guided sampling beside deepinv

Written by `benchmarks/guidance.py`. Both packages are given the same denoiser object, operators, data and number of
steps: the variance preserving process with beta from {low:g} to {high:g}, times that fall uniformly from 1 to 0, DDPM's
ancestral step. The operators are denoising, a hidden square of half the sides, and a periodic Gaussian blur of
{blur:g} pixels. Seeds are the same numbers, streams are not.

What differs: deepinv keeps the state in float64 and evaluates the denoiser in float32, fokker keeps the dtype of the
denoiser; deepinv draws noise from one torch generator, fokker from one addressable by sample, so that results do not
depend on the batch. "DPS zeta'" of fokker subtracts zeta' grad |r| after the step, as the released code does; deepinv's
adds its gradient to the score. deepinv counts singular values below the noise as zero in DDRM, divides its noise by
sqrt(2), and evaluates the denoiser once more, at level zero. Its `PosteriorDiffusion` is called with its data terms,
which for DPS is its class `DPS` without clipping to [-1, 1] and without mapping to [0, 1]: these images are Gaussian.
"""

ACCURACY = """## Against the exact posterior

{cases} images of {n} x {n} pixels from a smooth Gaussian field of unit variance, noise {noise:g}, its exact denoiser,
{draws} samples of each posterior. Bias: root mean square error of the posterior mean in exact standard deviations, less
what the number of samples makes. Variance: that of the samples over the exact one. Coverage: of central 80 %
intervals. Seconds are of CPU, of all steps. Three numbers are for denoising, hidden square, blur. fokker:
"defaults" is its own sampler and grid, "DPS" without a number takes its step from the noise. deepinv: "DPS" has weight
1 and "annealed" its other form; "DPS 60" has the weight |r| / noise^2 that makes the step that of the likelihood;
"MomentMatching 100" allows 100 iterations of conjugate gradients, not 3. The last row is of draws from the
exact posterior itself.
"""

TIME = """
## Time per step

U-Nets of three resolutions with random weights: colour, 2 images of 3 x 64 x 64; grey, 4 of 1 x 32 x 32; small, one of
1 x 16 x 16. CPU milliseconds per step on one thread of a machine that other work shares, {pairs} pairs of runs in
turns, medians; the ratio is the median of the ratios of pairs, with the middle half of them. Evaluations of the
denoiser are counted by a hook; deepinv's DDRM makes one more for a whole run, which shows as these are short. Target
for DPS: at most {once:.2f}, and {twice:.2f} where deepinv evaluates twice.
"""

TWO = """
The same for DPS of deepinv {version}, the last release that evaluates the denoiser twice (its issue 896); it has
Euler's step only.
"""

MEMORY = """
## Memory

Peak of resident memory over what was resident before, of two steps of DPS with 8 images, each in a process of its own,
MiB.
"""


def page(result: dict[str, Any], cases: Any) -> str:
    """The page; cases: the module `guidance_cases`."""
    size = cases.Accuracy()
    low, high = cases.BETAS
    parts = [HEAD.format(low=low, high=high, blur=cases.BLUR)]
    parts += [ACCURACY.format(cases=size.cases, n=size.n, noise=size.noise, draws=size.draws)]
    parts += accuracy(result["accuracy"], cases.OPERATORS)
    pairs = next(iter(result["times"].values()))[0]["pairs"]
    parts += [TIME.format(pairs=pairs, once=ONCE, twice=TWICE), *times(result["times"], ONCE)]
    if result["times_twice"]:
        parts += [TWO.format(version=result["versions_twice"]["deepinv"]), *times(result["times_twice"], TWICE)]
    parts += [MEMORY, "| network | fokker | deepinv | ratio |", "|---|---|---|---|"]
    for setting, found in result["memory"].items():
        ours, theirs = (found[who]["mib"] for who in ("fokker", "deepinv"))
        parts.append(f"| {setting} | {ours:.1f} | {theirs:.1f} | {ours / theirs:.2f} |")
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    return "\n".join([*parts, "", f"{result['machine']}; {versions}; {result['date']}."]) + "\n"


def accuracy(rows: list[dict[str, Any]], operators: tuple[str, ...]) -> Iterator[str]:
    """A line for each method and number of steps, the operators side by side."""
    yield "| package | method | steps | bias | variance | coverage | seconds | evaluations per step |"
    yield "|---|---|---|---|---|---|---|---|"
    lines: dict[tuple[str, str, int], dict[str, dict[str, Any]]] = {}
    for row in rows:
        key = (row["package"], row["method"], row["steps"])
        lines.setdefault(key, {})[row["operator"]] = row
    order = {"fokker": 0, "deepinv": 1, "exact": 2}
    for (package, method, steps), found in sorted(lines.items(), key=lambda item: order[item[0][0]]):
        each = [found[name] for name in operators]
        if any("failed" in row for row in each):
            shown = ["diverges, and says so", "", ""]
        else:
            shown = [" / ".join(number(row[name]) for row in each) for name in ("bias", "variance_ratio", "coverage")]
        cost = ["", ""]
        if package != "exact":
            seconds = " / ".join(f"{row['cpu_seconds']:.1f}" for row in each)
            cost = [seconds, f"{max(row['evaluations_per_step'] for row in each):.2f}"]
        yield f"| {' | '.join([package, method, str(steps or ''), *shown, *cost])} |"


def times(found: dict[str, list[dict[str, Any]]], target: float) -> Iterator[str]:
    """A line for each network, operator and method."""
    yield "| network | operator | method | fokker, ms | deepinv, ms | ratio | evaluations | reached |"
    yield "|---|---|---|---|---|---|---|---|"
    for setting, rows in found.items():
        for row in rows:
            ms, calls, (low, high) = row["cpu_ms_per_step"], row["evaluations_per_step"], row["middle_half_of_ratios"]
            reached = ("yes" if row["median_ratio"] <= target else "no") if row["method"] == "DPS" else ""
            yield (
                f"| {setting} | {row['operator']} | {row['method']} | {ms['fokker']:.2f} | {ms['deepinv']:.2f} | "
                f"{row['median_ratio']:.3f} ({low:.3f} to {high:.3f}) | "
                f"{calls['fokker']:.2f}, {calls['deepinv']:.2f} | {reached} |"
            )


def number(value: float) -> str:
    """Two decimals, three digits where it is small, powers where it is huge."""
    return f"{value:.2g}" if abs(value) >= 100 or 0 < abs(value) < 0.01 else f"{value:.2f}"
