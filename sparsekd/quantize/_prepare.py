"""``prepare_`` and ``remove_``: fake quantization put on a model's layers, and taken off again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from sparsekd.flow import weight_readers
from sparsekd.folding import find_folds, fold_
from sparsekd.modules import Selector, quant_spec, select
from sparsekd.quantize._fake_quant import RANGE_BUFFERS, FakeQuantLayer, FakeQuantLinear
from sparsekd.quantize._fake_quant_conv import FakeQuantConv1d, FakeQuantConv2d
from sparsekd.spec import Int8

__all__ = ["PrepareReport", "prepare_", "remove_"]

_FAKE: dict[type[nn.Module], type[FakeQuantLayer]] = {
    nn.Linear: FakeQuantLinear,
    nn.Conv1d: FakeQuantConv1d,
    nn.Conv2d: FakeQuantConv2d,
}
_FLOAT: dict[type[nn.Module], type[nn.Module]] = {fake: kind for kind, fake in _FAKE.items()}
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class PrepareReport:
    """What ``prepare_`` did; ``str()`` gives it in lines.

    Attributes:
        quantized: names of the layers that are fake-quantized now.
        skipped: (name, reason) of chosen layers that stay as they were.
        folded: (BatchNorm, layer) of each BatchNorm that was folded into a layer.
        notes: what else is worth knowing: a BatchNorm that stays, data flow that is not known.
    """

    quantized: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...] = ()
    folded: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{name or '(the model)'}: fake-quantized" for name in self.quantized]
        lines += [f"{name or '(the model)'}: left alone, {reason}" for name, reason in self.skipped]
        lines += [f"{norm}: folded into {layer}" for norm, layer in self.folded]
        lines += self.notes
        return "\n".join(lines)


def prepare_(
    model: nn.Module,
    scheme: Int8 | None = None,
    *,
    include: Selector | Iterable[Selector] = (),
    exclude: Selector | Iterable[Selector] = (),
    fold_bn: bool = True,
) -> PrepareReport:
    """Make layers compute with int8 weights and 8-bit activations, in place; they stay trainable.

    Only the class of a layer changes (``nn.Linear`` to ``FakeQuantLinear``, likewise ``nn.Conv1d``
    and ``nn.Conv2d``): its parameters and their names, its masks and its hooks stay, so an
    optimizer that holds them keeps working, and pruning before or after gives the same model.
    Static schemes add the range buffers, which ``calibrate`` or training fills.

    A BatchNorm is folded first, since folding it later would change the integers: when it is the
    only user of a chosen layer's output (read with ``torch.fx``; where tracing fails, its neighbour
    in an ``nn.Sequential``) and both are called once, its running statistics go into the layer's
    weight and bias (see :mod:`sparsekd.folding`), and a ``FoldedBatchNorm``, which does nothing,
    stands in its place. A
    layer without a bias gets one, so make the optimizer afterwards. Pruning before or after
    remains the same for n:m patterns; other scores compare the folded weights of several outputs.

    Args:
        model: any model.
        scheme: ``Int8()`` where None.
        include, exclude: layers by name glob or type; see :func:`sparsekd.modules.select`.
        fold_bn: fold each BatchNorm as above; False leaves them as they are.

    Returns:
        a report of the layers that are quantized and of those left alone, with the reason (a
        subclass of a layer, a layer whose parent reads its weight instead of calling it), and of
        what was folded.

    Raises:
        TypeError: ``scheme`` is no Int8, or a weight is not fp32, fp16 or bf16.
        ValueError: a selector matches nothing, there is no layer to quantize, a layer is
            fake-quantized already with another scheme, or a convolution's ``padding_mode`` is not
            zeros. Nothing is changed then.

    >>> prepare_(model, Int8("static"), exclude=["head"])
    >>> calibrate(model, batches)
    """
    scheme = Int8() if scheme is None else scheme
    if not isinstance(scheme, Int8):
        raise TypeError(f"scheme must be an Int8, got {scheme!r}")
    chosen, done, skipped = _choose(model, scheme, include, exclude)
    pairs, notes = _fold(model, chosen) if fold_bn else ({}, ())
    for name, module in chosen:
        module.__class__ = _FAKE[type(module)]
        assert isinstance(module, FakeQuantLayer)
        module.become(scheme, name)
        if name in pairs and isinstance(module, FakeQuantLinear):
            module.rows_only = True
    return PrepareReport(
        (*done, *(name for name, _ in chosen)),
        tuple(skipped),
        tuple((norm, layer) for layer, norm in pairs.items()),
        notes,
    )


def remove_(model: nn.Module) -> nn.Module:
    """Turn every fake-quantized layer back into torch's own, in place; ranges are dropped.

    Parameters and masks stay as they are.

    Returns:
        the model.

    >>> remove_(model)
    """
    for module in model.modules():
        if isinstance(module, FakeQuantLayer):
            for name in RANGE_BUFFERS:
                if name in module._buffers:
                    delattr(module, name)
            for name in ("scheme", "layer_name", "rows_only"):
                module.__dict__.pop(name, None)
            module.__class__ = _FLOAT[type(module)]  # type: ignore[assignment]
    return model


def _check(name: str, module: nn.Module) -> None:
    """Refuse a layer that has no int8 form."""
    weight, mode = module.weight, getattr(module, "padding_mode", "zeros")
    if isinstance(weight, torch.Tensor) and weight.dtype not in _DTYPES:
        raise TypeError(
            f"layer {name!r}: weight of dtype {weight.dtype}, expected float32, float16 or bfloat16"
        )
    if mode != "zeros":
        raise ValueError(
            f"layer {name!r}: padding_mode {mode!r}, expected 'zeros'; leave it out with exclude"
        )


def _fold(
    model: nn.Module, chosen: list[tuple[str, nn.Module]]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Fold what can be folded into the chosen layers: (layer -> BatchNorm, notes)."""
    pairs, stay, flow = find_folds(model, [name for name, _ in chosen])
    fold_(model, pairs)
    notes = [f"{norm}: BatchNorm stays, {reason}" for norm, reason in stay.items()]
    if flow.failure:
        notes.append(
            "the data flow could not be traced, so BatchNorm was folded only inside "
            f"nn.Sequential ({flow.failure})"
        )
    return pairs, tuple(notes)


def _choose(
    model: nn.Module,
    scheme: Int8,
    include: Selector | Iterable[Selector],
    exclude: Selector | Iterable[Selector],
) -> tuple[list[tuple[str, nn.Module]], list[str], list[tuple[str, str]]]:
    """(layers to quantize, names of those that are as asked already, those left with reasons)."""
    readers = weight_readers(model)
    chosen: list[tuple[str, nn.Module]] = []
    done: list[str] = []
    skipped: list[tuple[str, str]] = []
    for name, module in select(model, include, exclude, tuple(_FAKE)):
        own = quant_spec(module)
        if own is not None and own != scheme:
            raise ValueError(
                f"layer {name!r} is fake-quantized with {own} already: call quantize.remove_ "
                f"before giving it {scheme}"
            )
        if own is not None:
            done.append(name)
        elif id(module) in readers:
            reason = f"{readers[id(module)]} reads its weight instead of calling it"
            skipped.append((name, reason))
        elif type(module) not in _FAKE:
            kind = type(module).__name__
            skipped.append((name, f"{kind} is a subclass and may compute something else"))
        else:
            _check(name, module)
            chosen.append((name, module))
    if not chosen and not done:
        listed = "; ".join(f"{name!r}: {reason}" for name, reason in skipped)
        kinds = ", ".join(f"nn.{kind.__name__}" for kind in _FAKE)
        raise ValueError(f"no layer to quantize ({listed or f'no {kinds} is chosen'})")
    return chosen, done, skipped
