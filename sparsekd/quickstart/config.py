"""Settings of the quickstart."""

from __future__ import annotations

from dataclasses import dataclass

from sparsekd.spec import pattern_from

__all__ = ["QuickstartConfig"]


@dataclass(frozen=True)
class QuickstartConfig:
    """Settings of ``sparsekd quickstart``.

    Attributes:
        seed: of the first run; the following runs count up from it.
        seeds: how many runs the accuracies are taken over.
        epochs: passes over the training images for each student; the teacher makes half as many.
        hidden: width of the student's two hidden layers.
        teacher_hidden: width of the teacher's.
        pattern: which weights of the student's wide layers are kept, such as 4:32.
        batch_size: images a training step.
        rounds: blocks of calls for each latency; 9 or more for figures worth quoting.
        out: folder for quickstart.json, quickstart.png and student.safetensors.
    """

    seed: int = 0
    seeds: int = 3
    epochs: int = 20
    hidden: int = 1024
    teacher_hidden: int = 2048
    pattern: str = "4:32"
    batch_size: int = 128
    rounds: int = 9
    out: str = "quickstart-out"

    def __post_init__(self) -> None:
        for name in ("seeds", "epochs", "hidden", "teacher_hidden", "batch_size", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        pattern_from(self.pattern)

    @property
    def teacher_epochs(self) -> int:
        """The teacher learns faster and each of its passes costs four times as much."""
        return max(1, self.epochs // 2)
