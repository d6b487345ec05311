"""The order of imports: groups of modules look down, never up, and heavy packages load only when used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fokker

ROOT = Path(fokker.__file__).parent

# From the bottom up; a module imports from its own group and from those below it.
ORDER = [
    {"errors"},
    {
        "rng",
        "storage",
        "grids",
        "field_points",
        "random_fields",
        "kernel_fields",
        "interpolated_fields",
        "estimated_fields",
        "continued_fields",
        "covariance",
    },
    {"locks"},
    {"noise", "processes", "custom_process", "ddpm", "time_grid"},
    {"states", "support"},
    {"parametrisations"},
    {"score"},
    {
        "posterior_coordinates",
        "structured",
        "curved_coordinates",
        "coordinates",
        "networks",
        "losses",
        "score_matching",
        "samplers",
        "flow_density",
        "composition",
        "variational",
    },
    {"tilted"},
    {"training"},
    {"posterior", "fields"},
    {"api", "choice"},
    {
        "screening",
        "check_rows",
        "check_simulator",
        "check_region",
        "check_local",
        "check_advice",
        "check_measurement",
        "checking",
        "from_files",
        "file_samples",
    },
    {"problems"},
    {"report"},
    {"cli"},
]
LEVEL = {name: level for level, group in enumerate(ORDER) for name in group}
FIRST_GROUPS = 3  # what the modules on the side may import: up to noise, processes, time_grid
LAWS = {"likelihoods", "likelihood_checks", "likelihood_counts", "likelihood_custom", "likelihood_scale"}  # as one
SIDE = {"operators", "pde", "reference", "simulation", "diagnostics"} | LAWS
KNOWN = {("reference", "diagnostics")}  # samplers of reference posteriors judge their own chains
NEED_SIDE = LEVEL["posterior"]  # from here up, anything on the side may be used


def group_of(path: Path, root: Path) -> str:
    part = path.relative_to(root).parts[0]
    return part.removesuffix(".py")


def imported(source: str, package: tuple[str, ...] = ("fokker",)) -> set[str]:
    """Top-level modules of fokker that a source imports at run time, at whatever depth of the code."""
    found = set()
    tree = ast.parse(source)
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join((*package[: len(package) - node.level + 1], *([base] if base else [])))
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "fokker" else [base]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("fokker.")}
    return found


def edges(root: Path = ROOT) -> set[tuple[str, str, str]]:
    """(file, its group, imported group) for every import between groups; the public __init__ may import anything."""
    out = set()
    for path in sorted(root.rglob("*.py")):
        if path == root / "__init__.py":
            continue
        package = ("fokker", *path.relative_to(root).parts[:-1])
        mine = group_of(path, root)
        out |= {(str(path.relative_to(root)), mine, other) for other in imported(path.read_text(), package)}
    return {edge for edge in out if edge[1] != edge[2]}


def allowed(mine: str, other: str) -> bool:
    if (mine, other) in KNOWN or {mine, other} <= LAWS or other == "errors":
        return True
    if mine in SIDE:
        return LEVEL.get(other, 99) <= FIRST_GROUPS
    if mine not in LEVEL:
        return False
    if other in SIDE:
        return LEVEL[mine] >= NEED_SIDE
    return LEVEL.get(other, 99) <= LEVEL[mine]


def cycles(pairs: set[tuple[str, str]]) -> list[str]:
    """Groups that reach themselves."""
    graph: dict[str, set[str]] = {}
    for mine, other in pairs:
        graph.setdefault(mine, set()).add(other)

    def reach(start: str) -> set[str]:
        seen, todo = set(), list(graph.get(start, ()))
        while todo:
            if (node := todo.pop()) not in seen:
                seen.add(node)
                todo += graph.get(node, ())
        return seen

    return sorted(name for name in graph if name in reach(name))


def test_every_module_has_its_place():
    groups = {group_of(path, ROOT) for path in ROOT.rglob("*.py")} - {"__init__"}
    assert groups <= set(LEVEL) | SIDE


def test_imports_go_one_way():
    assert sorted(edge for edge in edges() if not allowed(*edge[1:])) == []


def test_no_cycles():
    assert cycles({edge[1:] for edge in edges()}) == []


def test_diagnostics_take_arrays_only():
    assert {other for _, mine, other in edges() if mine == "diagnostics"} <= {"errors", "rng"}


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("rng.py", "from fokker.score import ScoreModel"),
        ("processes.py", "import fokker.samplers.loop"),
        ("score.py", "def f():\n    from fokker import api"),
        ("samplers/heun.py", "from fokker.training import Trainer"),
        ("losses.py", "from .training import Trainer"),
        ("diagnostics/scores.py", "from fokker.score import ScoreModel"),
        ("operators/sensors.py", "from ..posterior import conditional"),
        ("score.py", "from fokker.likelihoods import Gaussian"),
        ("unheard_of.py", "from fokker.rng import Key"),
    ],
)
def test_control_a_made_up_violation_is_flagged(tmp_path, file, source):
    root = tmp_path / "fokker"
    (root / file).parent.mkdir(parents=True)
    (root / file).write_text(source)
    assert [edge for edge in edges(root) if not allowed(*edge[1:])]


def test_control_a_made_up_cycle_is_flagged():
    assert cycles({("coordinates", "losses"), ("losses", "samplers"), ("samplers", "coordinates")})
    assert cycles({("losses", "score"), ("samplers", "score")}) == []


def test_imports_for_types_alone_do_not_count():
    assert imported("if TYPE_CHECKING:\n    from fokker.api import fit\nimport fokker.rng") == {"rng"}


HEAVY = ("matplotlib", "zarr", "skfem", "xarray", "rich", "tyro", "arviz_base", "h5py", "pyarrow", "dask", "ot")


def test_import_loads_no_optional_package():
    code = f"import sys, fokker; print(*[m for m in {HEAVY!r} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == ""


def test_the_public_names_exist():
    assert all(hasattr(fokker, name) for name in fokker.__all__)
    assert len(set(fokker.__all__)) == len(fokker.__all__)
