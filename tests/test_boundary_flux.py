"""The boundary-flux problem, and its run: whatever stops it, it goes on to the same numbers, or says why not."""

import contextlib
import errno
import hashlib
import itertools
import json
import math
import multiprocessing
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray
from scipy.special import ndtr

from fokker import cli
from fokker.errors import InputError
from fokker.locks import locked
from fokker.posterior import recipes
from fokker.problems import boundary_flux, flux_run, parallel
from fokker.problems.boundary_flux import BoundaryFlux
from fokker.problems.channel import LENGTH, NUGGET
from fokker.problems.flux_cases import Case
from fokker.problems.flux_metrics import scores
from fokker.problems.flux_settings import SAMPLERS
from fokker.problems.flux_summary import Summary
from fokker.processes import VarianceExploding, VariancePreserving
from fokker.reference.rectified import rectified_posterior
from fokker.report import drawing, flux_figures, flux_page
from fokker.storage import read_json, read_tensors, write_bytes

PROGRAM = Path(sys.executable).with_name("fokker")
SIZES = {"train": 200, "training-steps": 30, "test": 6, "samples": 30, "reference": 2, "mesh": "34 8"}
TINY = " ".join(f"--{name} {value}" for name, value in SIZES.items()).split()
RUN = ["run", "boundary-flux", *TINY, "--quiet"]
ONE = [*RUN, "--prior-mean", "0.3"]
CHILDREN = multiprocessing.get_context("forkserver")
DRAW = flux_page.draw
DOT = bytes.fromhex(  # a picture of one pixel
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000 1f15c4890000000d49444154789c6360000002000001"
    "00ffff0300000600055dc8d2f30000000049454e44ae426082".replace(" ", "")
)


# The problem


@pytest.fixture(scope="module")
def run() -> BoundaryFlux:
    return BoundaryFlux(mesh=(34, 8))


@pytest.mark.parametrize(("mean", "zeros"), [(0.3, 0.382), (2.0, 0.0228)])
def test_prior_is_the_rectified_gaussian(run: BoundaryFlux, mean: float, zeros: float) -> None:
    """Fluxes of one draw may move together, so standard errors count draws only. Five of them."""
    n = 4000
    x = run.simulator(mean).prior(np.random.default_rng(1), n)
    assert x.shape == (n, 30) and x.min() == 0.0
    atom = ndtr(-mean / math.sqrt(1 + NUGGET))
    assert atom == pytest.approx(zeros, rel=2e-3)
    assert abs((x == 0).mean() - atom) < 5 * math.sqrt(atom * (1 - atom) / n)
    assert abs(
        x.mean() - (mean * ndtr(mean) + math.exp(-(mean**2) / 2) / math.sqrt(2 * math.pi))
    ) < 5 * x.std() / math.sqrt(n)


def test_prior_covariance(run: BoundaryFlux) -> None:
    """Squared exponential along a wall, nothing between walls; draws far above zero have it."""
    simulator, n = run.simulator(50.0), 4000
    middle = 7.0 * (np.arange(15) + 0.5) / 15
    wall = np.exp(-((middle[:, None] - middle) ** 2) / (2 * LENGTH**2)) + NUGGET * np.eye(15)
    np.testing.assert_allclose(simulator.covariance[:15, :15], wall, atol=1e-14)
    np.testing.assert_allclose(simulator.covariance[15:, 15:], wall, atol=1e-14)
    assert not simulator.covariance[:15, 15:].any()
    x = simulator.prior(np.random.default_rng(2), n)
    np.testing.assert_allclose(np.cov(x.T), simulator.covariance, atol=6 / math.sqrt(n))
    np.testing.assert_allclose(x.mean(0), 50.0, atol=6 / math.sqrt(n))


def test_simulator_is_the_matrix_and_the_finite_elements(run: BoundaryFlux) -> None:
    simulator, rng = run.simulator(2.0), np.random.default_rng(3)
    x = simulator.prior(rng, 5)
    y = simulator.simulate(x, rng)
    np.testing.assert_allclose(y, x @ simulator.matrix.T, rtol=1e-14)
    solver = simulator.solver
    np.testing.assert_allclose(y, solver.evaluate(solver.solve(x), simulator.channel.sensors), rtol=1e-10)
    other = replace(run, mesh=(40, 10), order=1).simulator(2.0)
    assert (other.solver.n_nodes, other.settings["mesh"], other.settings["order"]) == (41 * 11, [40, 10], 1)
    assert other.settings != simulator.settings != run.simulator(2.5).settings


def test_cases_and_their_names() -> None:
    run = BoundaryFlux(prior_mean=(2.0, 0.3), noise=(1.0, 0.5), process=("vp",), n=1.5, alpha=(0.5,))
    cases = run.cases()
    assert [case.folder for case in cases] == ["mean2-noise1", "mean2-noise0.5", "mean0.3-noise1", "mean0.3-noise0.5"]
    assert {case.name for case in cases} == {"mean2", "mean0.3"}
    assert {method.name for case in cases for method in case.methods} == {"vp1.5.alpha=0.5"}
    assert BoundaryFlux().cases()[0].methods[0].name == "ve.ode"
    assert BoundaryFlux(alpha=(1.0,), process=("vp",), n=1).cases()[0].methods[0].name == "vp1.sde"


def test_default_pairs_and_what_overrides_them() -> None:
    """Clipping at a low mean needs many simulations, 9,000 do elsewhere; the published recipe keeps its noise fixed."""
    few, many = BoundaryFlux().cases()
    assert (few.mean, few.pairs, few.redrawn) == (2.0, 9_000, True)
    assert (many.mean, many.pairs, many.redrawn) == (0.3, 100_000, True)
    assert not BoundaryFlux(recipe="published").redrawn(2.0)
    case = Case(BoundaryFlux(train=500, training_steps=7, coordinates="minmax"), 0.3, 1.0)
    assert (case.pairs, case.recipe.training.steps, case.recipe.coordinates) == (500, 7, "minmax")
    published = Case(BoundaryFlux(recipe="published"), 2.0, 1.0).recipe
    assert (published.training.steps, published.coordinates) == (90_000, "minmax")


def test_processes_and_samplers() -> None:
    assert BoundaryFlux().build_process("ve") == VarianceExploding(sigma_max=20.0)
    assert BoundaryFlux(recipe="published").build_process("ve") == VarianceExploding(sigma_max=5.0)
    assert BoundaryFlux(recipe="published", coordinates="none").build_process("ve") == VarianceExploding(sigma_max=20.0)
    assert BoundaryFlux(n=1.0).build_process("vp") == VariancePreserving(1.0)
    names = [type(BoundaryFlux(sampler=name).build_sampler(0.0)).__name__ for name in SAMPLERS]
    assert names == ["GaussianTransition", "Transition", "EulerMaruyama", "Heun", "RK45"]
    assert type(BoundaryFlux().build_sampler(0.0)).__name__ == "GaussianTransition"
    assert type(BoundaryFlux(recipe="published").build_sampler(0.0)).__name__ == "EulerMaruyama"


def test_settings_are_plain_and_complete() -> None:
    run = BoundaryFlux(noise=(0.5,), process=("ve", "vp"), alpha=(0.0, 1.0), seed=7)
    found = json.loads(json.dumps(run.settings()))
    assert found.pop("problem") == "boundary-flux"
    assert BoundaryFlux(**{k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}) == run


# What runs leave


def numbers(metrics: dict[str, float]) -> dict[str, float]:
    """Those that must be the same however often a run was stopped."""
    return {name: value for name, value in metrics.items() if not name.endswith("seconds")}


def result(out: Path) -> dict[str, float]:
    return numbers(read_json(out / "metrics.json"))


def hashes(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def leftovers(folder: Path) -> list[Path]:
    """Temporary files, ours and those of zarr, and locks."""
    return [p for p in folder.rglob("*") if ".fokker-tmp" in p.name or p.suffix == ".partial" or p.name == ".lock"]


def one_line(text: str, *parts: str) -> None:
    assert text.startswith("fokker: ") and text.endswith("\n") and text.count("\n") == 1, text
    for part in parts:
        assert part in text


# Real runs, with worker processes

DRIVER = '''
import signal, time
from pathlib import Path
from fokker.training import Trainer
step, here = Trainer._one_step, Path(__file__).parent

def held(self, index):
    """Stop in the middle of the training, in whichever process it is, as long as there is a file `hold`."""
    if index == 10 and (here / "hold").exists():
        import os
        (here / "new").write_text(str(os.getpid()))
        (here / "new").rename(here / "held")
        while (here / "hold").exists():
            time.sleep(0.02)
    return step(self, index)

Trainer._one_step = held
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from fokker.cli import main
    main()
'''


@contextlib.contextmanager
def started(*words: object) -> Iterator[subprocess.Popen]:
    """A process in a session of its own, gone with all its children at the end."""
    process = subprocess.Popen(
        [str(word) for word in words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait for something that must come; the limit only keeps a broken test from hanging."""
    for _ in range(6000):
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise TimeoutError(what)


def members(group: int) -> list[int]:
    """Live processes of a process group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, process_group = path.read_text().rpartition(")")[2].split()[:3]
            if int(process_group) == group and state != "Z":
                found.append(int(path.parent.name))
    return found


def workers(main: int, loaded: str = "") -> list[int]:
    """Processes started by a run, those that have come to load this library where one is given."""
    found = []
    for pid in members(main):
        with contextlib.suppress(OSError):
            if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text():
                found += [pid] if loaded in Path(f"/proc/{pid}/maps").read_text() else []
    return found


def hears_interrupts(pid: int) -> bool:
    blocked = re.search(r"SigBlk:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    assert blocked is not None
    return not int(blocked[1], 16) >> (signal.SIGINT - 1) & 1


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two cases that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    with started(PROGRAM, *RUN, "--out", out) as process:
        said, error = process.communicate()
    assert (process.returncode, error) == (0, "")
    assert said.endswith(f"report: {out}/report.html\n")
    assert all(name in said for name in ("prior mean 2, noise 1:", "fokker", "exact", "no network", "CRPS"))
    return out


def test_a_run_leaves_the_files_of_the_design(whole: Path) -> None:
    config = read_json(whole / "config.json")
    assert (config["seed"], config["train"], config["mesh"]) == (0, 200, [34, 8])
    assert {"python", "torch", "fokker", "zarr"} <= set(config["versions"])
    for case in ("mean2-noise1", "mean0.3-noise1"):
        for name in ("weights.safetensors", "model.json", "train_state.safetensors"):
            assert (whole / "models" / case / name).stat().st_size > 0
        for name in ("posterior", "error", "training"):
            assert (whole / "figures" / f"{name}-{case}.png").read_bytes().startswith(b"\x89PNG")
    page = (whole / "report.html").read_text()
    assert "data:image/png;base64," in page and not re.search(r'(src|href)="(?!data:|#)', page)
    assert leftovers(whole) == []
    assert not list(whole.rglob("*.pkl")) + list(whole.rglob("*.pt"))


def test_metric_keys(whole: Path) -> None:
    metrics = read_json(whole / "metrics.json")
    for mean, method, name in itertools.product(
        ("mean2", "mean0.3"),
        ("ve.ode", "exact", "no_network"),
        ("error_percent", "crps", "coverage_50", "coverage_80", "coverage_95"),
    ):
        assert math.isfinite(metrics[f"{mean}.{method}.noise=1.{name}"])
    assert all(metrics[f"{stage}.seconds"] > 0 for stage in ("simulate", "train", "sample"))
    assert all(0 <= value <= 1 for name, value in metrics.items() if "coverage" in name)
    assert not [name for name in metrics if "second" in name and not name.endswith("seconds")]


def test_posterior_opens_in_the_layout_of_arviz(whole: Path) -> None:
    with xarray.open_datatree(whole / "posterior.zarr", engine="zarr", consolidated=False) as tree:
        assert set(tree.children) == {"mean2-noise1", "mean0.3-noise1"}
        for case in tree.children.values():
            assert {"posterior", "observed_data", "constant_data"} <= set(case.children)
            assert dict(case["posterior"].sizes) == {"chain": 1, "draw": 30, "measurement": 6, "x_dim_0": 30}
            assert case["observed_data"]["y"].shape == (6, 30)
            assert case["constant_data"]["x_true"].shape == (6, 30)
            assert float(case["posterior"]["x"].min()) >= 0.0


def test_interrupted_and_killed_with_workers(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C while workers start, a killed worker, a killed main process, random moments; beside a second run."""
    out, driver = tmp_path / "run", tmp_path / "driver.py"
    driver.write_text(DRIVER)
    again = [*ONE, "--out", str(out)]

    with started(sys.executable, driver, *again) as process:
        found = until(lambda: workers(process.pid, "libtorch"), "workers amid their imports")
        assert [pid for pid in [process.pid, *found] if hears_interrupts(pid)] == [process.pid]
        os.killpg(process.pid, signal.SIGINT)
        said, error = process.communicate()
        assert (process.returncode, said) == (130, "")
        one_line(error, "interrupted; the same command continues")
        assert workers(process.pid) == []

    (tmp_path / "hold").touch()
    with started(sys.executable, driver, *again) as process:
        until((tmp_path / "held").exists, "training")
        until((out / "results" / "mean0.3-noise1-exact.safetensors").exists, "the other worker's end")
        before = hashes(out)
        for words in (again, ["report", str(out)]):
            assert cli.command(words) == 2
            one_line(capsys.readouterr().err, f"{out} is being written by another run (process {process.pid})")
        assert hashes(out) == before
        os.kill(int((tmp_path / "held").read_text()), signal.SIGKILL)
        said, error = process.communicate()
        assert (process.returncode, said) == (1, "")
        one_line(error, "a worker process was killed", "the same command continues")
        assert workers(process.pid) == []

    (tmp_path / "held").unlink()
    with started(sys.executable, driver, *again) as process:
        until((tmp_path / "held").exists, "training")
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        until(lambda: not members(process.pid), "the end of orphans")  # though their training is still held

    (tmp_path / "hold").unlink()
    rng = random.Random(5)
    for _ in range(2):
        with started(PROGRAM, *again) as process, contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(rng.uniform(2, 8))  # killed with its workers on leaving
    with started(PROGRAM, *again) as process:
        _, error = process.communicate()
    assert (process.returncode, error) == (0, "")
    assert result(out).items() <= result(whole).items()  # one case alone has the numbers that it has beside another
    assert leftovers(out) == []


@pytest.mark.parametrize(
    "error",
    [
        InputError("noise: got -1"),
        OSError(errno.ENOSPC, "No space left on device", "/some/file"),
        OSError("no number"),
        FloatingPointError("not finite"),
        MemoryError("too much"),
        ModuleNotFoundError("no zarr"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_of_workers_come_back_as_they_were(error: Exception) -> None:
    class Special(type(error)):  # type: ignore[misc]
        """A class that the main process cannot import."""

    for raised in (error, Special(*error.args, *([error.filename] if getattr(error, "filename", None) else []))):
        back = pickle.loads(pickle.dumps(parallel._portable(raised)))
        assert str(back) == str(error) and isinstance(error, type(back))
        assert getattr(back, "filename", None) == getattr(error, "filename", None)


def test_a_defect_in_a_worker_keeps_its_traceback() -> None:
    try:
        raise KeyError("x")
    except KeyError as error:
        back = pickle.loads(pickle.dumps(parallel._portable(error)))
    assert type(back) is RuntimeError and "KeyError: 'x'" in str(back) and "line" in str(back)


# The same run in one process, for exact moments


def in_turn(tasks: list[parallel.Task], progress: parallel.Progress, at_once: int = 2) -> None:
    for task in tasks:
        task.function(*task.arguments, progress)


def no_figures(cases: list[flux_figures.CaseData], metrics: dict[str, float], folder: Path) -> dict[str, Path]:
    names = [f"{kind}-{data.case.folder}" for data in cases for kind in ("posterior", "error", "training")]
    paths = {name: folder / f"{name}.png" for name in ["hero", "instances", "coverage", *names]}
    for path in paths.values():
        write_bytes(path, DOT)
    return paths


def in_one_process(patch: pytest.MonkeyPatch) -> None:
    """Stages in turn, a checkpoint every ten steps, short chains, figures of one pixel."""
    short = replace(recipes.DEFAULT.training, batch_size=32, validate_every=10)
    patch.setattr(flux_run, "run_side_by_side", in_turn)
    patch.setitem(recipes.RECIPES, "default", replace(recipes.DEFAULT, training=short))
    patch.setattr(flux_run, "REFERENCE_SAMPLES", 100)
    patch.setattr(flux_page, "draw", no_figures)


@pytest.fixture
def serial() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        in_one_process(patch)
        yield patch


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in one process that nothing disturbed."""
    out = tmp_path_factory.mktemp("plain") / "run"
    with pytest.MonkeyPatch.context() as patch:
        in_one_process(patch)
        assert cli.command([*ONE, "--out", str(out)]) == 0
    return out


def _child(words: list[str], log: Path, stage: str, done: int, writes: int) -> None:
    """Run the command and kill this process, at a stage's progress or in place of a renaming."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    in_one_process(pytest.MonkeyPatch())

    def progress(name: str, now: int, total: int) -> None:
        if name.startswith(stage) and now == done:
            os.kill(os.getpid(), signal.SIGKILL)

    replace_file, left = os.replace, itertools.count(writes, -1)

    def rename(*paths: Any, **options: Any) -> None:
        if next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        replace_file(*paths, **options)

    if stage:
        cli.options.bars = lambda quiet: contextlib.nullcontext(progress)  # type: ignore[assignment]
    else:
        os.replace = rename  # type: ignore[assignment]
    sys.exit(cli.command(words))


def child(words: list[str], log: Path, stage: str = "", done: int = 0, writes: int = 0) -> int:
    """Exit code of `_child` in a process of its own."""
    CHILDREN.set_forkserver_preload(["fokker.problems.flux_run", "fokker.report.flux_page", "tyro", "pytest", "xarray"])
    process = CHILDREN.Process(target=_child, args=(words, log, stage, done, writes))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


STAGES = [
    ("simulate mean 0.3, train", 200),
    ("train", 10),
    ("train", 20),
    ("reference", 0),
    ("sample", 180),
    ("score", 0),
    ("score", 1),
    ("report", 0),
]


def test_killed_in_each_stage(plain: Path, tmp_path: Path) -> None:
    """One run, killed at one place after the other."""
    words, log = [*ONE, "--out", str(tmp_path / "run")], tmp_path / "log"
    for stage, done in STAGES:
        assert child(words, log, stage, done) == -signal.SIGKILL, stage
        assert log.read_text() == ""
    assert child(words, log, "nothing") == 0
    assert result(tmp_path / "run") == result(plain)
    assert leftovers(tmp_path / "run") == []


def test_interrupted_in_each_stage(
    plain: Path, tmp_path: Path, serial: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    for stage, done in STAGES:

        def progress(name: str, now: int, total: int, at: tuple[str, int] = (stage, done)) -> None:
            if name.startswith(at[0]) and now == at[1]:
                raise KeyboardInterrupt

        serial.setattr(cli.options, "bars", lambda quiet, progress=progress: contextlib.nullcontext(progress))
        assert cli.command([*ONE, "--out", str(out)]) == 130, stage
        one_line(capsys.readouterr().err, "interrupted; the same command continues")
        assert leftovers(out) == []
    serial.undo()
    in_one_process(serial)
    assert cli.command([*ONE, "--out", str(out)]) == 0
    assert result(out) == result(plain)


def test_a_finished_run_repeated_is_the_same(plain: Path, tmp_path: Path, serial: pytest.MonkeyPatch) -> None:
    """Nothing is computed again: models, samples and results stay untouched, byte by byte."""
    out = tmp_path / "run"
    shutil.copytree(plain, out)
    before, times = hashes(out), {path: path.stat().st_mtime_ns for path in out.glob("results/*")}
    assert cli.command([*ONE, "--out", str(out)]) == 0
    assert hashes(out) == before
    assert {path: path.stat().st_mtime_ns for path in out.glob("results/*")} == times


def test_killed_while_writing(plain: Path, tmp_path: Path) -> None:
    """Killed in place of its k-th renaming, with more and more of them let pass, until it is through."""
    words = [*ONE, "--out", str(tmp_path / "run")]
    writes, deaths = 1, 0
    while (status := child(words, tmp_path / "log", writes=writes)) == -signal.SIGKILL:
        writes, deaths = writes + 1 + writes // 2, deaths + 1
    assert status == 0 and deaths >= 6
    assert result(tmp_path / "run") == result(plain)
    assert leftovers(tmp_path / "run") == []


def test_disk_full(plain: Path, tmp_path: Path, serial: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One line that names a file, status 1; with room again, the same numbers."""
    out = tmp_path / "run"
    words, rename = [*ONE, "--out", str(out)], os.replace
    writes, status = 0, 1
    while status == 1:
        left = itertools.count(writes, -1)

        def full(*paths: Any, left: Iterator[int] = left, **options: Any) -> None:
            if next(left) <= 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            rename(*paths, **options)

        serial.setattr(os, "replace", full)
        status = cli.command(words)
        if status:
            one_line(capsys.readouterr().err, f"fokker: {out}", "No space left on device")
            assert leftovers(out) == []
        writes += 2 + writes // 2
    assert status == 0
    assert result(out) == result(plain)


def test_disk_full_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert cli.command([*ONE, "--out", str(tmp_path / "run")]) == 1
    one_line(capsys.readouterr().err, str(tmp_path / "run"), "No space left on device")
    assert hashes(tmp_path / "run") == {}


def test_folders_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        assert cli.command([*ONE, "--out", str(out)]) == 2
        one_line(capsys.readouterr().err, f"fokker: {out}", "the path of a folder is accepted")
    assert cli.command([*ONE, "--out", "/proc/run"]) == 1
    one_line(capsys.readouterr().err, "fokker: /proc/run", "cannot write into this folder")
    assert hashes(tmp_path) == {"file": hashlib.sha256(b"mine").hexdigest()}


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert cli.command([*ONE, "--out", str(tmp_path)]) == 2
    one_line(capsys.readouterr().err, f"{tmp_path}: holds other files and no run")
    assert hashes(tmp_path) == {"notes.txt": hashlib.sha256(b"mine").hexdigest()}


MODEL, STORE = "models/mean0.3-noise1", "simulations.zarr/mean0.3-train"
STATE, WEIGHTS, DONE = (
    f"{MODEL}/{name}" for name in ("train_state.safetensors", "weights.safetensors", "training.json")
)
ALWAYS, CUT = ("cut", "changed", "lost"), ("cut",)
DAMAGE = [
    # what is damaged, how, and what the run had not written yet
    (STATE, ("cut", "changed"), [DONE, WEIGHTS, f"{MODEL}/model.json"]),
    (STATE, CUT, []),
    (WEIGHTS, ALWAYS, []),
    (WEIGHTS, CUT, [STATE]),
    (f"{MODEL}/model.json", ("cut", "lost"), []),
    (DONE, ALWAYS, []),
    (DONE, CUT, [STATE]),
    (f"{STORE}/x/c/0/0", ALWAYS, []),
    (f"{STORE}/y/zarr.json", CUT, []),
    (f"{STORE}/sha256/c/0/0", CUT, []),
    ("simulations.zarr/zarr.json", CUT, []),
    ("results/mean0.3-noise1-ve.ode.safetensors", ALWAYS, []),
    ("results/mean0.3-noise1-exact.safetensors", CUT, []),
    ("results/mean0.3-noise1-no_network.safetensors", CUT, []),
    ("posterior.zarr/zarr.json", CUT, []),
    ("posterior.zarr/mean0.3-noise1/posterior/x/c/0/0/0/0", ALWAYS, []),
    ("posterior.zarr/mean0.3-noise1/observed_data/zarr.json", CUT, []),
    ("timings.json", CUT, []),
    ("metrics.json", CUT, []),
    ("report.html", ("lost",), []),
]


@pytest.mark.parametrize(
    ("name", "how", "missing"),
    [(name, how, missing) for name, hows, missing in DAMAGE for how in hows],
    ids=[f"{how} {name}, without {len(missing)}" for name, hows, missing in DAMAGE for how in hows],
)
def test_what_is_damaged_is_made_again(
    name: str, how: str, missing: list[str], plain: Path, tmp_path: Path, serial: pytest.MonkeyPatch
) -> None:
    """It costs time, never other numbers."""
    out = tmp_path / "run"
    shutil.copytree(plain, out)
    for other in missing:
        (out / other).unlink()
    data = bytearray((out / name).read_bytes())
    if how == "cut":
        (out / name).write_bytes(data[: len(data) // 2])
    elif how == "changed":
        data[len(data) // 2] ^= 0x11
        (out / name).write_bytes(data)
    else:
        (out / name).unlink()
    assert cli.command([*ONE, "--out", str(out)]) == 0
    assert result(out) == result(plain)
    assert leftovers(out) == []
    for path in ("models/mean0.3-noise1/weights.safetensors", "models/mean0.3-noise1/model.json"):
        assert hashes(out)[path] == hashes(plain)[path]
    for path in out.glob("results/*"):
        ours, theirs = read_tensors(path)[0], read_tensors(plain / "results" / path.name)[0]
        assert all(bool((ours[key] == theirs[key]).all()) for key in theirs if key != "seconds")
    trees = [xarray.open_datatree(f / "posterior.zarr", engine="zarr", consolidated=False) for f in (out, plain)]
    for group in ("posterior", "observed_data", "constant_data"):
        assert trees[0][f"mean0.3-noise1/{group}"].dataset.equals(trees[1][f"mean0.3-noise1/{group}"].dataset)


@pytest.mark.parametrize("name", ["config.json", f"{STORE}/zarr.json"])
def test_what_cannot_be_made_again_is_named(
    name: str, plain: Path, tmp_path: Path, serial: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """These say what the rest was made from; once they are gone, nothing stale is used."""
    out = tmp_path / "run"
    shutil.copytree(plain, out)
    (out / name).write_bytes((out / name).read_bytes()[:40])
    before = hashes(out)
    assert cli.command([*ONE, "--out", str(out)]) == 2
    one_line(capsys.readouterr().err, str(out / name), "damaged")
    assert {k: v for k, v in hashes(out).items() if k in before} == before or name != "config.json"
    if name == "config.json":
        (out / name).unlink()
    else:
        shutil.rmtree((out / name).parent)
    assert cli.command([*ONE, "--out", str(out)]) == 0
    assert result(out) == result(plain)


def test_results_of_other_settings_are_never_reused(plain: Path, tmp_path: Path, serial: pytest.MonkeyPatch) -> None:
    """Even where config.json, which would refuse them, is lost."""
    out, fresh, other = tmp_path / "run", tmp_path / "fresh", ["--alpha", "1", "--samples", "20"]
    shutil.copytree(plain, out)
    (out / "config.json").unlink()
    for folder in (out, fresh):
        assert cli.command([*ONE, *other, "--out", str(folder)]) == 0
    assert result(out) == result(fresh) != result(plain)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (["--samples", "31"], "samples = 30, this one has 31"),
        (["--seed", "1"], "seed = 0, this one has 1"),
        (["--process", "vp"], "process = ['ve'], this one has ['vp']"),
        (["--noise", "2"], "noise = [1.0], this one has [2.0]"),
        (["--mesh", "40", "8"], "mesh = [34, 8], this one has [40, 8]"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_other_settings_in_the_same_folder(
    other: list[str], told: str, plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(plain, out)
    before = hashes(out)
    assert cli.command([*ONE, *other, "--out", str(out)]) == 2
    one_line(capsys.readouterr().err, f"{out}: holds a run with {told}", "another --out")
    assert hashes(out) == before


def test_report_again_and_of_half_a_run(
    plain: Path, tmp_path: Path, serial: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(plain, out)
    (out / "report.html").unlink()
    assert cli.command(["report", str(out)]) == 0
    assert capsys.readouterr().out == f"report: {out}/report.html\n"
    assert (out / "report.html").read_bytes() == (plain / "report.html").read_bytes()
    for name in ("results/mean0.3-noise1-exact.safetensors", f"{MODEL}/training.json", "metrics.json"):
        (out / name).rename(tmp_path / "aside")
        assert cli.command(["report", str(out)]) == 2
        one_line(capsys.readouterr().err, str(out / name), "no such file")
        (tmp_path / "aside").rename(out / name)
    with locked(out):
        assert cli.command(["report", str(out)]) == 2
        one_line(capsys.readouterr().err, "is being written by another run")
    assert leftovers(out) == []


def test_a_run_holds_its_folder_until_the_report_is_written(
    plain: Path, tmp_path: Path, serial: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another one, which clears temporary files, must not come between."""
    out = tmp_path / "run"
    shutil.copytree(plain, out)
    statuses = []

    def draw(cases: list[flux_figures.CaseData], metrics: dict[str, float], folder: Path) -> dict[str, Path]:
        statuses.append(cli.command([*ONE, "--out", str(out)]))
        return no_figures(cases, metrics, folder)

    serial.setattr(flux_page, "draw", draw)
    for words in ([*ONE, "--out", str(out)], ["report", str(out)]):
        assert cli.command(words) == 0
        one_line(capsys.readouterr().err, "is being written by another run")
    assert statuses == [2, 2]


VARIANTS = {
    "noise 5, vp 1, sde": "--noise 5 --process vp --n 1 --alpha 1",
    "transition": "--process vp --n 1.5 --alpha 0.5 --sampler transition",
    "euler-maruyama": "--alpha 0.5 --sampler euler-maruyama --steps 20",
    "heun, standard": "--sampler heun --coordinates standard",
    "rk45, minmax": "--sampler rk45 --coordinates minmax",
    "published": "--recipe published --training-steps 5 --steps 20",
    "published, posterior": "--recipe published --training-steps 5 --steps 20 --coordinates posterior",
    "published, none, vp": "--recipe published --training-steps 5 --steps 20 --coordinates none --process vp --n 0.3",
    "every way": "--process ve vp --alpha 0 1",
    "published, every way": "--recipe published --training-steps 5 --steps 20 --process ve vp --alpha 0 1",
    "two noises": "--noise 0.5 2 --sampler rk45",
}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_every_option_ends_with_a_report(options: str, tmp_path: Path, serial: pytest.MonkeyPatch, capsys: Any) -> None:
    serial.setattr(flux_page, "draw", DRAW)
    serial.setattr(drawing, "save", lambda figure, path: write_bytes(path, DOT))
    assert cli.command([*ONE, *options.split(), "--out", str(tmp_path / "run")]) == 0
    said = capsys.readouterr()
    assert said.err == "" and said.out.endswith("report.html\n")
    assert (tmp_path / "run" / "report.html").stat().st_size > 0
    run = BoundaryFlux(**json_settings(tmp_path / "run"))
    metrics = read_json(tmp_path / "run" / "metrics.json")
    for case in run.cases():
        tail = f"noise={case.noise:g}"
        for method in case.methods:
            assert metrics[f"mean0.3.{method.name}.{tail}.nfe"] >= 2
            assert metrics[f"mean0.3.{method.name}.{tail}.crps_all"] > 0
        assert metrics[f"mean0.3.exact.{tail}.cases"] + metrics[f"mean0.3.exact.{tail}.unresolved"] == 2
        gaussian = f"mean0.3.no_network.{tail}.crps_all" in metrics
        assert gaussian == (case.recipe.coordinates == "posterior")


def json_settings(out: Path) -> dict[str, Any]:
    found = read_json(out / "config.json")
    return {k: tuple(v) if isinstance(v, list) else v for k, v in found.items() if k not in ("problem", "versions")}


def test_no_exact_posterior_resolved(tmp_path: Path, serial: pytest.MonkeyPatch, capsys: Any) -> None:
    """There is nothing to compare with, and the run says so."""

    def unresolved(*arguments: Any, **options: Any) -> Any:
        exact = rectified_posterior(*arguments, **options)
        return replace(exact, resolved=np.zeros_like(exact.resolved))

    serial.setattr(boundary_flux, "rectified_posterior", unresolved)
    serial.setattr(flux_page, "draw", DRAW)
    serial.setattr(drawing, "save", lambda figure, path: write_bytes(path, DOT))
    assert cli.command([*ONE, "--out", str(tmp_path / "run")]) == 0
    assert "no exact posterior is resolved" in capsys.readouterr().out
    metrics = read_json(tmp_path / "run" / "metrics.json")
    assert metrics["mean0.3.exact.noise=1.cases"] == 0 and metrics["mean0.3.exact.noise=1.unresolved"] == 2
    assert "mean0.3.ve.ode.noise=1.crps" not in metrics and metrics["mean0.3.ve.ode.noise=1.crps_all"] > 0
    assert "None of 2 exact posteriors is resolved" in (tmp_path / "run" / "report.html").read_text()


def test_fluxes_that_are_all_zero_give_no_relative_error() -> None:
    zero = np.zeros((4, 30))
    summary = Summary(zero, zero, zero, zero.astype(int), zero[:1], np.ones((3, 4, 30)), np.array(4), zero[None])
    found = scores(summary, zero, np.arange(4))
    assert math.isnan(found["error_percent"]) and found["crps"] == 0 and found["coverage_95"] == 1
    assert scores(summary, zero, np.arange(0)) == {}
