"""The report of a small run: every figure a picture, the page whole in itself, verdicts that follow the numbers."""

import html
import re
import struct
from dataclasses import replace
from html.parser import HTMLParser

import matplotlib
import numpy as np
import pytest

from fokker.errors import InputError
from fokker.problems import flux_run
from fokker.problems.boundary_flux import BoundaryFlux
from fokker.report import drawing, flux_data, flux_figures, flux_page
from fokker.report.page import PNG, Check, Page
from fokker.storage import read_json, write_json

TINY = BoundaryFlux(
    prior_mean=(0.3,), train=200, training_steps=20, test=8, samples=50, reference=2, mesh=(34, 8), steps=4
)


def one_by_one(tasks, progress):
    """Stages without worker processes, which take longer to start than these take to run."""
    for task in tasks:
        task.function(*task.arguments, progress)


def make(settings, out):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flux_run, "run_side_by_side", one_by_one)
        flux_run.run(settings, out, lambda *_: None)
    return out


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    out = make(TINY, tmp_path_factory.mktemp("tiny"))
    flux_page.write(BoundaryFlux, out)
    return out


@pytest.fixture
def copied(tiny, tmp_path):
    """The run's own files in a folder that a test may damage."""
    for path in tiny.rglob("*"):
        if path.is_file() and not path.is_relative_to(tiny / "figures"):
            copy = tmp_path / path.relative_to(tiny)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    (tmp_path / "report.html").unlink()
    return tmp_path


def is_picture(path):
    """A PNG of at least 300 pixels a side that is not one flat colour."""
    data = path.read_bytes()
    width, height = struct.unpack(">II", data[16:24])
    return (
        data.startswith(PNG) and data.endswith(b"IEND\xaeB`\x82") and min(width, height) >= 300 and len(data) > 10_000
    )


class Links(HTMLParser):
    """Tags that never end, and everything a browser would load."""

    def __init__(self, text):
        super().__init__()
        self.open, self.loads, self.images = [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.images += tag == "img"
        self.loads += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        assert tag not in ("script", "link", "iframe", "object")
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


# --- The whole report


def test_every_figure_is_a_picture(tiny):
    names = {path.name for path in (tiny / "figures").iterdir()}
    case = "mean0.3-noise1"
    wanted = {"hero", "instances", "coverage", *(f"{kind}-{case}" for kind in ("posterior", "error", "training"))}
    assert {f"{name}.png" for name in wanted} <= names <= {f"{name}.png" for name in wanted | {f"marginals-{case}"}}
    assert all(is_picture(tiny / "figures" / name) for name in names)
    width, height = struct.unpack(">II", (tiny / "figures" / "hero.png").read_bytes()[16:24])
    assert abs(width - 1600) < 5 and abs(height - 800) < 5


def test_the_page_is_whole_in_itself_and_tells_the_numbers(tiny):
    text = (tiny / "report.html").read_text()
    links = Links(text)
    assert not links.open
    assert links.images == len(list((tiny / "figures").iterdir())) == len(links.loads)
    assert all(load.startswith("data:image/png;base64,") for load in links.loads)
    assert "http:" not in text and "https:" not in text and "url(" not in text and "@import" not in text
    metrics = read_json(tiny / "metrics.json")
    for method in ("ve.ode", "exact", "no_network"):
        head = f"mean0.3.{method}.noise=1"
        assert f"<td>{metrics[f'{head}.error_percent']:#.3g}</td>" in text
        assert f"<td>{metrics[f'{head}.crps']:#.3g}</td>" in text
        for level in (50, 80, 95):
            assert f"<td>{100 * metrics[f'{head}.coverage_{level}']:.1f}</td>" in text
    headings = re.findall("<h2>(.*?)</h2>", text)
    assert headings == ["The answer in a picture", "Can it be trusted?", "How it was done", "Settings", "Timings"]
    assert "34 × 8, 2" in text and "Version of torch" in text


def test_a_second_report_is_the_same(tiny, tmp_path):
    paths = {path.stem: path for path in (tiny / "figures").iterdir()}
    data = flux_page.load_case(tiny, TINY.cases()[0])
    page = flux_page.build([data], flux_page.read_metrics(tiny), paths, flux_page.read_settings(BoundaryFlux, tiny)[1])
    assert page.html() == (tiny / "report.html").read_text()
    with matplotlib.rc_context(drawing.STYLE):
        drawing.save(flux_figures.posterior(data), tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == paths["posterior-mean0.3-noise1"].read_bytes()
    assert not [path for path in tiny.rglob("*") if path.name.startswith(".")]


def test_other_processes_coordinates_and_several_noises(tmp_path):
    settings = replace(
        TINY, prior_mean=(2.0,), noise=(1.0, 50.0), test=4, samples=20, process="vp", alpha=1.0, coordinates="standard"
    )
    out = make(settings, tmp_path)
    assert not list((out / "results").glob("*no_network*"))
    text = flux_page.write(BoundaryFlux, out).read_text()
    assert all(is_picture(path) for path in (out / "figures").iterdir())
    assert {"error-mean2-noise1.png", "error-mean2-noise50.png"} <= {p.name for p in (out / "figures").iterdir()}
    assert "have no Gaussian to compare with" in text and "Gaussian, no network</th>" not in text
    assert "variance preserving, n = 2" in text and "Prior mean 2, noise 50" in text


def test_without_a_resolved_reference_the_exact_posterior_is_not_shown(tiny):
    data = flux_page.load_case(tiny, TINY.cases()[0])
    data = replace(data, resolved=np.zeros_like(data.resolved))
    assert "exact" not in data.compared and len(data.judged) == TINY.test
    assert flux_figures.marginals(data) is None and flux_data.mass_at_zero(data) == {}
    for figure in (flux_figures.posterior(data), flux_figures.error(data), flux_figures.coverage([data])):
        labels = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
        assert labels and not any("exact" in label for label in labels)


# --- What is wrong with the files is told in one line


@pytest.mark.parametrize(
    "damage",
    [
        lambda out: (out / "config.json").unlink(),
        lambda out: (out / "metrics.json").unlink(),
        lambda out: (out / "metrics.json").write_text("[1, 2]"),
        lambda out: (out / "metrics.json").write_text("{}"),
        lambda out: (out / "metrics.json").write_text('{"a": "b"}'),
        lambda out: write_json(out / "config.json", {"problem": "another"}),
        lambda out: write_json(out / "config.json", {**read_json(out / "config.json"), "colour": 3}),
        lambda out: write_json(out / "config.json", {**read_json(out / "config.json"), "test": "many"}),
        lambda out: (out / "results" / "mean0.3-noise1-exact.safetensors").unlink(),
        lambda out: (out / "results" / "mean0.3-noise1-ve.ode.safetensors").write_bytes(b"no tensors"),
        lambda out: (out / "results" / "mean0.3-noise1-exact.safetensors").rename(
            out / "results" / "mean0.3-noise1-ve.ode.safetensors"
        ),
        lambda out: (out / "models" / "mean0.3-noise1" / "training.json").unlink(),
        lambda out: write_json(out / "models" / "mean0.3-noise1" / "training.json", {"records": [{"step": 1}]}),
    ],
)
def test_damaged_runs_are_refused_in_one_line_and_leave_no_page(copied, damage):
    damage(copied)
    with pytest.raises(InputError) as error:
        flux_page.write(BoundaryFlux, copied)
    assert "\n" not in str(error.value) and len(str(error.value)) < 300
    assert not (copied / "report.html").exists()


# --- Verdicts


def numbers(case, error=1.0, crps=1.0, coverage=0.0, z=9.0, unresolved=0, gaussian=1.1):
    """Made-up metrics: the learned posterior's error and CRPS over the exact one's, coverage more by so much."""
    metrics = {}
    for method, e, c, more in (
        (case.methods[0].name, error, crps, coverage),
        ("exact", 1.0, 1.0, 0.0),
        ("no_network", gaussian, gaussian, 0.0),
    ):
        head = f"{case.name}.{method}.noise={case.noise:g}"
        metrics |= {f"{head}.error_percent": 3 * e, f"{head}.crps": 0.05 * c, f"{head}.crps_all": 0.05 * c}
        metrics |= {f"{head}.coverage_{level}": level / 100 + more for level in (50, 80, 95)}
    metrics[f"{case.name}.{case.methods[0].name}.noise={case.noise:g}.crps_z"] = z
    metrics[f"{case.name}.exact.noise={case.noise:g}.cases"] = 200 - unresolved
    metrics[f"{case.name}.exact.noise={case.noise:g}.unresolved"] = unresolved
    return metrics


@pytest.mark.parametrize("mean", [2.0, 0.3])
@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ({}, ""),
        ({"error": 1.2}, "error of the learned posterior's mean"),
        ({"crps": 1.08}, "CRPS (the error of a whole distribution)"),
        ({"coverage": 0.03}, "Central intervals"),
        ({"coverage": -0.03}, "Central intervals"),
        ({"z": 1.0}, "no clear difference"),
        ({"z": -9.0, "gaussian": 0.9}, "the network is worse"),
    ],
)
def test_verdicts_follow_the_numbers(mean, change, broken):
    case = replace(TINY, prior_mean=(mean,)).cases()[0]
    checks = flux_page.verdict(case, numbers(case, **change))
    missed = [check for check in checks if check.reached is False]
    no_target = mean == 2.0 and ("CRPS" in broken or "difference" in broken or "worse" in broken)
    assert len(missed) == (0 if no_target or not broken else 1)
    assert all(broken in check.text and check.verdict == "not reached" for check in missed)
    assert any(broken in check.text for check in checks)
    assert sum(check.reached is not None for check in checks) == (2 if mean == 2.0 else 4)


@pytest.mark.parametrize(("mean", "ratio"), [(2.0, 1.02), (0.3, 1.05)])
def test_targets_are_where_they_should_be(mean, ratio):
    case = replace(TINY, prior_mean=(mean,)).cases()[0]
    for factor, reached in ((0.999, True), (1.001, False)):
        first = flux_page.verdict(case, numbers(case, error=ratio * factor), {"error": 0.004})[0]
        assert first.reached is reached and "± 0.004" in first.text and "200 test cases" in first.text


def test_what_cannot_be_told_is_not_called_reached():
    case = TINY.cases()[0]
    assert any("3 of 200" in check.text for check in flux_page.verdict(case, numbers(case, unresolved=3)))
    none = {k: v for k, v in numbers(case, unresolved=200).items() if "exact" not in k or "cases" in k or "unres" in k}
    checks = flux_page.verdict(case, none)
    assert "None of 200" in checks[0].text and checks[0].reached is None
    noiseless = replace(TINY, prior_mean=(2.0,), noise=(0.1,)).cases()[0]
    assert flux_page.verdict(noiseless, numbers(noiseless, error=1.2))[0].reached is None
    gone = numbers(case)
    del gone["mean0.3.exact.noise=1.coverage_80"]
    with pytest.raises(InputError, match=re.escape("mean0.3.exact.noise=1.coverage_80")):
        flux_page.verdict(case, gone)


def test_the_page_shows_a_missed_target(tiny):
    metrics = {**read_json(tiny / "metrics.json"), **numbers(TINY.cases()[0], error=1.2)}
    paths = {path.stem: path for path in (tiny / "figures").iterdir()}
    page = flux_page.build([flux_page.load_case(tiny, TINY.cases()[0])], metrics, paths, {})
    text = html.unescape(page.html())
    assert "ratio 1.200" in text and "Not reached." in text and "3 of 4 targets are reached" in text


def test_the_standard_error_of_a_ratio_is_the_bootstrap_s(tiny):
    data = flux_page.load_case(tiny, TINY.cases()[0])
    rng = np.random.default_rng(0)
    learned, exact = rng.gamma(4, size=(400, 30)), rng.gamma(4, size=(400, 30))
    summary = data.methods["exact"]
    methods = {"learned": replace(summary, crps=learned + exact), "exact": replace(summary, crps=exact)}
    made = replace(data, methods=methods, resolved=np.ones(400, bool))
    again = rng.integers(400, size=(4000, 400))
    ratio = (learned + exact).mean(1)[again].mean(1) / exact.mean(1)[again].mean(1)
    assert flux_page.ratio_error(made, "crps") == pytest.approx(ratio.std(), rel=0.1)


# --- Which marginals are shown


def test_distance_from_gaussian():
    rng = np.random.default_rng(0)
    normal, atom = rng.normal(size=(1, 4000, 1)), np.maximum(0, rng.normal(size=(1, 4000, 1)))
    samples = np.concatenate([normal, atom, np.zeros_like(atom)], axis=2)
    plain, clipped, constant = flux_data.not_gaussian(samples)[0]
    # clipped at the median: mean 0.399, standard deviation 0.584; the jump to 1/2 at zero starts from Phi(-0.683)
    assert plain < 0.03 and clipped == pytest.approx(0.5 - 0.2472, abs=0.03) and constant == 0


# --- The page itself


def test_text_is_escaped_everywhere(tmp_path):
    bad = "<script>alert(\"1\")</script> & 'x'"
    (tmp_path / "p.png").write_bytes(PNG + b"rest")
    page = Page(bad, bad)
    page.section(bad), page.subsection(bad), page.text(bad), page.points([bad])
    page.checks([Check(bad), Check(bad, True), Check(bad, False)])
    page.table([bad, "b"], [[bad, bad]], bad)
    page.figure(tmp_path / "p.png", bad, bad)
    text = page.html()
    assert not Links(text).open and "<script" not in text and text.count(html.escape(bad)) == 16
    assert "<b>Reached.</b>" in text and "<b>Not reached.</b>" in text


def test_the_page_refuses_what_is_no_picture_or_no_table(tmp_path):
    page = Page("t", "l")
    (tmp_path / "p.png").write_bytes(b"GIF89a")
    for path in (tmp_path / "p.png", tmp_path / "none.png", tmp_path):
        with pytest.raises(InputError):
            page.figure(path, "", "")
    with pytest.raises(ValueError, match="header"):
        page.table(["a", "b"], [["1"]])
