"""sparsekd's own convolutions as contenders: u8 in and out, and fp32 modules in place."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sparsekd import backend, ops
from sparsekd.backend import ConvGeometry
from sparsekd.bench.conv_layers import ConvLayer, ConvProblem
from sparsekd.bench.ours import pattern_of
from sparsekd.bench.peers import Engine, module_engine, version_of
from sparsekd.bench.runner import Contender
from sparsekd.benchmark import OwnClock
from sparsekd.modules import weight_mask
from sparsekd.nn import Conv2d
from sparsekd.numerics import quantize_weight
from sparsekd.prune import prune_
from sparsekd.spec import Fp32, Int8, Pattern

__all__ = ["FORMATS", "our_convolutions", "u8_layer"]

#: By the name that the command knows: what it is.
FORMATS = {
    "dense": "int8, u8 in and out",
    "int8": "windowed int8, u8 in and out",
    "depthwise": "int8, u8 in and out, of depthwise layers",
    "fp32": "windowed fp32 (n:16), or depthwise, as a module on fp32",
}
_LEAST_CHANNELS = 16  # of a group: for fewer no pattern drops its share


def our_convolutions(
    formats: Iterable[str], sparsities: Iterable[float], layer: ConvLayer
) -> list[Contender[ConvProblem]]:
    """Our engines for a layer, in those of the formats that serve it.

    Raises:
        ValueError: an unknown format, or a sparsity that no n:32 or n:16 pattern has.
    """
    chosen, shares = list(formats), list(sparsities)
    for name in chosen:
        if name not in FORMATS:
            raise ValueError(f"unknown format {name!r}; choose among {', '.join(FORMATS)}")
    sparse = layer.geometry.channels[0] // layer.geometry.groups >= _LEAST_CHANNELS
    made: list[Contender[ConvProblem]] = []
    if layer.depthwise:
        if "depthwise" in chosen:
            build = partial(_op, "depthwise", None)
            made.append(_contender("sparsekd depthwise int8", "depthwise int8", build))
        if "fp32" in chosen:
            build = partial(_module, None, True)
            made.append(_contender("sparsekd depthwise fp32", "depthwise fp32", build, fp32=True))
        return made
    if "dense" in chosen:
        made.append(_contender("sparsekd dense int8", "dense int8", partial(_op, "dense", None)))
    for share in shares if sparse else []:
        if "int8" in chosen:
            pattern = pattern_of(share)
            build = partial(_op, "windowed", pattern)
            made.append(_contender(f"sparsekd int8 {pattern}", "int8 n:32", build, share))
        if "fp32" in chosen:
            pattern = pattern_of(share, 16)
            for nhwc, family in ((True, "fp32 n:16"), (False, "fp32 n:16, NCHW")):
                build = partial(_module, pattern, nhwc)
                name = f"sparsekd {family.replace('n:16', str(pattern))}"
                made.append(_contender(name, family, build, share, fp32=True))
    return made


def _contender(
    name: str, family: str, build: Any, sparsity: float | None = None, *, fp32: bool = False
) -> Contender[ConvProblem]:
    kind: Any = ("dense " if sparsity is None else "sparse ") + ("fp32" if fp32 else "int8")
    return Contender(name, kind, build, True, family, sparsity)


def _pruned(problem: ConvProblem, pattern: Pattern | None) -> tuple[nn.Conv2d, Tensor | None]:
    """A copy of the layer, pruned, and its weight where that is another."""
    g = problem.layer.geometry
    conv = nn.Conv2d(*g.channels, g.kernel, g.stride, g.padding[::2], g.dilation, g.groups)
    conv.load_state_dict(problem.conv.state_dict())
    conv.eval().requires_grad_(False)
    if pattern is None:
        return conv, None
    prune_(conv, pattern)
    return conv, conv.weight.detach().clone()


def u8_layer(
    taps: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    geometry: ConvGeometry,
    kernel: str,
    input_scale: float,
    activation: str | None = "relu",
) -> tuple[Any, int]:
    """(handle, packed bytes) of an int8 convolution whose input is u8 with zero point 0.

    Args:
        taps: int8 [outputs, taps, channels of a group].
        scale: fp32 [outputs], of the weight.
    """
    form = backend.format_of(Int8(activations="static"), kernel)
    geometry = geometry.cut_for(form)
    cut = taps.reshape(len(taps), geometry.taps, geometry.tap_inputs)
    packed = backend.pack(form, cut, geometry.groups)
    tensors = {
        **packed,
        "scale": scale,
        "bias": bias,
        "input_scale": torch.tensor(input_scale),
        "input_zero_point": torch.tensor(0, dtype=torch.int32),
    }
    settings = backend.LayerSettings(
        taps.shape[2], geometry.channels[1], activation, geometry=geometry
    )
    size = sum(t.numel() * t.element_size() for t in packed.values())
    return backend.make_layer(form, tensors, settings), size


def _op(kernel: str, pattern: Pattern | None, problem: ConvProblem) -> Engine:
    """u8 to u8, with ReLU and requantization: the compiled call alone, on images that are there.

    So it is in a network whose layers follow each other in compiled code, and so are the times that
    others report of their nodes. The clock is read inside the call as theirs is: the way from
    Python costs about a microsecond more.
    """
    geometry = problem.layer.geometry

    def make() -> tuple[Any, Tensor | None, int, int]:
        conv, weight = _pruned(problem, pattern)
        integers, scale = quantize_weight(conv.weight)
        taps = integers.movedim(1, -1).flatten(1, 2).contiguous()
        handle, size = u8_layer(taps, scale, conv.bias, geometry, kernel, problem.scale)
        return handle, weight, _kept(conv), size

    handle, weight, kept, packed_bytes = problem.once(f"ours {kernel} {pattern}", make)
    out = (problem.out_scale, 0)
    outputs = [ops.run_conv2d(handle, geometry, x, out) for x in problem.inputs]
    calls = [
        (x.data_ptr(), tuple(x.shape), y.data_ptr(), *out, problem.threads)
        for x, y in zip(problem.inputs, outputs, strict=True)
    ]
    turns = itertools.cycle(calls)

    def output(index: int) -> Tensor:
        handle.seconds_u8(*calls[index])
        return outputs[index]

    return Engine(
        version_of("sparsekd"),
        OwnClock(lambda: handle.seconds_u8(*next(turns))),
        output,
        _config(problem, kernel, kept, packed_bytes),
        weight,
        work=kept * _pixels(problem),
        moved=packed_bytes + sum(_elements(problem)),
    )


def _module(pattern: Pattern | None, nhwc: bool, problem: ConvProblem) -> Engine:
    """A module on fp32 images of one memory format."""
    kernel = "depthwise" if pattern is None else "windowed"
    scheme = Fp32() if pattern is None else Fp32(window=16)

    def make() -> tuple[Conv2d, Tensor | None, int]:
        conv, weight = _pruned(problem, pattern)
        return Conv2d.from_float(conv, scheme=scheme, kernel=kernel).eval(), weight, _kept(conv)

    module, weight, kept = problem.once(f"ours fp32 {pattern}", make)
    config = _config(problem, kernel, kept, module.packed_bytes())
    return module_engine(
        module,
        problem.floats(nhwc=nhwc),
        version=version_of("sparsekd"),
        config=config | {"inputs": "channels_last" if nhwc else "NCHW"},
        weight=weight,
        work=kept * _pixels(problem),
        moved=module.packed_bytes() + 4 * sum(_elements(problem)),
    )


def _config(problem: ConvProblem, kernel: str, kept: int, packed_bytes: int) -> dict[str, Any]:
    return {
        "threads": problem.threads,
        "isa": backend.isa(),
        "kernel": kernel,
        "kept weights": kept,
        "packed bytes": packed_bytes,
    }


def _kept(conv: nn.Conv2d) -> int:
    mask = weight_mask(conv)
    return conv.weight.numel() if mask is None else int(mask.sum())


def _pixels(problem: ConvProblem) -> int:
    height, width = problem.layer.out_size
    return problem.inputs[0].shape[0] * height * width


def _elements(problem: ConvProblem) -> tuple[int, int]:
    """Of one input and of its output."""
    return problem.inputs[0].numel(), _pixels(problem) * problem.layer.geometry.channels[1]
