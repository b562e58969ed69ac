"""Holds a converted model against its torch reference, layer by layer and as a whole.

What may differ is fixed in docs/numerics.md: against a fake-quantized reference nothing, or for
GELU and SiLU 4 ulp + 1e-7; against a float reference int8 has an error, which is reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sparsekd.modules import quant_spec
from sparsekd.nn import Linear
from sparsekd.numerics import ACTIVATIONS, quantize_affine, quantize_rows
from sparsekd.spec import Int8

__all__ = ["Check", "VerifyReport", "verify"]

_ULPS, _SLACK = 4, 1e-7  # GELU and SiLU, docs/numerics.md
_SEED = 0  # models that draw numbers in eval draw the same ones in both runs


@dataclass(frozen=True)
class Check:
    """One comparison: an engine layer on the reference's input, or the whole model's output.

    Attributes:
        name: the layer, or "(output)".
        rule: "exact" (bit for bit), "4 ulp" (4 ulp + 1e-7) or "reported" (no tolerance is stated).
        calls: how often the reference ran the layer; 0 means that nothing was verified.
        values: how many numbers were compared.
        differ: how many of them break the rule; for "reported" how many are not equal.
        integers_differ: how many quantized inputs differ between the two whole-model runs;
            None where the reference does not quantize.
        max_abs, relative: largest absolute error, and that over the reference's largest magnitude.
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


def verify(
    converted: nn.Module,
    reference: nn.Module,
    inputs: object,
    *,
    bound: float | None = None,
) -> VerifyReport:
    """Run every engine layer on the input that the reference gives it, then the whole model.

    Both models run in eval mode without gradients, and are left as they were.

    Args:
        converted: a model with engine layers, from ``convert`` or ``load``.
        reference: the model that it came from: fake-quantized (then the integers must be equal),
            float (then the int8 error is reported), or itself with engine layers.
        inputs: one tensor, a tuple of positional arguments or a dict of keyword arguments.
        bound: largest relative error that is ok where errors are only reported; None: any finite.

    Returns:
        the report; ``ok`` is False also for an engine layer that these inputs never reach.

    Raises:
        ValueError: no engine layer, or names or shapes of the two models do not match.
        TypeError: ``inputs`` is none of the three.

    >>> report = sparsekd.verify(converted, model, torch.randn(8, 64))
    >>> print(report); assert report.ok
    """
    args, kwargs = _arguments(inputs)
    pairs = _match(converted, reference)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(_eval_mode(converted, reference))
        watches = [_Watch(name, engine, layer, bound) for name, engine, layer in pairs]
        for watch in watches:
            hook = watch.layer.register_forward_hook(watch.on_reference, with_kwargs=True)
            stack.callback(hook.remove)
        expected = _run(reference, args, kwargs)
        # Only now: the hooks above call the engine layers too.
        for watch in watches:
            before = watch.engine.register_forward_pre_hook(watch.on_converted, with_kwargs=True)
            stack.callback(before.remove)
        got = _run(converted, args, kwargs)
    layers = tuple(watch.check() for watch in watches)
    exact = all(check.rule == "exact" for check in layers)
    output = _check_output(got, expected, "exact" if exact else "reported", bound)
    return VerifyReport(layers, output, output.ok and all(check.ok for check in layers))


@dataclass
class _Tally:
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

    def add(self, got: Tensor, expected: Tensor) -> None:
        """Compare two tensors of any shape and dtype."""
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
        self.differ += int((~same).sum())
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


@dataclass
class _Watch:
    """Compares one engine layer with its reference layer whenever the latter runs."""

    name: str
    engine: Linear
    layer: nn.Module
    bound: float | None
    tally: _Tally = field(init=False)
    integers: list[Tensor] = field(default_factory=list)
    calls: int = 0
    differ: int = 0
    rerun: int = 0

    def __post_init__(self) -> None:
        exact = isinstance(self.layer, Linear) or quant_spec(self.layer) is not None
        rule = "exact" if exact else "reported"
        smooth = self.engine.activation in ("gelu", "silu")
        if exact and smooth and not isinstance(self.layer, Linear):
            rule = "4 ulp"  # two engine layers agree to the bit, torch's GELU and SiLU do not
        self.tally = _Tally(rule, self.bound)

    def on_reference(
        self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], expected: Tensor
    ) -> None:
        """Forward hook of the reference layer."""
        x = _single(args, kwargs)
        if self.engine.activation is not None and not isinstance(self.layer, Linear):
            expected = ACTIVATIONS[self.engine.activation](expected)
        try:
            got = self.engine(x)
        except Exception as error:
            raise RuntimeError(f"engine layer {self.name!r} fails: {error}") from error
        self.calls += 1
        self.tally.add(got, expected)
        if self._counts:
            self.integers.append(self._quantize(x))

    def on_converted(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the engine layer in the converted model."""
        self.rerun += 1
        if self.rerun > len(self.integers):
            return
        ours, theirs = self._quantize(_single(args, kwargs)), self.integers[self.rerun - 1]
        if ours.shape == theirs.shape:
            self.differ += int((ours != theirs).sum())
        else:
            self.tally.reason = f"has input {tuple(ours.shape)} instead of {tuple(theirs.shape)}"

    def check(self) -> Check:
        """The verdict on this layer."""
        if self.rerun != self.calls:
            self.tally.reason = (
                f"runs {self.rerun} times in the converted model, {self.calls} in the reference"
            )
        return self.tally.check(self.name, self.calls, self.differ if self._counts else None)

    @property
    def _counts(self) -> bool:
        """Whether both sides quantize their inputs, so that the integers can be compared."""
        return self.tally.rule != "reported" and isinstance(self.engine.scheme, Int8)

    def _quantize(self, x: Tensor) -> Tensor:
        """The integers of an input, one byte each."""
        scale, zero = self.engine.input_scale, self.engine.input_zero_point
        if scale is None or zero is None:  # dynamic
            return quantize_rows(x)[0].to(torch.int8)
        return quantize_affine(x, scale, zero).to(torch.uint8)


def _match(converted: nn.Module, reference: nn.Module) -> list[tuple[str, Linear, nn.Module]]:
    """(name, engine layer, reference layer) for every engine layer."""
    theirs = dict(reference.named_modules(remove_duplicate=False))
    found: list[tuple[str, Linear, nn.Module]] = []
    for name, engine in converted.named_modules():
        if not isinstance(engine, Linear):
            continue
        layer = theirs.get(name)
        if not isinstance(layer, (Linear, nn.Linear)):
            what = "no such module" if layer is None else f"a {type(layer).__name__} there"
            raise ValueError(f"engine layer {name!r}: the reference has {what}")
        ours, other = ((m.in_features, m.out_features, m.bias is not None) for m in (engine, layer))
        if ours != other:
            raise ValueError(
                f"engine layer {name!r} has (in, out, bias) {ours}, the reference {other}"
            )
        if isinstance(layer, Linear) and layer.activation != engine.activation:
            raise ValueError(
                f"engine layer {name!r} has activation {engine.activation!r}, "
                f"the reference {layer.activation!r}"
            )
        found.append((name, engine, layer))
    if not found:
        raise ValueError(
            "the converted model has no engine layer, so there is nothing to verify; "
            "its sparsekd_report says why each layer stayed torch"
        )
    return found


def _arguments(inputs: object) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    if isinstance(inputs, tuple):
        return inputs, {}
    if isinstance(inputs, dict):
        return (), inputs
    raise TypeError(
        "inputs must be a tensor, a tuple of positional arguments or a dict of keyword "
        f"arguments, got {type(inputs).__name__}"
    )


def _single(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The one input of a linear layer, however it was passed."""
    x = args[0] if args else next(iter(kwargs.values()))
    if not isinstance(x, Tensor):
        raise TypeError(f"a linear layer was called with {type(x).__name__} instead of a tensor")
    return x


@contextmanager
def _eval_mode(*models: nn.Module) -> Iterator[None]:
    flags = [(module, module.training) for model in models for module in model.modules()]
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for module, training in flags:
            module.training = training


def _run(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors in a model's output by their place in it."""

    def own(value: Any) -> Any:  # forward code may write into its inputs
        return value.clone() if isinstance(value, Tensor) else value

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        output = model(*map(own, args), **{key: own(value) for key, value in kwargs.items()})
    return dict(_tensors(output, ""))


def _tensors(output: object, place: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(output, Tensor):
        yield place, output
    elif isinstance(output, Mapping):
        for key, part in output.items():
            yield from _tensors(part, f"{place}[{key!r}]")
    elif isinstance(output, (tuple, list)):
        for index, part in enumerate(output):
            yield from _tensors(part, f"{place}[{index}]")


def _check_output(
    got: dict[str, Tensor], expected: dict[str, Tensor], rule: str, bound: float | None
) -> Check:
    tally = _Tally(rule, bound)
    for place in got.keys() & expected.keys():
        tally.add(got[place], expected[place])
    if got.keys() != expected.keys():
        tally.reason = "holds other tensors than the reference's output"
    return tally.check("(output)", len(expected), None)
