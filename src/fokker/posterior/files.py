"""Models on disk: weights.safetensors and model.json in one folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from fokker.errors import InputError
from fokker.networks.denoiser import NetworkScore
from fokker.storage import made_folder, read_json, read_tensors, write_json, write_tensors

FORMAT = 2


def save_model(directory: str | Path, model: NetworkScore, settings: dict[str, Any]) -> None:
    """Write the arrays of the model and the settings, each whole or not at all; InputError where a file is there."""
    directory = made_folder(directory)
    write_tensors(directory / "weights.safetensors", model.tensors())
    write_json(directory / "model.json", settings)


def kind_of(directory: str | Path) -> str:
    """What kind of model a folder holds; InputError where it holds none of this format."""
    path = Path(directory) / "model.json"
    settings = read_json(path)
    if not isinstance(settings, dict) or settings.get("format") != FORMAT or "kind" not in settings:
        raise InputError(f"{path}: not a model of format {FORMAT}")
    return settings["kind"]


@contextmanager
def loaded_model(directory: str | Path, kind: str) -> Iterator[tuple[dict[str, Any], dict[str, Tensor]]]:
    """Settings and arrays of a model of that kind, to be put together within.

    InputError names the file where one is missing, damaged or of another kind, and where they do not fit each other.
    """
    directory = Path(directory)
    if kind_of(directory) != kind:
        raise InputError(f"{directory / 'model.json'}: not a {kind} model")
    settings = read_json(directory / "model.json")
    tensors, _ = read_tensors(directory / "weights.safetensors")
    try:
        yield settings, tensors
    except (KeyError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{directory}: weights and settings do not belong together ({reason})") from error
