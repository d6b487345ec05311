"""Reading what any run has left; every mistake in it is an InputError of one line that names the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fokker.errors import InputError
from fokker.storage import read_json

RECORD = {"step", "training_loss", "validation_loss", "validation_levels", "best_step"}


def read_problem(out: Path) -> str:
    """Which problem the run in `out` is of, from config.json; "" where it does not say."""
    found: Any = read_json(out / "config.json")
    return str(found.get("problem", "")) if isinstance(found, dict) else ""


def read_settings(out: Path, problem: str, kind: type[Any]) -> tuple[Any, dict[str, str]]:
    """What the run was asked to do as a `kind`, and versions of packages, from config.json.

    InputError where it is another problem's, damaged or of another version.
    """
    path = out / "config.json"
    found: Any = read_json(path)
    if not isinstance(found, dict) or found.pop("problem", None) != problem:
        raise InputError(f"{path}: is not of a {problem} run")
    versions = found.pop("versions", {})
    options: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}
    try:
        return kind(**options), dict(versions)
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: is damaged or of another version ({error})") from error


def read_metrics(out: Path) -> dict[str, float]:
    """Name -> number from metrics.json; InputError where it is anything else."""
    path = out / "metrics.json"
    found = read_json(path)
    if not isinstance(found, dict) or not all(isinstance(v, int | float) for v in found.values()):
        raise InputError(f"{path}: is damaged, names with numbers are accepted")
    return found


def read_training(folder: Path) -> dict[str, Any]:
    """training.json of a model's folder, with at least one whole record."""
    training = read_json(folder / "training.json")
    records = training.get("records") if isinstance(training, dict) else None
    if not records or "settings" not in training or not all(set(record) >= RECORD for record in records):
        raise InputError(f"{folder / 'training.json'}: holds no records of a training")
    return training
