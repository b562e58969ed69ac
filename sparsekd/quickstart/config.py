"""Settings of the quickstart."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from sparsekd.quickstart.recipe import RECIPES, Recipe
from sparsekd.spec import pattern_from

__all__ = ["QuickstartConfig"]

_OF_RECIPE = ("epochs", "width", "teacher_width", "pattern", "batch_size")


@dataclass(frozen=True)
class QuickstartConfig:
    """Settings of ``sparsekd quickstart``; those left at None are the model's own.

    Attributes:
        model: what is trained: "mlp" (Linear layers) or "cnn" (convolutions with BatchNorm).
        seed: of the first run; the following runs count up from it.
        seeds: how many runs the accuracies are taken over.
        epochs: passes over the training images for each student (mlp: 20, cnn: 16); the teacher
            makes half as many.
        width: of the student: features of the hidden layers (mlp: 1024) or channels (cnn: 128).
        teacher_width: of the teacher (mlp: 2048, cnn: 192).
        pattern: which weights of the student's wide layers are kept (mlp and cnn: 4:32).
        batch_size: images a training step (mlp and cnn: 128).
        rounds: blocks of calls for each latency; 9 or more for figures worth quoting.
        out: folder for quickstart.json, quickstart.png and student.safetensors.
    """

    model: Literal["mlp", "cnn"] = "mlp"
    seed: int = 0
    seeds: int = 3
    epochs: int | None = None
    width: int | None = None
    teacher_width: int | None = None
    pattern: str | None = None
    batch_size: int | None = None
    rounds: int = 9
    out: str = "quickstart-out"

    def __post_init__(self) -> None:
        if self.model not in RECIPES:
            raise ValueError(f"unknown model {self.model!r}; choices are: {', '.join(RECIPES)}")
        for name in ("seeds", "epochs", "width", "teacher_width", "batch_size", "rounds"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        pattern_from(self.recipe().pattern)

    def recipe(self) -> Recipe:
        """The model's recipe with these settings."""
        settings = {name: getattr(self, name) for name in _OF_RECIPE}
        given = {name: value for name, value in settings.items() if value is not None}
        return dataclasses.replace(RECIPES[self.model], **given)

    def settled(self) -> dict[str, int | str]:
        """All settings by name, those of the recipe in the place of None."""
        recipe = self.recipe()
        return dataclasses.asdict(self) | {name: getattr(recipe, name) for name in _OF_RECIPE}
