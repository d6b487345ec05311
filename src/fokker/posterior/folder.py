"""A fit in a folder: checkpoints from which an interrupted one continues, and a finished one that is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeVar

from fokker.errors import InputError
from fokker.storage import file_hash, made_folder, read_json, read_sealed, read_tensors, write_sealed, write_tensors
from fokker.training import Trainer, TrainRecord


class Saved(Protocol):
    """What can be fitted in a folder."""

    def settings(self) -> dict[str, Any]: ...

    def save(self, directory: Path) -> None: ...


Model = TypeVar("Model", bound=Saved)


def fit_in_folder(
    folder: Path,
    trainer: Trainer,
    result: Model,
    fingerprint: str,
    load: Callable[[Path], Model],
    progress: Callable[[TrainRecord], None] | None,
) -> Model:
    """Run with a checkpoint after every record; a finished fit of the same data and settings is loaded.

    Files that are damaged or lost are made again: from the last checkpoint, or from the start. InputError where the
    folder holds the fit of other data or settings, or is a file.
    """
    made_folder(folder)
    state, done, weights = folder / "train_state.safetensors", folder / "training.json", folder / "weights.safetensors"
    model = json.loads(json.dumps(result.settings()))
    settings = {**model, "seed": trainer.seed}
    identity: dict[str, Any] = {"data": fingerprint, "settings": settings}
    finished = _whole(read_sealed, done)
    if finished is not None:
        _check_same(folder, finished, **identity)
        intact = finished.get("weights") == _whole(file_hash, weights)
        if intact and _whole(read_json, folder / "model.json") == model:
            return load(folder)
    checkpoint = _whole(read_tensors, state)
    if checkpoint is not None and "values" in checkpoint[1]:
        values = json.loads(checkpoint[1]["values"])
        _check_same(folder, values, **identity)
        trainer.resume(checkpoint[0], values["trainer"])
    for record in trainer.run():
        tensors, values = trainer.state()
        write_tensors(state, tensors, {"values": json.dumps({**identity, "trainer": values})})
        if progress is not None:
            progress(record)
    result.save(folder)
    records = [asdict(record) for record in trainer.records]
    write_sealed(done, {**identity, "weights": file_hash(weights), "seconds": trainer.seconds, "records": records})
    return result


def _whole(read: Callable[[Path], Any], path: Path) -> Any:
    """What is in a file; None where it is missing or damaged."""
    try:
        return read(path)
    except InputError:
        return None


def _check_same(folder: Path, found: dict[str, Any], data: str, settings: dict[str, Any]) -> None:
    """InputError where a folder holds the fit of other data or settings: nothing is overwritten."""
    if found.get("data") != data:
        raise InputError(f"{folder}: holds a fit of other data, bounds or gaps; a new folder is accepted, or the same")
    there, wanted = _flat(found.get("settings", {})), _flat(settings)
    for name, value in wanted.items():
        if name not in there or there[name] != value:
            raise InputError(
                f"{folder}: holds a fit with {name} = {there.get(name)!r}, this one has {value!r}; a new folder is "
                "accepted, or the same settings"
            )


def _flat(settings: dict[str, Any], head: str = "") -> dict[str, Any]:
    """Nested settings as one level, so that a message can name the one that differs."""
    out: dict[str, Any] = {}
    for name, value in settings.items():
        out |= _flat(value, f"{head}{name}.") if isinstance(value, dict) else {f"{head}{name}": value}
    return out
