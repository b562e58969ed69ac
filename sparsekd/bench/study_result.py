"""A result that is told in studies: what Linear layers and convolutions have in common."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsekd.bench.record import BenchResult, Point
from sparsekd.bench.studies import Group, Study, Summary
from sparsekd.bench.tables import BUSY, absent_lines, rate_lines, share_table, study_table
from sparsekd.benchmark import MARK
from sparsekd.environment import where_text

if TYPE_CHECKING:
    from rich.console import Group as Rendered
    from rich.console import RenderableType

__all__ = ["StudyResult", "is_limits", "threads_text"]


def is_limits(point: Point) -> bool:
    """Whether a point holds the limits of the machine, and no layer."""
    return "machine" in point.case


def threads_text(count: int) -> str:
    """Such as "2 threads"."""
    return f"{count} thread{'s' * (count != 1)}"


@dataclass(frozen=True)
class StudyResult(BenchResult):
    """Points of layers. A subclass says which studies and groups there are."""

    studies: tuple[Study, ...] = ()
    groups: tuple[Group, ...] = ()

    def layers(self) -> list[Point]:
        """The points that count."""
        return [point for point in self.points if not is_limits(point)]

    def slices(self) -> Iterator[tuple[str, list[Point]]]:
        """(name, points) of what is told apart: here each number of threads."""
        layers = self.layers()
        for threads in dict.fromkeys(point.case["threads"] for point in layers):
            name = threads_text(threads)
            yield name, [point for point in layers if point.case["threads"] == threads]

    def summaries(self) -> list[tuple[str, Summary]]:
        """(slice, summary) of every study, column and group."""
        return [
            (name, summary)
            for name, points in self.slices()
            for study in self.studies
            for column in study.columns(points)
            for group in self.groups
            if (summary := study.summary(points, column, group)) is not None
        ]

    def extra(self) -> dict[str, Any]:
        return {"summaries": [{"slice": name, **s.to_dict()} for name, s in self.summaries()]}

    def write_all(self, folder: Path) -> tuple[Path, ...]:
        """Write the figures, as JSON and as the tables that the terminal shows."""
        from sparsekd.report import show

        target = Path(folder, f"{self.what}.txt")
        with target.open("w", encoding="utf-8") as file:
            show(self, file)
        return (self.write(folder), target)

    def tables(self) -> Iterator[RenderableType]:
        """A table for each study of each slice, and its share of the machine's limit."""
        from rich.text import Text

        for name, points in self.slices():
            for study in self.studies:
                if not study.rows(points):
                    continue
                yield Text(f"\n{name}", style="bold")
                yield study_table(study, points, self.groups)
                if study.rate and any(point.rate(study.rate) for point in points):
                    yield share_table(study, points)

    def notes(self) -> Iterator[str]:
        """Lines below the tables."""
        for point in filter(is_limits, self.points):
            yield f"{point.title}: " + "; ".join(rate_lines(point))
        yield from absent_lines(self.points)
        yield where_text(self.environment)
        floors = {1e6 * study.floor_s for study in self.studies if study.floor_s}
        means = "".join(
            f"; means are geometric, over points whose yardstick needs {floor:.0f} µs; as fast: "
            "points below that where ours is at least as fast"
            for floor in floors
        )
        yield (
            f"cells: median ms and time of the yardstick over ours; {MARK} we are slower; ±%: half "
            f"of p10 to p90, the widest of the line{means}"
        )
        if busy := [point for point in self.points if point.busy]:
            yield (
                f"{BUSY} {len(busy)} of {len(self.points)} points were measured while others used "
                "the cores or a host shared them: do not quote them"
            )
        if again := sum(point.repeated for point in self.points):
            yield f"blocks measured again because the machine gave less than whole cores: {again}"

    def __rich__(self) -> Rendered:
        from rich.console import Group as Rendered
        from rich.text import Text

        # Text: "[bench]" is no colour
        return Rendered(*self.tables(), *(Text(line) for line in self.notes()))
