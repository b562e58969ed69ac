"""The coverage report: one row for every leaf module of a converted model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

__all__ = ["ConversionReport", "ConversionRow", "plain_table"]


@dataclass(frozen=True)
class ConversionRow:
    """What became of one module.

    Attributes:
        name: dotted name of the module in the model, "" for the model itself.
        kind: class of the module before conversion.
        kernel: a kernel of the engine, "fused" (an activation that runs inside the engine layer
            before it), "folded" (a BatchNorm, likewise) or "torch" (left as it was).
        scheme: the arithmetic of an engine layer: "int8 dynamic", "int8 static", "fp32" or "bf16".
        activation: the activation that the engine layer took in, else None.
        sparsity: share of the weights that are zero, 0..1; None for modules without a weight.
        reason: why, in a few words.
    """

    name: str
    kind: str
    kernel: str
    scheme: str | None
    activation: str | None
    sparsity: float | None
    reason: str


@dataclass(frozen=True)
class ConversionReport:
    """Which module became what, and why; :func:`sparsekd.convert` hangs it on its result.

    ``str(report)`` is a plain table, ``to_dict()`` the same as JSON-ready data.

    Attributes:
        rows: one per leaf module, in the model's order.
        notes: what holds for the whole model, such as a data flow that could not be traced.

    >>> converted = sparsekd.convert(model, scheme="int8")
    >>> print(converted.sparsekd_report)
    """

    rows: tuple[ConversionRow, ...]
    notes: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> ConversionRow:
        """The row of one module.

        Raises:
            KeyError: no row has that name.
        """
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"no row named {name!r} in the conversion report")

    def to_dict(self) -> dict[str, object]:
        """Rows and notes as lists, dicts, strings and numbers."""
        return {"rows": [asdict(row) for row in self.rows], "notes": list(self.notes)}

    def __str__(self) -> str:
        head = ("module", "kind", "kernel", "scheme", "activation", "sparsity", "reason")
        cells = [
            (
                row.name or "(model)",
                row.kind,
                row.kernel,
                row.scheme or "-",
                row.activation or "-",
                "-" if row.sparsity is None else f"{row.sparsity:.1%}",
                row.reason,
            )
            for row in self.rows
        ]
        counts = Counter(row.kernel for row in self.rows)
        total = ", ".join(f"{count} {kernel}" for kernel, count in sorted(counts.items()))
        notes = [f"note: {note}" for note in self.notes]
        return "\n".join([plain_table(head, cells), total or "no modules", *notes])


def plain_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned columns, two spaces apart, under a ruled head."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        return "  ".join(cells).rstrip()

    return "\n".join([line(head), "  ".join("-" * width for width in widths), *map(line, rows)])
