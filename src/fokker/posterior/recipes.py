"""Recipes: the five separate choices of a formulation, and the training that goes with them.

Process, noise levels, weighting, preconditioning and time grid are recorded one by one, so that every comparison can
say which of them differ.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from fokker.errors import InputError
from fokker.samplers import EulerMaruyama, GaussianTransition, sampler_from_settings
from fokker.samplers.base import Sampler
from fokker.time_grid import Grid, Karras, UniformTime, grid_from_settings
from fokker.training import TrainSettings


@dataclass(frozen=True)
class Recipe:
    """levels: "lognormal" in rho or "uniform_t". network: kind and sizes, without those of x and the features.

    sampler, grid and steps are what `sample` uses unless told otherwise.
    """

    name: str
    coordinates: str
    preconditioning: str
    levels: str
    network: dict[str, Any]
    training: TrainSettings
    sampler: Sampler
    grid: Grid
    steps: int
    level_mean: float = -1.2  # of the log-normal levels, log of data standard deviations
    level_std: float = 1.2
    held_out: float = 0.05  # fraction of the pairs kept for validation
    spread_atoms: bool = False  # whether x at a bound it is clipped to is spread beyond it for training

    def settings(self) -> dict[str, Any]:
        """All choices as JSON; InputError for a sampler or a grid that is a function of the user's own."""
        grid = getattr(self.grid, "settings", None)
        if grid is None or any(callable(getattr(self.sampler, name, None)) for name in ("alpha", "variance")):
            raise InputError(
                "recipe: its alpha, variance or grid is a function, which a file cannot hold; give it to `sample`"
            )
        return {**asdict(self), "sampler": self.sampler.settings(), "grid": grid()}

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Recipe:
        """The recipe that `settings` described."""
        parts = {
            "training": TrainSettings(**settings["training"]),
            "sampler": sampler_from_settings(settings["sampler"]),
            "grid": grid_from_settings(settings["grid"]),
        }
        return cls(**{**settings, **parts})


DEFAULT = Recipe(
    name="default",
    coordinates="posterior",
    preconditioning="edm",
    levels="lognormal",
    level_mean=-0.4,
    level_std=1.4,
    network={"kind": "conditional_mlp", "width": 128, "depth": 3, "trunk_width": 256, "trunk_depth": 3},
    training=TrainSettings(),
    sampler=GaussianTransition(alpha=0.0),
    grid=Karras(),
    steps=16,
    spread_atoms=True,
)

# The source paper's set-up (Dasgupta et al. 2025); the width of the network is our guess.
PUBLISHED = Recipe(
    name="published",
    coordinates="minmax",
    preconditioning="eps",
    levels="uniform_t",
    network={"kind": "plain_mlp", "width": 256, "depth": 4},
    training=TrainSettings(
        steps=90_000, batch_size=1000, copies=1, learning_rate=1e-3, warmup=0, schedule="constant",
        ema=0.0, weighting="eps", validate_every=1000, patience=0, keep_best=False,
    ),
    sampler=EulerMaruyama(alpha=0.0),
    grid=UniformTime(),
    steps=500,
)  # fmt: skip

MANY = 50_000  # pairs from which on they are too many to be learned by heart
MANY_ROWS = 5_000  # of a prior


def adapted(recipe: Recipe, pairs: int, drawn_anew: bool) -> Recipe:
    """The recipe for so many pairs: the rule by which the defaults follow the data.

    Up to 50,000 fixed pairs a network learns them by heart before it is done: batches are then small (128), so that
    their noise holds it back, and the conditions also scale the hidden layers of a network with a narrower trunk, which
    needs fewer steps to get as far. The rate stays high until pairs that are held out show no gain, and then falls from
    the best weights on; those of the untrained network, the Gaussian conditional, are among them. Levels of noise are
    lower than where more pairs allow for longer training, as sharp shapes are what is learned last. Coordinates take
    over what a few numbers describe: means that bend, widths that change. Pairs whose noise or layout is drawn anew are
    never seen twice.
    """
    if drawn_anew or pairs >= MANY:
        return recipe
    return replace(
        recipe,
        coordinates="curved" if recipe.coordinates == "posterior" else recipe.coordinates,
        network={**recipe.network, "trunk_width": 128, "modulate": True},
        training=replace(recipe.training, batch_size=128, schedule="plateau", steps=16_000, patience=10),
        level_mean=-1.4,
        level_std=1.6,
    )


def adapted_prior(recipe: Recipe, rows: int) -> Recipe:
    """The recipe for a prior from so many rows: as `adapted`, but for coordinates and levels.

    x is learned as it is: no coordinates take over its large shapes, so the levels stay as high as for many rows. From
    5,000 rows on it is learned by heart too late to matter, and large batches give the smoother score.
    """
    if rows >= MANY_ROWS:
        return recipe
    held_back = adapted(recipe, rows, drawn_anew=False)
    return replace(held_back, coordinates=recipe.coordinates, level_mean=recipe.level_mean, level_std=recipe.level_std)


RECIPES = {recipe.name: recipe for recipe in (DEFAULT, PUBLISHED)}


def get(recipe: str | Recipe) -> Recipe:
    """The named recipe, or the given one."""
    if isinstance(recipe, Recipe):
        return recipe
    if recipe not in RECIPES:
        raise InputError(f"recipe: got {recipe!r}, one of {', '.join(RECIPES)} is accepted")
    return RECIPES[recipe]
