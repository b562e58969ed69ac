"""What ``sparsekd bench model`` found, and how it is told."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsekd.bench.peers import Kind
from sparsekd.bench.result import Entry
from sparsekd.bench.variants import Agreement, Variant
from sparsekd.benchmark import MARK, format_ratio, format_times
from sparsekd.environment import busy_note, where_text

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

__all__ = ["ModelBenchResult", "ModelCase", "ModelFigures"]

_RIVALS: tuple[Kind, ...] = ("dense fp32", "dense int8")


@dataclass(frozen=True)
class ModelCase:
    """All engines on one model and one shape of inputs.

    Attributes:
        entries: ``error`` is that of the model's output.
        absent: name of each engine without a time, and why it has none.
    """

    name: str
    entries: tuple[Entry, ...]
    absent: Mapping[str, str] = field(default_factory=dict)

    def best(self, kind: Kind) -> Entry | None:
        """The fastest of the others of that kind, None where there is none."""
        rivals = [entry for entry in self.entries if entry.kind == kind and not entry.ours]
        return min(rivals, key=lambda entry: entry.samples.median, default=None)

    def ratio(self, entry: Entry, kind: Kind) -> float | None:
        """Time of the best of that kind over time of this entry; above 1 it is faster."""
        best = self.best(kind)
        return best.samples.median / entry.samples.median if best else None

    def to_dict(self) -> dict[str, Any]:
        """Everything, raw samples included, as plain JSON types."""
        return {
            "case": self.name,
            "engines": [self._entry_dict(entry) for entry in self.entries],
            "absent": dict(self.absent),
        }

    def _entry_dict(self, entry: Entry) -> dict[str, Any]:
        ratios = {f"ratio to best {kind}": self.ratio(entry, kind) for kind in _RIVALS}
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


@dataclass(frozen=True)
class ModelFigures:
    """One model: our variants of it and the times of everyone.

    Attributes:
        note: what has to stand beside these figures.
        parameters: of the float model.
    """

    name: str
    note: str
    parameters: int
    variants: tuple[Variant, ...]
    cases: tuple[ModelCase, ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything but the models, as plain JSON types."""
        return {
            "model": self.name,
            "note": self.note,
            "parameters": self.parameters,
            "variants": [variant.to_dict() for variant in self.variants],
            "cases": [case.to_dict() for case in self.cases],
        }

    def times(self) -> Table:
        """Every engine's time on every case."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table("case", "engine", box=box.SIMPLE_HEAD)
        for head in ("median ms", "p10..p90 ms", "error", *(f"vs best\n{k}" for k in _RIVALS)):
            table.add_column(head, justify="right", no_wrap=True)
        for case in self.cases:
            for entry in case.entries:
                verdicts = [_verdict(case, entry, kind) for kind in _RIVALS]
                times = format_times(entry.samples)
                table.add_row(case.name, entry.name, *times, f"{entry.error:.1e}", *verdicts)
            table.add_section()
        absent = [
            f"{case.name}, {name}: {why}"
            for case in self.cases
            for name, why in case.absent.items()
        ]
        table.caption = Text("\n".join(absent))  # Text: "[bench]" is no colour
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


def _verdict(case: ModelCase, entry: Entry, kind: Kind) -> str:
    if not entry.ours:
        return "best" if entry is case.best(kind) else ""
    ratio = case.ratio(entry, kind)
    if ratio is None:
        return "-"
    return f"[red]{format_ratio(ratio)}[/red]" if ratio < 1 else format_ratio(ratio)


@dataclass(frozen=True)
class ModelBenchResult:
    """Every model, with the settings and the environment.

    Attributes:
        files: what was written.
    """

    models: tuple[ModelFigures, ...]
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]
    files: tuple[Path, ...] = ()

    @property
    def verified(self) -> bool:
        """Whether every variant of every model holds against its torch reference."""
        return all(variant.verified.ok for model in self.models for variant in model.variants)

    def to_dict(self) -> dict[str, Any]:
        """Everything, raw samples included, as plain JSON types."""
        return {
            "settings": dict(self.settings),
            "environment": dict(self.environment),
            "models": [model.to_dict() for model in self.models],
        }

    def to_json(self) -> str:
        """:meth:`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=1)

    def __rich__(self) -> Group:
        from rich.console import Group

        tail = [
            f"ratio: time of the best other engine over ours; {MARK} we are slower",
            "error: of the output, relative, root mean square, against float64 of the same weights",
            busy_note(self.environment),
        ]
        tables = [table for model in self.models for table in (model.checks(), model.times())]
        return Group(where_text(self.environment), *tables, "\n".join(filter(None, tail)))
