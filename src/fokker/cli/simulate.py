"""`fokker simulate`: pairs from a simulator of the user's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from fokker.cli import options as given


@dataclass(frozen=True)
class Simulate:
    """Draw x from a prior and y from a simulator, into a store that `fokker fit` reads; interrupted, it continues."""

    model: Positional[Path]
    """Python file with prior(rng, n) and simulate(x, rng), arrays of n rows each; rng is a numpy Generator.

    x_names = ("depth", "width") in it, and y_names, say what the numbers in a row are called.
    """
    n: Annotated[int, arg(aliases=["-n"])] = 10_000
    """Number of simulations; a larger one continues a store."""
    out: Path = Path("simulations")
    """Folder of the store."""
    program: str | None = None
    """Command to call in place of simulate, as './solver {x.csv} {y.csv}': it reads rows of x, writes rows of y."""
    rows: int = 1
    """Simulations in one call of the program."""
    chunk: int = 1000
    """Simulations drawn and written at a time; few where one takes long."""
    seed: int = 0
    """Of everything random."""
    workers: int = 1
    """Processes."""
    scheduler: str | None = None
    """Address of a dask cluster, tcp://HOST:PORT, in place of workers here."""
    quiet: bool = False
    """No progress bars."""


def simulate(options: list[str]) -> None:
    """`fokker simulate`."""
    asked = given.parse(Simulate, options, "fokker simulate", None)
    if asked is None:
        return
    from fokker.simulation import store
    from fokker.simulation.programs import ModelFile, Program

    model = ModelFile.read(asked.model, ("prior", "simulate") if asked.program is None else ("prior",))
    simulator = model if asked.program is None else Program(model, asked.program, asked.rows)
    with given.bars(asked.quiet) as progress:
        found = store.simulate(
            simulator,
            asked.n,
            asked.out,
            seed=asked.seed,
            chunk=asked.chunk,
            workers=asked.workers,
            scheduler=asked.scheduler,
            progress=lambda done, total: progress("simulate", done, total),
        )
    failed = f"; {found.failed} failed, kept apart with their inputs" if found.failed else ""
    print(f"{found.n} simulations: x {found.x_shape}, y {found.y_shape}{failed}")
    print(f"store: {asked.out}")
