"""Trained models that come with the package, each with the record of its training."""

from __future__ import annotations

from pathlib import Path

from fokker.storage import write_bytes

SHIPPED = Path(__file__).parent / "weights"
FILES = ("weights.safetensors", "model.json", "training.json")


def is_shipped(name: str) -> bool:
    """Whether the package has a model of this name."""
    return (SHIPPED / name / FILES[0]).is_file()


def take(name: str, folder: Path) -> None:
    """The files of the model of this name, written into `folder`."""
    for file in FILES:
        write_bytes(folder / file, (SHIPPED / name / file).read_bytes())
