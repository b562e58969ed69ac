"""The name of one way to run a layer."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Option"]


@dataclass(frozen=True)
class Option:
    """One way to run a layer.

    Attributes:
        kernel: a kernel of the engine, or "torch" for torch's own layer.
        window: inputs of a window of the windowed fp32 format, 16 or 32; None for every other
            format, and to let the weight's mask settle it.
        probe: None for the layer's own weight; else the sparsity of a stand-in with a random n:m
            mask, which is timed to find the sparsity from which sparse wins and never chosen.

    >>> str(Option("windowed", 16))
    'windowed 16'
    """

    kernel: str
    window: int | None = None
    probe: float | None = None

    def __str__(self) -> str:
        parts = [self.kernel]
        if self.window is not None:
            parts.append(str(self.window))
        if self.probe is not None:
            parts.append(f"at {self.probe:.4g}")
        return " ".join(parts)
