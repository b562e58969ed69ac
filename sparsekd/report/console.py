"""Printing results, for people and for files alike."""

from __future__ import annotations

from typing import IO

__all__ = ["show"]

_WIDTH_OF_FILES = 120  # a pipe has no width; the tables are made to fit in this one


def show(result: object, file: IO[str] | None = None) -> None:
    """Print a result as rich renders it: in colour on a terminal, as plain text elsewhere.

    Args:
        file: where to; None is stdout.

    >>> show(benchmark({"model": model}, x))
    """
    from rich.console import Console

    console = Console(file=file, highlight=False)
    if not console.is_terminal:
        console = Console(file=file, highlight=False, width=_WIDTH_OF_FILES)
    console.print(result)
