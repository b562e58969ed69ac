"""What ``sparsekd bench model`` found, and how it is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparsekd.bench.record import BenchResult, Entry, Kind, Point
from sparsekd.bench.tables import absent_lines
from sparsekd.bench.time_split import TimeSplit
from sparsekd.bench.variants import Agreement, Variant
from sparsekd.benchmark import MARK, digits, format_ratio, format_times
from sparsekd.environment import busy_note, where_text

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

__all__ = ["ModelBenchResult", "ModelFigures"]

_RIVALS: tuple[Kind, ...] = ("dense fp32", "dense int8")


@dataclass(frozen=True)
class ModelFigures:
    """One model and our variants of it.

    Attributes:
        note: what has to stand beside these figures.
        parameters: of the float model.
        splits: where the time of our networks of int8 convolutions goes; empty for others.
    """

    name: str
    note: str
    parameters: int
    variants: tuple[Variant, ...]
    splits: tuple[TimeSplit, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Everything but the models, as plain JSON types."""
        return {
            "model": self.name,
            "note": self.note,
            "parameters": self.parameters,
            "variants": [variant.to_dict() for variant in self.variants],
            "splits": [split.to_dict() for split in self.splits],
        }

    def times(self, points: Sequence[Point]) -> Table:
        """Every engine's time at every point of this model."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table("case", "engine", box=box.SIMPLE_HEAD)
        for head in ("median ms", "p10..p90 ms", "error", *(f"vs best\n{k}" for k in _RIVALS)):
            table.add_column(head, justify="right", no_wrap=True)
        for point in points:
            for entry in point.entries:
                verdicts = [_verdict(point, entry, kind) for kind in _RIVALS]
                times = format_times(entry.samples)
                error = f"{entry.error:.1e}"
                table.add_row(point.case["case"], entry.name, *times, error, *verdicts)
            table.add_section()
        table.caption = Text("\n".join(absent_lines(points)))  # Text: "[bench]" is no colour
        table.caption_justify = "left"
        return table

    def time_table(self) -> Table:
        """Where the time of our networks goes, a line for each case and variant."""
        from rich import box
        from rich.table import Table

        title = f"{self.name}: where the time goes, ms (share of the whole)"
        table = Table("case", "variant", title=title, title_justify="left", box=box.SIMPLE_HEAD)
        for head in ("whole", "kernels,\nu8 in and out", "fp32 edges\nof the layers", "between"):
            table.add_column(head, justify="right", no_wrap=True)
        for split in self.splits:
            parts = (split.kernels, split.edges, split.between)
            told = [f"{_ms(part)} ({part / split.whole:.0%})" for part in parts]
            table.add_row(split.case, split.variant, _ms(split.whole), *told)
        table.caption = (
            "kernels: each layer alone on u8 images; edges: quantizing inputs and writing fp32\n"
            "instead; between: torch's additions, pooling and Python; with clocks around layers"
        )
        table.caption_justify = "left"
        return table

    def checks(self) -> Table:
        """What was converted and verified, and how far the outputs are from the float model's."""
        from rich import box
        from rich.table import Table

        title = f"{self.name}, {self.parameters:,} parameters; {self.note}"
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
        for head in ("variant", "modules", "engine against fake quantization", "cosines"):
            table.add_column(head)
        for variant in self.variants:
            counts = [f"{count} {name}" for name, count in variant.coverage_counts().items()]
            cosines = [f"to float: {_short(variant.to_float)}"]
            if variant.sparsity:
                cosines.append(f"pruned fp32 to float: {_short(variant.pruned_to_float)}")
                cosines.append(f"to pruned fp32: {_short(variant.to_pruned)}")
            table.add_row(variant.name, "\n".join(counts), _verdict_of(variant), "\n".join(cosines))
        notes = dict.fromkeys(note for variant in self.variants for note in variant.coverage.notes)
        table.caption = "\n".join(["cosines: mean / 1st percentile, over the outputs", *notes])
        table.caption_justify = "left"
        return table


def _ms(seconds: float) -> str:
    return digits(1e3 * seconds)


def _short(value: Agreement) -> str:
    return f"{value.mean:.4f} / {value.low:.4f}"


def _verdict_of(variant: Variant) -> str:
    checks = variant.verified
    equal = sum(check.ok for check in checks.layers)
    text = f"{equal} of {len(checks.layers)} layers hold"
    exact = sum(check.rule == "exact" and not check.differ for check in checks.layers)
    text += f",\n{exact} bit for bit;\noutput: "
    output = checks.output
    if not output.differ:
        text += "bit for bit"
    else:
        text += f"{output.differ} of {output.values} differ"
    return text if checks.ok else f"[red]NOT verified[/red]: {text}"


def _verdict(point: Point, entry: Entry, kind: Kind) -> str:
    if not entry.ours:
        return "best" if entry is point.best(kind) else ""
    ratio = point.ratio(entry, kind)
    if ratio is None:
        return "-"
    return f"[red]{format_ratio(ratio)}[/red]" if ratio < 1 else format_ratio(ratio)


@dataclass(frozen=True)
class ModelBenchResult(BenchResult):
    """Every model."""

    models: tuple[ModelFigures, ...] = ()

    what = "model"

    @property
    def verified(self) -> bool:
        """Whether every variant of every model holds against its torch reference."""
        return all(variant.verified.ok for model in self.models for variant in model.variants)

    def points_of(self, model: str) -> list[Point]:
        """The points of one model."""
        return [point for point in self.points if point.case["model"] == model]

    def extra(self) -> dict[str, Any]:
        return {"models": [model.to_dict() for model in self.models]}

    def __rich__(self) -> Group:
        from rich.console import Group

        tail = [
            f"ratio: time of the best other engine over ours; {MARK} we are slower",
            "error: of the output, relative, root mean square, against float64 of the same weights",
            busy_note(self.environment),
        ]
        tables = [
            table
            for model in self.models
            for table in (model.checks(), model.times(self.points_of(model.name)))
        ]
        tables += [model.time_table() for model in self.models if model.splits]
        return Group(where_text(self.environment), *tables, "\n".join(filter(None, tail)))
