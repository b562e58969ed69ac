"""What ``sparsekd bench conv`` found, and how it is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparsekd.bench.record import Point
from sparsekd.bench.studies import Group, Study
from sparsekd.bench.study_result import StudyResult, is_limits
from sparsekd.bench.tables import new_table
from sparsekd.benchmark import format_times

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

__all__ = ["ConvBenchResult"]

_NODE = "against OpenVINO's int8 node"
_FP32 = "against the best dense fp32 of the others"

_STUDIES = (
    Study(
        "int8",
        f"int8, u8 in and out, {_NODE}",
        ("dense int8", "int8 n:32"),
        kind="dense int8",
        rate="vpdpbusd",
        floor_s=0.0,
    ),
    Study(
        "int8-dense",
        "int8, u8 in and out, against our dense int8",
        ("int8 n:32",),
        own="dense int8",
        floor_s=0.0,
    ),
    Study(
        "depthwise",
        f"depthwise int8, u8 in and out, {_NODE}",
        ("depthwise int8",),
        kind="dense int8",
        floor_s=0.0,
    ),
    Study(
        "fp32",
        f"fp32 modules {_FP32}",
        ("fp32 n:16", "fp32 n:16, NCHW"),
        kind="dense fp32",
        rate="fma",
        floor_s=0.0,
    ),
    Study(
        "depthwise-fp32",
        f"depthwise fp32 modules {_FP32}",
        ("depthwise fp32",),
        kind="dense fp32",
        floor_s=0.0,
    ),
)


def _wide(point: Point) -> bool:
    return bool(min(point.case["channels"]) >= 64)


def _of_resnet(point: Point) -> bool:
    kernel = tuple(point.case["kernel"])
    return "resnet50" in point.case["models"] and kernel in ((1, 1), (3, 3))


_GROUPS: tuple[Group, ...] = (
    ("all", lambda _: True),
    ("channels >= 64", _wide),
    ("channels >= 64, batch 1", lambda point: _wide(point) and point.case["batch"] == 1),
    ("channels >= 64, batch 8", lambda point: _wide(point) and point.case["batch"] == 8),
    ("3x3 and 1x1 of resnet50", _of_resnet),
)


@dataclass(frozen=True)
class ConvBenchResult(StudyResult):
    """Every convolution of a comparison.

    Attributes:
        names: title of each layer to the names that it has in the networks.
    """

    studies: tuple[Study, ...] = _STUDIES
    groups: tuple[Group, ...] = _GROUPS
    names: Mapping[str, list[str]] | None = None

    what = "conv"

    def extra(self) -> dict[str, Any]:
        told = [
            {"title": title, "bytes_a_second": rate, "of_memory": share}
            for _, points in self.slices()
            for title, _, rate, share in self.streaming(points)
        ]
        return {**super().extra(), "names": dict(self.names or {}), "depthwise": told}

    def streaming(self, points: list[Point]) -> list[tuple[str, str, float, float | None]]:
        """(title, ms, bytes a second, share of copying in memory) of depthwise int8."""
        found = []
        for point in points:
            entry = point.find("depthwise int8", None)
            if entry is None or entry.moved is None:
                continue
            rate, memory = entry.moved / entry.seconds, self._copying(point.case["threads"])
            time = format_times(entry.samples)[0]
            found.append((point.title, time, rate, rate / memory if memory else None))
        return found

    def _copying(self, threads: int) -> float | None:
        """Bytes a second, read and written, of a copy that no cache holds."""
        for point in filter(is_limits, self.points):
            for entry in point.entries:
                if point.case["threads"] == threads and entry.name == "copy 256 MB":
                    return entry.moved / entry.seconds if entry.moved else None
        return None

    def tables(self) -> Iterator[RenderableType]:
        yield from super().tables()
        for _, points in self.slices():
            if lines := self.streaming(points):
                yield _streaming_table(lines)


def _streaming_table(lines: list[tuple[str, str, float, float | None]]) -> Table:
    table = new_table("depthwise int8: bytes in and out, and that rate over copying in memory")
    table.add_column("")
    for head in ("ms", "GB/s", "of copying"):
        table.add_column(head, justify="right")
    for title, time, rate, share in lines:
        told = "-" if share is None else f"{share:.2f}"
        table.add_row(title, time, f"{rate / 1e9:.1f}", told)
    return table
