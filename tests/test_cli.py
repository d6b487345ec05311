"""The command line: a mistake is one line with status 2, and leaves nothing behind."""

import subprocess
import sys
from pathlib import Path

import pytest

import fokker
from fokker.cli import PROBLEMS, command
from fokker.storage import write_json

PROGRAM = Path(sys.executable).with_name("fokker")
RUN, LAYOUTS, DENSITY = "run boundary-flux ", "run boundary-flux-sensors ", "run density-tanh "

# command line, what the line must say: the thing, what was given, what is accepted
MISTAKES = [
    ("guess", ["command: got 'guess'", "run, report, problems"]),
    ("--frobnicate", ["command: got '--frobnicate'", "run, report, problems"]),
    ("problems all", ["problems: got 'all'", "nothing more"]),
    ("--version 2", ["--version: got '2'", "nothing more"]),
    ("run", ["problem: got nothing", "boundary-flux"]),
    ("run darcy", ["problem: got 'darcy'", "boundary-flux"]),
    ("run --preset quick", ["problem: got '--preset'", "boundary-flux"]),
    (RUN + "--preset huge", ["preset: got 'huge'", "quick"]),
    (RUN + "--preset=huge", ["preset: got 'huge'", "quick"]),
    (RUN + "--preset", ["preset: got ''", "quick"]),
    (RUN + "--colour red", ["--colour, red", "--help"]),
    (RUN + "--sampels 3", ["--sampels, 3", "accepted: --samples INT"]),
    (RUN + "more", ["more", "--help"]),
    (RUN + "--quiet yes", ["yes", "--help"]),
    (RUN + "--noise -1", ["noise: got -1.0", "1e-6 to 1e6"]),
    (RUN + "--noise 1 -1", ["noise: got -1.0", "1e-6 to 1e6"]),
    (RUN + "--noise nan", ["noise: got nan", "1e-6 to 1e6"]),
    (RUN + "--noise inf", ["noise: got inf", "1e-6 to 1e6"]),
    (RUN + "--noise 1e-9", ["noise: got 1e-09", "0 or standard deviations from 1e-6"]),
    (RUN + "--sensors poisson", ["sensors: got 'poisson'", "gaussian, lognormal, saturating"]),
    (RUN + "--sensors lognormal --noise 0", ["noise: got 0.0 with lognormal", "above 0"]),
    (RUN + "--sensors lognormal --noise 5", ["noise: got 5.0 with lognormal", "up to 2"]),
    (RUN + "--sensors saturating --noise 0", ["noise: got 0 with saturating", "1e-6"]),
    (RUN + "--sensors saturating --saturation -1", ["saturation: got -1.0", "above 0"]),
    (RUN + "--process ve ve", ["process: got ('ve', 've')", "each once"]),
    (RUN + "--alpha 0 0.0", ["alpha: got (0.0, 0.0)", "differ"]),
    (LAYOUTS + "--probability 0", ["probability: got 0.0", "up to 1"]),
    (LAYOUTS + "--probability 1.1", ["probability: got 1.1", "up to 1"]),
    (LAYOUTS + "--noise 0", ["noise: got 0 with sensors that may be off", "1e-6"]),
    (LAYOUTS + "--encoding zero", ["encoding: got 'zero'", "mask, minus-one"]),
    (LAYOUTS + "--per-count 1", ["--per-count: got 1", "at least 2"]),
    (RUN + "--noise 1e200", ["noise: got 1e+200", "1e-6 to 1e6"]),
    (RUN + "--noise loud", ["--noise", "'loud'", "accepted: --noise [FLOAT [FLOAT ...]]"]),
    (RUN + "--noise", ["noise: got ()", "one or more"]),
    (RUN + "--noise 1 1", ["noise: got (1.0, 1.0)", "differ"]),
    (RUN + "--prior-mean 2 2", ["--prior-mean: got (2.0, 2.0)", "differ"]),
    (RUN + "--prior-mean 2 2.0000001", ["--prior-mean: got (2.0, 2.0000001)", "differ"]),
    (RUN + "--prior-mean nan", ["--prior-mean: got nan", "-2 to 100"]),
    (RUN + "--prior-mean 1e9", ["--prior-mean: got 1000000000.0", "-2 to 100"]),
    (RUN + "--samples 0", ["samples: got 0", "at least 2"]),
    (RUN + "--samples -3", ["samples: got -3", "at least 2"]),
    (RUN + "--samples 1.5", ["--samples", "'1.5'", "accepted: --samples INT"]),
    (RUN + "--test 0", ["test: got 0", "at least 2"]),
    (RUN + "--reference 0", ["reference: got 0", "2 to 1000"]),
    (RUN + "--reference 2000", ["reference: got 2000", "2 to 1000"]),
    (RUN + "--test 50", ["reference: got 200", "2 to 50"]),
    (RUN + "--train -1", ["train: got -1", "at least 0"]),
    (RUN + "--train 5", ["train: got 5", "at least 100"]),
    (RUN + "--training-steps -1", ["fokker: --training-steps: got -1", "at least 0"]),
    (RUN + "--steps -1", ["steps: got -1", "at least 0"]),
    (RUN + "--alpha -1", ["alpha: got -1.0", ">= 0"]),
    (RUN + "--alpha nan", ["alpha: got nan", ">= 0"]),
    (RUN + "--alpha 1 --sampler heun", ["alpha: got 1.0 with heun", "0 is accepted"]),
    (RUN + "--alpha 0.5 --sampler rk45", ["alpha: got 0.5 with rk45", "0 is accepted"]),
    (RUN + "--process vp --n 0", ["n: got 0.0", "0.3 to 100"]),
    (RUN + "--process vp --n -2", ["n: got -2.0", "0.3 to 100"]),
    (RUN + "--process vp --n 0.01", ["n: got 0.01", "0.3 to 100"]),
    (RUN + "--n nan", ["n: got nan", "0.3 to 100"]),
    (RUN + "--process ddpm", ["process: got 'ddpm'", "'ve' or 'vp'"]),
    (RUN + "--sampler langevin", ["sampler: got 'langevin'", "transition, euler-maruyama, heun, rk45"]),
    (RUN + "--recipe mine", ["recipe: got 'mine'", "default, published"]),
    (RUN + "--coordinates polar", ["coordinates: got 'polar'", "posterior, curved, standard, minmax, none"]),
    (RUN + "--mesh 1 8", ["mesh: got (1, 8)", "at least 2 elements"]),
    (RUN + "--mesh 34", ["--mesh", "Expected 2 values"]),
    (RUN + "--mesh 34 x", ["--mesh", "'x'", "accepted: --mesh INT INT"]),
    (RUN + "--order 3", ["order: got 3", "1 or 2 is accepted"]),
    (RUN + "--seed -1", ["seed: got -1", "2^64 - 1"]),
    (RUN + "--seed 18446744073709551616", ["seed: got 18446744073709551616", "2^64 - 1"]),
    (RUN + "--seed", ["--seed", "Expected 1 value"]),
    ("run density", ["problem: got 'density'", "density-tanh, density-bimodal, density-spiral"]),
    (DENSITY + "--preset huge", ["preset: got 'huge'", "quick, paper"]),
    (DENSITY + "--noise 1", ["--noise", "--help"]),
    (DENSITY + "--density bimodal", ["--density", "--help"]),
    (DENSITY + "--pairs 5", ["pairs: got 5", "at least 100"]),
    (DENSITY + "--processes", ["processes: got ()", "ve and vpN"]),
    (DENSITY + "--processes ve ve", ["processes: got ('ve', 've')", "each once"]),
    (DENSITY + "--processes ddpm", ["processes: got 'ddpm'", "vp2, vp1.5"]),
    (DENSITY + "--processes vp0", ["processes: got 'vp0'", "0.3 to 100"]),
    (DENSITY + "--samplers heun", ["samplers: got 'heun'", "ode, sde"]),
    (DENSITY + "--recipes mine", ["recipes: got 'mine'", "default, published"]),
    (DENSITY + "--training-steps -1", ["--training-steps: got -1", "at least 0"]),
    ("run guidance-battery --most-steps 0", ["--most-steps: got 0", "at least 1"]),
    (DENSITY + "--published-steps 0", ["--published-steps: got 0", "at least 1"]),
    (DENSITY + "--draws 3", ["draws: got 3", "at least 10"]),
    (DENSITY + "--points 2000", ["points: got 2000", "at most 1000"]),
    (DENSITY + "--draws 500", ["points: got 1000", "at most 500"]),
    (DENSITY + "--seed -1", ["seed: got -1", "2^64 - 1"]),
    ("report", ["PATH", "Folder of the run"]),
    ("report a b", ["b", "fokker report --help"]),
    ("report nowhere", ["nowhere: holds no run", "`fokker run`"]),
]


@pytest.mark.parametrize("utf8", [True, False], ids=["utf-8", "ascii"])
@pytest.mark.parametrize(("line", "parts"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_a_mistake_is_one_line(
    line: str,
    parts: list[str],
    utf8: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Whatever the terminal's encoding, which decides how the parser draws its complaints."""
    import tyro._fmtlib

    monkeypatch.setattr(tyro._fmtlib, "_should_use_utf8_drawing_chars", lambda: utf8)
    monkeypatch.chdir(tmp_path)
    words = line.split()
    if line.startswith((RUN, DENSITY)):
        words[2:2] = ["--out", "folder"]
    assert command(words) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("fokker: ") and said.err.count("\n") == 1 and said.err.endswith("\n")
    for part in parts:
        assert part in said.err
    for ornament in ("─", "│", "---", "\x1b"):
        assert ornament not in said.err
    assert list(tmp_path.iterdir()) == []


def test_a_missing_folder_name_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command([*RUN.split(), "--out"]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("fokker: ") and said.err.count("\n") == 1
    assert "--out" in said.err and "Expected 1 value" in said.err
    assert list(tmp_path.iterdir()) == []


def test_colours_of_a_terminal_are_taken_off(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert command([*RUN.split(), "--noise", "loud"]) == 2
    line = capsys.readouterr().err
    assert "\x1b" not in line and "Error parsing --noise" in line and line.count("\n") == 1


@pytest.mark.parametrize("content", [{}, {"problem": "tomography"}, {"problem": "boundary-flux", "colour": 1}, [1]])
def test_report_of_another_folder(tmp_path: Path, content: object, capsys: pytest.CaptureFixture[str]) -> None:
    write_json(tmp_path / "config.json", content)
    assert command(["report", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("fokker: ") and said.err.count("\n") == 1
    assert str(tmp_path / "config.json") in said.err
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_report_of_half_a_run_names_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from fokker.problems.boundary_flux import BoundaryFlux

    write_json(tmp_path / "config.json", BoundaryFlux().settings())
    assert command(["report", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.err == f"fokker: {tmp_path / 'metrics.json'}: there is no such file\n"
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ([], ["usage: fokker", "run PROBLEM", "report DIR", "problems"]),
        (["--help"], ["usage: fokker"]),
        (["-h"], ["usage: fokker"]),
        (["run", "--help"], ["usage: fokker"]),
        (["problems", "--help"], ["usage: fokker"]),
        (["run", "boundary-flux", "--help"], ["--prior-mean", "--noise", "--out", "--preset", "Fixes every number"]),
        (["run", "boundary-flux", "--noise", "1", "-h"], ["--prior-mean"]),
        (["run", "density-spiral", "--help"], ["--processes", "--published-steps", "90,000", "density-spiral"]),
        (["report", "--help"], ["Folder of the run"]),
        (["--version"], [fokker.__version__]),
        (["problems"], list(PROBLEMS) + [problem.line for problem in PROBLEMS.values()]),
    ],
    ids=" ".join,
)
def test_help_is_on_standard_output(words: list[str], parts: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command(words) == 0
    said = capsys.readouterr()
    assert said.err == ""
    for part in parts:
        assert part in said.out


def test_the_program_itself(tmp_path: Path) -> None:
    def told(*words: str) -> tuple[int, str, str]:
        done = subprocess.run([*words], capture_output=True, text=True, cwd=tmp_path)
        return done.returncode, done.stdout, done.stderr

    as_module = [sys.executable, "-c", "from fokker.cli import main; main()"]
    assert told(*as_module, "--version") == (0, fokker.__version__ + "\n", "")
    line = "fokker: noise: got -1.0, 0 or standard deviations from 1e-6 to 1e6 are accepted\n"
    assert told(str(PROGRAM), *RUN.split(), "--noise", "-1", "--out", "folder") == (2, "", line)
    assert list(tmp_path.iterdir()) == []
