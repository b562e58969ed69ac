"""The coverage report: one row for every leaf module of a converted model."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass

from sparsekd.choice import TuneReport, plain_table

__all__ = ["ConversionReport", "ConversionRow"]


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
        filled: of a windowed layer, the share of its slots that holds kept weights, 0..1; the rest
            is padding, which takes as much time.
    """

    name: str
    kind: str
    kernel: str
    scheme: str | None
    activation: str | None
    sparsity: float | None
    reason: str
    filled: float | None = None


@dataclass(frozen=True)
class ConversionReport:
    """Which module became what, and why; :func:`sparsekd.convert` hangs it on its result.

    ``str(report)`` is a plain table, ``to_dict()`` the same as JSON-ready data.

    Attributes:
        rows: one per leaf module, in the model's order.
        notes: what holds for the whole model, such as a data flow that could not be traced.
        tuning: what was measured to choose the kernels; None where nothing was.

    >>> converted = sparsekd.convert(model, scheme="int8")
    >>> print(converted.sparsekd_report)
    """

    rows: tuple[ConversionRow, ...]
    notes: tuple[str, ...] = ()
    tuning: TuneReport | None = None

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
        """Rows, notes and measurements as lists, dicts, strings and numbers."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "notes": list(self.notes),
            "tuning": None if self.tuning is None else self.tuning.to_dict(),
        }

    def __str__(self) -> str:
        head = ("module", "kind", "kernel", "scheme", "activation", "sparsity", "filled", "reason")
        cells = [
            (
                row.name or "(model)",
                row.kind,
                row.kernel,
                row.scheme or "-",
                row.activation or "-",
                "-" if row.sparsity is None else f"{row.sparsity:.1%}",
                "-" if row.filled is None else f"{row.filled:.0%}",
                row.reason,
            )
            for row in self.rows
        ]
        counts = Counter(row.kernel for row in self.rows)
        total = ", ".join(f"{count} {kernel}" for kernel, count in sorted(counts.items()))
        notes = [f"note: {note}" for note in self.notes]
        return "\n".join([plain_table(head, cells), total or "no modules", *notes])
