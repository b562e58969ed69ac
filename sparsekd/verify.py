"""Holds a converted model against its torch reference, layer by layer and as a whole.

What may differ is fixed in docs/numerics.md: against a fake-quantized reference nothing, or for
GELU, SiLU and Hardswish 4 ulp + 1e-7; against a float reference fp32 and bf16 what rounding can
cause, while int8 has an error, which is reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sparsekd.comparison import Check, Tally, VerifyReport
from sparsekd.modules import quant_spec
from sparsekd.nn import Conv1d, Conv2d, EngineModule, Linear
from sparsekd.numerics import ACTIVATIONS, quantize_affine, quantize_rows, quantize_samples
from sparsekd.rounding import EngineLayer, Norm, outside_bound, wrong_weights
from sparsekd.spec import Int8

__all__ = ["Check", "VerifyReport", "verify"]

_SEED = 0  # models that draw numbers in eval draw the same ones in both runs
_SMOOTH = ("gelu", "silu", "hardswish")  # where the engine's last bits are not torch's
_KINDS: dict[type[nn.Module], type[nn.Module]] = {
    Linear: nn.Linear,
    Conv1d: nn.Conv1d,
    Conv2d: nn.Conv2d,
}
_SIZES = ("in_features", "out_features", "in_channels", "out_channels", "groups")
_TUPLES = ("kernel_size", "stride", "padding", "dilation")


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
            float (fp32 and bf16 are held to what rounding can cause, in the weights and in each
            output; the int8 error is reported), or itself with engine layers.
        inputs: one tensor, a tuple of positional arguments or a dict of keyword arguments.
        bound: largest relative error that is ok where no equality is promised; None: any finite.

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
        watches = [_Watch(*pair, bound) for pair in pairs]
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
class _Watch:
    """Compares one engine layer with its reference layer whenever the latter runs."""

    name: str
    engine: EngineLayer
    layer: nn.Module
    norm: Norm  # the reference's BatchNorm that is part of the engine layer
    bound: float | None
    tally: Tally = field(init=False)
    integers: list[Tensor] = field(default_factory=list)
    calls: int = 0
    differ: int = 0
    rerun: int = 0

    def __post_init__(self) -> None:
        self.tally = Tally(self._rule(), self.bound)
        if self.tally.rule == "bound":
            wrong = wrong_weights(self.engine, self.layer, self.norm)
            if wrong:
                self.tally.reason = f"{wrong} weights are not the reference's"

    def _rule(self) -> str:
        engine, layer = self.engine, self.layer
        if isinstance(layer, EngineModule):
            # int8 kernels agree to the bit; the others add up in orders of their own
            same = isinstance(engine.scheme, Int8) or engine.kernel == layer.kernel
            return "exact" if same and engine.scheme == layer.scheme else "reported"
        if not isinstance(engine.scheme, Int8):
            return "bound" if quant_spec(layer) is None else "reported"
        if quant_spec(layer) is None or self.norm is not None:
            return "reported"
        return "4 ulp" if engine.activation in _SMOOTH else "exact"

    def on_reference(
        self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], expected: Tensor
    ) -> None:
        """Forward hook of the reference layer."""
        x = _single(args, kwargs)
        if not isinstance(self.layer, EngineModule):
            if self.norm is not None:
                expected = self.norm.forward(expected)  # not called: hooks would see it twice
            if self.engine.activation is not None:
                expected = ACTIVATIONS[self.engine.activation](expected)
        try:
            got = self.engine(x)
        except Exception as error:
            raise RuntimeError(f"engine layer {self.name!r} fails: {error}") from error
        self.calls += 1
        outside = outside_bound(self.engine, x, got) if self.tally.rule == "bound" else 0
        self.tally.add(got, expected, outside)
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
        return self.tally.rule in ("exact", "4 ulp") and isinstance(self.engine.scheme, Int8)

    def _quantize(self, x: Tensor) -> Tensor:
        """The integers of an input, one byte each."""
        scale, zero = self.engine.input_scale, self.engine.input_zero_point
        if scale is not None and zero is not None:
            return quantize_affine(x, scale, zero).to(torch.uint8)
        if isinstance(self.engine, Linear):
            return quantize_rows(x)[0].to(torch.int8)
        batched = x.dim() == self.engine.dims + 2
        return quantize_samples(x if batched else x[None])[0].to(torch.int8)


def _match(
    converted: nn.Module, reference: nn.Module
) -> list[tuple[str, EngineLayer, nn.Module, Norm]]:
    """(name, engine layer, reference layer, its BatchNorm if folded) for every engine layer."""
    theirs = dict(reference.named_modules(remove_duplicate=False))
    norms: dict[int, _BatchNorm] = {}
    for name, module in converted.named_modules():
        norm = theirs.get(name)
        # What convert leaves in the place of a BatchNorm; an engine reference holds the same.
        if getattr(type(module), "is_folded_norm", False) and isinstance(norm, _BatchNorm):
            norms[id(module.engine)] = norm
    found: list[tuple[str, EngineLayer, nn.Module, Norm]] = []
    for name, engine in converted.named_modules():
        if not isinstance(engine, EngineLayer):
            continue
        layer, norm = theirs.get(name), norms.get(id(engine))
        if not isinstance(layer, (type(engine), _KINDS[type(engine)])):
            what = "no such module" if layer is None else f"a {type(layer).__name__} there"
            raise ValueError(f"engine layer {name!r}: the reference has {what}")
        ours, other = _sizes(engine), _sizes(layer)
        if norm is not None:
            other["bias"] = True
        if ours != other:
            listed = ", ".join(
                f"{key} {ours[key]}, the reference {other[key]}"
                for key in ours
                if ours[key] != other[key]
            )
            raise ValueError(f"engine layer {name!r} has {listed}")
        if isinstance(layer, EngineModule) and layer.activation != engine.activation:
            raise ValueError(
                f"engine layer {name!r} has activation {engine.activation!r}, "
                f"the reference {layer.activation!r}"
            )
        found.append((name, engine, layer, norm))
    if not found:
        raise ValueError(
            "the converted model has no engine layer, so there is nothing to verify; "
            "its sparsekd_report says why each layer stayed torch"
        )
    return found


def _sizes(layer: nn.Module) -> dict[str, object]:
    """What two layers must have in common to take the same inputs."""
    sizes: dict[str, object] = {k: getattr(layer, k) for k in _SIZES if hasattr(layer, k)}
    dims = len(getattr(layer, "kernel_size", ()))
    for key in _TUPLES if dims else ():
        value = getattr(layer, key)
        sizes[key] = (value,) * dims if isinstance(value, int) else value
    return {**sizes, "bias": getattr(layer, "bias", None) is not None}


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
    """The one input of a layer, however it was passed."""
    x = args[0] if args else next(iter(kwargs.values()))
    if not isinstance(x, Tensor):
        raise TypeError(f"a layer was called with {type(x).__name__} instead of a tensor")
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
    tally = Tally(rule, bound)
    for place in got.keys() & expected.keys():
        tally.add(got[place], expected[place])
    if got.keys() != expected.keys():
        tally.reason = "holds other tensors than the reference's output"
    return tally.check("(output)", len(expected), None)
