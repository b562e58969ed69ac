"""What a comparison of engines found, and how it is told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsekd.bench.peers import Kind
from sparsekd.benchmark import MARK, Samples, format_ratio, format_times
from sparsekd.environment import busy_note, where_text

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

__all__ = ["Entry", "LinearBenchResult", "Point"]


@dataclass(frozen=True)
class Entry:
    """One engine on one problem.

    Attributes:
        error: relative error of the output against float64, root mean square.
        setup_s: seconds for packing and compiling, outside the timed calls.
    """

    name: str
    kind: Kind
    ours: bool
    version: str
    config: Mapping[str, Any]
    error: float
    setup_s: float
    samples: Samples


@dataclass(frozen=True)
class Point:
    """All engines on one problem.

    Attributes:
        absent: name of each engine without a time, and why it has none.
    """

    in_features: int
    out_features: int
    rows: int
    entries: tuple[Entry, ...]
    absent: Mapping[str, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return f"{self.rows} x {self.in_features} -> {self.out_features}"

    def best(self, kind: Kind) -> Entry | None:
        """The fastest of the others of that kind, None where there is none."""
        rivals = [entry for entry in self.entries if entry.kind == kind and not entry.ours]
        return min(rivals, key=lambda entry: entry.samples.median, default=None)

    def ratio(self, entry: Entry, kind: Kind) -> float | None:
        """Time of the best of that kind over time of this entry; above 1 it is faster."""
        best = self.best(kind)
        return best.samples.median / entry.samples.median if best else None

    def to_dict(self) -> dict[str, Any]:
        return {
            "in_features": self.in_features,
            "out_features": self.out_features,
            "rows": self.rows,
            "engines": [self._entry_dict(entry) for entry in self.entries],
            "absent": dict(self.absent),
        }

    def _entry_dict(self, entry: Entry) -> dict[str, Any]:
        ratios = {
            f"ratio_to_best_{kind.replace(' ', '_')}": self.ratio(entry, kind) for kind in _RIVALS
        }
        return {
            "name": entry.name,
            "kind": entry.kind,
            "version": entry.version,
            "config": dict(entry.config),
            "error": entry.error,
            "setup_s": entry.setup_s,
            **(ratios if entry.ours else {}),
            **entry.samples.to_dict(),
        }

    def __rich__(self) -> Table:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table("engine", title=self.title, title_justify="left", box=box.SIMPLE_HEAD)
        for name in (
            "median ms",
            "p10..p90 ms",
            "error",
            *(f"vs best\n{kind}" for kind in _RIVALS),
        ):
            table.add_column(name, justify="right", no_wrap=True)
        for entry in self.entries:
            verdicts = [self._verdict(entry, kind) for kind in _RIVALS]
            times = format_times(entry.samples)
            table.add_row(entry.name, *times, f"{entry.error:.1e}", *verdicts)
        if self.absent:
            lines = [f"{name}: {reason}" for name, reason in self.absent.items()]
            table.caption = Text("\n".join(lines))  # Text: "[bench]" is no colour
            table.caption_justify = "left"
        return table

    def _verdict(self, entry: Entry, kind: Kind) -> str:
        if not entry.ours:
            return "best" if entry is self.best(kind) else ""
        return _ratio_cell(self.ratio(entry, kind))


_RIVALS: tuple[Kind, ...] = ("dense fp32", "dense int8")


@dataclass(frozen=True)
class LinearBenchResult:
    """Every point of a comparison, with the settings and the environment.

    Attributes:
        files: what was written.
    """

    points: tuple[Point, ...]
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]
    files: tuple[Path, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Everything, raw samples included, as plain JSON types."""
        return {
            "settings": dict(self.settings),
            "environment": dict(self.environment),
            "points": [point.to_dict() for point in self.points],
        }

    def to_json(self) -> str:
        """:meth:`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=1)

    def summary(self) -> Table:
        """A line for each of our engines on each problem, beside the best of the others."""
        from rich.table import Table

        where = self.environment
        ratio = f"ratio: time of the best other engine over ours; {MARK} we are slower"
        table = Table(
            title=where_text(where),
            caption="\n".join(filter(None, [ratio, busy_note(where)])),
        )
        for name in ("rows x in -> out", "engine"):
            table.add_column(name)
        table.add_column("median ms", justify="right")
        for kind in _RIVALS:
            table.add_column(f"best\n{kind}, ms", justify="right")
            table.add_column("ratio", justify="right", no_wrap=True)
        for point in self.points:
            for entry in point.entries:
                if entry.ours:
                    table.add_row(*_summary_cells(point, entry))
            table.add_section()
        return table

    def __rich__(self) -> Group:
        from rich.console import Group

        return Group(*self.points, self.summary())


def _summary_cells(point: Point, entry: Entry) -> list[str]:
    cells = [point.title, entry.name, format_times(entry.samples)[0]]
    for kind in _RIVALS:
        best = point.best(kind)
        cells.append(format_times(best.samples)[0] if best else "none")
        cells.append(_ratio_cell(point.ratio(entry, kind)))
    return cells


def _ratio_cell(ratio: float | None) -> str:
    if ratio is None:
        return "-"
    return f"[red]{format_ratio(ratio)}[/red]" if ratio < 1 else format_ratio(ratio)
