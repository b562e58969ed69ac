"""What a verification found: numbers, verdicts and their table."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

__all__ = ["Check", "Tally", "VerifyReport"]

_ULPS, _SLACK = 4, 1e-7  # GELU and SiLU, docs/numerics.md


@dataclass(frozen=True)
class Check:
    """One comparison: an engine layer on the reference's input, or the whole model's output.

    Attributes:
        name: the layer, or "(output)".
        rule: "exact" (bit for bit), "4 ulp" (4 ulp + 1e-7), "bound" (fp32 and bf16: the error that
            rounding can cause, each output) or "reported" (no tolerance is stated).
        calls: how often the reference ran the layer; 0 means that nothing was verified.
        values: how many numbers were compared.
        differ: how many of them break the rule; for "reported" how many are not equal.
        integers_differ: how many quantized inputs differ between the two whole-model runs;
            None where the reference does not quantize.
        max_abs, relative: largest difference from the reference's own output, and that over its
            largest magnitude.
        cosine: cosine of the two, 1.0 when equal; taken over finite values.
        ok: the rule holds.
        reason: what is wrong, "" if nothing is.
    """

    name: str
    rule: str
    calls: int
    values: int
    differ: int
    integers_differ: int | None
    max_abs: float
    relative: float
    cosine: float
    ok: bool
    reason: str


@dataclass(frozen=True)
class VerifyReport:
    """The result of :func:`verify`; ``str()`` is a plain table, ``to_dict()`` JSON-ready.

    Attributes:
        layers: one check for every engine layer.
        output: the check of the whole model.
        ok: all of them hold.
    """

    layers: tuple[Check, ...]
    output: Check
    ok: bool

    def to_dict(self) -> dict[str, object]:
        """The checks as lists, dicts, strings and numbers."""
        return {
            "ok": self.ok,
            "layers": [asdict(check) for check in self.layers],
            "output": asdict(self.output),
        }

    def __str__(self) -> str:
        head = ("layer", "rule", "values", "differ", "integers", "max abs", "relative", "cosine")
        rows = [head] + [
            (
                check.name or "(model)",
                check.rule,
                str(check.values),
                str(check.differ),
                "-" if check.integers_differ is None else str(check.integers_differ),
                f"{check.max_abs:.3g}",
                f"{check.relative:.3g}",
                f"{check.cosine:.6f}",
            )
            for check in (*self.layers, self.output)
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        marks = ["", *(c.reason and f"  FAILED: {c.reason}" for c in (*self.layers, self.output))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            + mark
            for row, mark in zip(rows, marks, strict=True)
        ]
        verdict = "verified" if self.ok else "NOT verified"
        return "\n".join([*lines, f"{verdict}: {len(self.layers)} engine layers and the output"])


@dataclass
class Tally:
    """Running comparison of numbers with their reference under a rule."""

    rule: str
    bound: float | None
    values: int = 0
    differ: int = 0
    max_abs: float = 0.0
    largest: float = 0.0
    dot: float = 0.0
    norms: tuple[float, float] = (0.0, 0.0)
    reason: str = ""

    def add(self, got: Tensor, expected: Tensor, outside: int = 0) -> None:
        """Compare two tensors of any shape and dtype.

        Args:
            outside: how many break the rule "bound", which the caller knows.
        """
        if got.shape != expected.shape or got.dtype != expected.dtype:
            self.reason = (
                f"gives {got.dtype} {tuple(got.shape)}, "
                f"the reference {expected.dtype} {tuple(expected.shape)}"
            )
            return
        self.values += got.numel()
        same = (got == expected) | (got.isnan() & expected.isnan())
        if self.rule == "4 ulp":
            size = expected.abs()
            ulp = torch.nextafter(size, torch.full_like(size, torch.inf)) - size
            same |= (got - expected).abs() <= _ULPS * ulp + _SLACK
        self.differ += outside if self.rule == "bound" else int((~same).sum())
        lost = expected.isfinite() & ~got.isfinite()
        if self.rule == "reported" and bool(lost.any()):
            self.reason = "gives Inf or NaN where the reference is finite"
        finite = expected.isfinite() & got.isfinite()
        a, b = got[finite].double(), expected[finite].double()
        if a.numel():
            self.max_abs = max(self.max_abs, float((a - b).abs().max()))
            self.largest = max(self.largest, float(b.abs().max()))
            self.dot += float(a @ b)
            self.norms = (self.norms[0] + float(a @ a), self.norms[1] + float(b @ b))

    def check(self, name: str, calls: int, integers_differ: int | None) -> Check:
        """The verdict over everything that was added."""
        relative = self.max_abs / self.largest if self.largest else self.max_abs
        scale = (self.norms[0] * self.norms[1]) ** 0.5
        cosine = self.dot / scale if scale else float(self.norms[0] == self.norms[1])
        reason = self.reason
        if not calls:
            reason = reason or "never called on these inputs"
        if self.rule != "reported" and self.differ:
            reason = reason or f"{self.differ} of {self.values} values differ ({self.rule})"
        if self.rule == "reported" and self.bound is not None and relative > self.bound:
            reason = reason or f"relative error {relative:.3g} exceeds the bound {self.bound:g}"
        return Check(
            name=name,
            rule=self.rule,
            calls=calls,
            values=self.values,
            differ=self.differ,
            integers_differ=integers_differ,
            max_abs=self.max_abs,
            relative=relative,
            cosine=min(1.0, cosine),
            ok=not reason,
            reason=reason,
        )
