"""What the quickstart found, and how it is told: with its spread, and with every loss marked."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sparsekd.benchmark import MARK, Samples, format_ratio, format_times
from sparsekd.convert import ConversionReport
from sparsekd.environment import busy_note, where_text

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

__all__ = ["ModelRow", "QuickstartResult", "gain"]


@dataclass(frozen=True)
class ModelRow:
    """One model on one runtime.

    Attributes:
        correct: images in the right class, for each seed; of ``images`` each time.
        kept: parameters that are not pruned, of ``parameters``.
        latency: times for each batch size, by "batch 1" and so on.
    """

    model: str
    runtime: str
    correct: tuple[int, ...]
    images: int
    kept: int
    parameters: int
    file_bytes: int
    latency: Mapping[str, Samples]

    @property
    def name(self) -> str:
        return f"{self.model}, {self.runtime}"

    @property
    def accuracy(self) -> float:
        """Mean over the seeds, 0..1."""
        return statistics.mean(self.correct) / self.images

    @property
    def accuracy_sd(self) -> float:
        """Standard deviation over the seeds, 0 where there is but one."""
        return statistics.stdev(self.correct) / self.images if len(self.correct) > 1 else 0.0

    def to_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "runtime": self.runtime,
            "accuracy_mean": self.accuracy,
            "accuracy_sd": self.accuracy_sd,
            "correct": list(self.correct),
            "images": self.images,
            "parameters_kept": self.kept,
            "parameters": self.parameters,
            "file_bytes": self.file_bytes,
            "latency": {case: samples.to_dict() for case, samples in self.latency.items()},
        }


def gain(better: ModelRow, base: ModelRow) -> str:
    """One sentence on the difference in accuracy; one is claimed only outside the spread.

    The spread is one standard deviation of the difference: over the seeds, and from the finite
    number of test images (binomial), which more seeds do not shrink.

    >>> print(gain(distilled, labels_only))
    distilled over labels only: +0.12 points, spread 0.74: no difference claimed
    """
    head = f"{better.model} over {base.model}"
    points = 100 * (better.accuracy - base.accuracy)
    if min(len(better.correct), len(base.correct)) < 2:
        return f"{head}: {points:+.2f} points; one seed has no spread: no difference claimed"
    variances = [
        row.accuracy_sd**2 + row.accuracy * (1.0 - row.accuracy) / row.images
        for row in (better, base)
    ]
    spread = 100 * math.sqrt(sum(variances))
    claim = "no difference claimed" if abs(points) <= spread else "outside the spread"
    return f"{head}: {points:+.2f} points, spread {spread:.2f}: {claim}"


@dataclass(frozen=True)
class QuickstartResult:
    """All figures of a run. rich renders it as one table with its notes.

    Attributes:
        rows: the reference of the ratios is ``rows[reference]``, the engine's row the last.
        checks: name of each verification to its report, as JSON types; each has "ok".
        conversion: which module of the compressed student became what.
        seconds: wall time of the whole run.
        notes: what could not be done, such as a picture without matplotlib.
        files: what was written.
    """

    rows: tuple[ModelRow, ...]
    reference: int
    checks: Mapping[str, Mapping[str, Any]]
    conversion: ConversionReport
    settings: Mapping[str, Any]
    environment: Mapping[str, Any]
    seconds: float
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()

    @property
    def verified(self) -> bool:
        """True when every verification passed."""
        return all(check["ok"] for check in self.checks.values())

    def ratio(self, row: ModelRow, case: str, base: ModelRow | None = None) -> float:
        """Time of ``base`` (the reference) over that of ``row``; above 1 ``row`` is faster."""
        base = self.rows[self.reference] if base is None else base
        return base.latency[case].median / row.latency[case].median

    def to_dict(self) -> dict[str, Any]:
        """Everything, raw samples included, as plain JSON types."""
        rows = [
            row.to_dict() | {"ratio": {case: self.ratio(row, case) for case in row.latency}}
            for row in self.rows
        ]
        return {
            "rows": rows,
            "reference": self.rows[self.reference].name,
            "gains": self._gains(),
            "verified": self.verified,
            "checks": {name: dict(check) for name, check in self.checks.items()},
            "conversion": self.conversion.to_dict(),
            "settings": dict(self.settings),
            "environment": dict(self.environment),
            "seconds": self.seconds,
            "notes": list(self.notes),
        }

    def to_json(self) -> str:
        """:meth:`to_dict` as text."""
        return json.dumps(self.to_dict(), indent=1)

    def __rich__(self) -> Group:
        from rich.console import Group

        seeds = len(self.rows[0].correct)
        model = self.settings["model"]
        head = f"UCI digits, {model}, {seeds} seed{'s' * (seeds > 1)}; "
        head += where_text(self.environment)
        return Group(head, self._table(), *self._lines(), self._coverage(), self._end())

    def _table(self) -> Table:
        """Two lines a row, so that it fits into 80 columns."""
        from rich import box
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_lines=True)
        table.add_column("model\nruntime")
        cases = [f"{case}\nms" for case in self.rows[0].latency]
        for name in ("accuracy, %\ncorrect", "kept\nfile", *cases):
            table.add_column(name, justify="right", no_wrap=True)
        for row in self.rows:
            model = row.model.replace(" + ", "\n+ ", 1)
            table.add_row(f"{model}\n[dim]{row.runtime}[/dim]", *self._cells(row))
        return table

    def _cells(self, row: ModelRow) -> list[str]:
        several = len(row.correct) > 1
        spread = f" \u00b1 {100 * row.accuracy_sd:.2f}" if several else ""
        cells = [
            f"{100 * row.accuracy:.2f}{spread}\n"
            f"{sum(row.correct)} of {row.images * len(row.correct)}",
            f"{row.kept / 1e6:.2f} M\n{row.file_bytes / 1e3:,.0f} kB",
        ]
        for case, samples in row.latency.items():
            ratio = self.ratio(row, case)
            text = format_ratio(ratio)
            shown = f"[red]{text}[/red]" if ratio < 1 else text
            cells.append(f"{format_times(samples)[0]}\n{shown}")
        return cells

    def _gains(self) -> list[str]:
        """Each way of training the student against the one before; teacher first, engine last."""
        by_model: dict[str, ModelRow] = {}
        for row in self.rows[1:]:
            by_model.setdefault(row.model, row)  # a model is what its first runtime makes of it
        return [gain(after, before) for before, after in pairwise(by_model.values())]

    def _lines(self) -> list[str]:
        base, engine = self.rows[self.reference], self.rows[-1]
        lines = [
            f"kept: parameters that are not pruned, of {base.parameters / 1e6:.2f} M a student",
            f"x: time of '{base.name}' over time of the model; {MARK} slower",
        ]
        for row in self.rows:
            if row.model == base.model and row is not base:
                ratios = [format_ratio(self.ratio(engine, case, row)) for case in row.latency]
                cases = ", ".join(row.latency)
                lines.append(f"{engine.runtime} over {row.runtime}: {', '.join(ratios)} ({cases})")
        lines += self._gains()
        good = sum(bool(check["ok"]) for check in self.checks.values())
        verdict = "equal to torch bit for bit" if self.verified else "NOT VERIFIED"
        lines.append(f"verification: {good} of {len(self.checks)} passed, {verdict}")
        notes = [*self.notes, busy_note(self.environment)]
        return lines + [f"note: {note}" for note in notes if note]

    def _coverage(self) -> Table:
        """Each module of the compressed student and what it runs on now."""
        from rich import box
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in ("module", "kind", "runs on", "zeros", "why"):
            justify: Literal["right", "left"] = "right" if name == "zeros" else "left"
            table.add_column(name, justify=justify, no_wrap=name != "why")
        for row in self.conversion.rows:
            zeros = "" if row.sparsity is None else f"{row.sparsity:.1%}"
            kind = row.kind.removeprefix("FakeQuant")
            runs_on = f"{row.kernel} {row.scheme.split()[0]}" if row.scheme else row.kernel
            table.add_row(row.name, kind, runs_on, zeros, row.reason)
        return table

    def _end(self) -> str:
        files = ", ".join(str(path) for path in self.files)
        return f"{self.seconds:.0f} s; {files}" if files else f"{self.seconds:.0f} s"
