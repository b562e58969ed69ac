"""Pooling and addition between layers: torch's results in fp32, the definition's bits in u8."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import sparsekd.nn  # noqa: F401  # registers the ops
from sparsekd import backend
from sparsekd.images import average_affine, dequantize_affine
from sparsekd.numerics import ACTIVATIONS, quantize_affine

OPS = torch.ops.sparsekd
IN, SECOND, OUT = (0.03, 77), (0.021, 3), (0.041, 130)


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def to_u8(y: Tensor, out: tuple[float, int] = OUT) -> Tensor:
    return quantize_affine(y, torch.tensor(out[0]), torch.tensor(out[1])).to(torch.uint8)


def draw_pool(data: st.DataObject, *, dilated: bool) -> tuple[tuple[int, ...], dict[str, Any]]:
    """A shape, and arguments of torch's pooling that it takes."""
    draw = data.draw
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 90)))
    kernel = tuple(draw(st.integers(1, 4)) for _ in range(2))
    dilation = tuple(draw(st.integers(1, 3)) if dilated else 1 for _ in range(2))
    reach = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
    arguments = {
        "kernel_size": kernel,
        "stride": tuple(draw(st.integers(1, 4)) for _ in range(2)),
        "padding": tuple(draw(st.integers(0, k // 2)) for k in kernel),
        "ceil_mode": draw(st.booleans()),
    }
    if dilated:
        arguments["dilation"] = dilation
    sizes = tuple(draw(st.integers(r, r + 9)) for r in reach)
    return (*shape, *sizes), arguments


def max_pool(x: Tensor, **a: Any) -> Tensor:
    y: Tensor = OPS.max_pool2d(
        x, a["kernel_size"], a["stride"], a["padding"], a["dilation"], a["ceil_mode"]
    )
    return y


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_max_pool_is_torchs(data: st.DataObject) -> None:
    shape, arguments = draw_pool(data, dilated=True)
    x = torch.randn(shape)
    if data.draw(st.booleans()):
        x[torch.rand(shape) < 0.1] = torch.nan
        x[torch.rand(shape) < 0.1] = -torch.inf
    wanted = F.max_pool2d(x, **arguments)
    for image in (x, channels_last(x)):
        y = max_pool(image, **arguments)
        assert torch.equal(y.nan_to_num(9e9), wanted.nan_to_num(9e9))
        assert torch.equal(y.isnan(), wanted.isnan())
    u = channels_last(torch.randint(0, 256, shape, dtype=torch.uint8))
    y = max_pool(u, **arguments)
    assert y.dtype is torch.uint8
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, F.max_pool2d(u.float(), **arguments).clamp(min=0).to(torch.uint8))


def avg_pool(x: Tensor, a: dict[str, Any], *scales: Any) -> Tensor:
    sizes = (a["kernel_size"], a["stride"], a["padding"], a["ceil_mode"])
    y: Tensor = OPS.avg_pool2d(x, *sizes, a["count_include_pad"], a["divisor_override"], *scales)
    return y


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_avg_pool_is_torchs_and_the_definitions(data: st.DataObject) -> None:
    shape, arguments = draw_pool(data, dilated=False)
    arguments["count_include_pad"] = data.draw(st.booleans())
    arguments["divisor_override"] = data.draw(st.sampled_from([None, None, 1, 7]))
    x = torch.randn(shape)
    wanted = F.avg_pool2d(x, **arguments)
    for image in (x, channels_last(x)):
        torch.testing.assert_close(avg_pool(image, arguments), wanted, rtol=1e-6, atol=1e-6)
    u = channels_last(torch.randint(0, 256, shape, dtype=torch.uint8))
    rest = {k: v for k, v in arguments.items() if k not in ("kernel_size", "stride", "padding")}
    sizes = (arguments["kernel_size"], arguments["stride"], arguments["padding"])
    average = average_affine(u, *IN, *sizes, **rest)
    assert torch.equal(avg_pool(u, arguments, *IN), average)
    assert torch.equal(avg_pool(u, arguments, *IN, *OUT), to_u8(average))
    close = F.avg_pool2d(dequantize_affine(u, *IN), **arguments)
    torch.testing.assert_close(average, close, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (2, 130, 7, 7), (3, 65, 5, 12), (0, 4, 2, 2)])
def test_global_average(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(shape)
    for image in (x, channels_last(x)):
        y = OPS.global_avg_pool(image)
        torch.testing.assert_close(y, F.adaptive_avg_pool2d(x, 1), rtol=1e-5, atol=1e-6)
    u = channels_last(torch.randint(0, 256, shape, dtype=torch.uint8))
    average = average_affine(u, *IN, (shape[2], shape[3]))
    assert torch.equal(OPS.global_avg_pool(u, *IN), average)
    assert torch.equal(OPS.global_avg_pool(u, *IN, *OUT), to_u8(average))


def call_add(
    a: Tensor, b: Tensor, activation: str = "none", out: tuple[float, int] | None = None
) -> Tensor:
    scales = [IN if a.dtype is torch.uint8 else (None, 0)]
    scales += [SECOND if b.dtype is torch.uint8 else (None, 0), out or (None, 0)]
    y: Tensor = OPS.add(a, b, activation, *(number for pair in scales for number in pair))
    return y


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_add_is_the_definition(data: st.DataObject) -> None:
    draw = data.draw
    shape = tuple(draw(st.integers(1, n)) for n in (3, 90, 9, 9))
    if draw(st.booleans()):
        shape = shape[:2]
    sides = []
    for scale in (IN, SECOND):
        if draw(st.booleans()):
            side = torch.randint(0, 256, shape, dtype=torch.uint8)
            value = dequantize_affine(side, *scale)
        else:
            side = value = torch.randn(shape)
        sides.append((channels_last(side) if len(shape) == 4 else side, value))
    activation = draw(st.sampled_from(["none", "relu", "relu6", "hardswish"]))
    total = sides[0][1] + sides[1][1]
    wanted = total if activation == "none" else ACTIVATIONS[activation](total)
    assert torch.equal(call_add(sides[0][0], sides[1][0], activation), wanted)
    assert torch.equal(call_add(sides[0][0], sides[1][0], activation, OUT), to_u8(wanted))


def calls() -> dict[str, tuple[Any, tuple[Any, ...]]]:
    torch.manual_seed(1)
    u = channels_last(torch.randint(0, 256, (2, 70, 40, 33), dtype=torch.uint8))
    x = torch.randn(2, 70, 40, 33)
    pool = ([3, 3], [2, 2], [1, 1])
    return {
        "max_u8": (OPS.max_pool2d.default, (u, *pool, [1, 1], False)),
        "max_nchw": (OPS.max_pool2d.default, (x, *pool, [1, 1], True)),
        "max_nhwc": (OPS.max_pool2d.default, (channels_last(x), *pool, [1, 1], True)),
        "avg_u8": (OPS.avg_pool2d.default, (u, *pool, False, False, None, *IN, *OUT)),
        "avg_to_f32": (OPS.avg_pool2d.default, (u, *pool, False, True, None, *IN)),
        "avg_nchw": (OPS.avg_pool2d.default, (x, *pool, True, True, None)),
        "global_u8": (OPS.global_avg_pool.default, (u, *IN, *OUT)),
        "global_f32": (OPS.global_avg_pool.default, (channels_last(x),)),
        "add_u8": (OPS.add.default, (u, u, "relu", *IN, *SECOND, *OUT)),
        "add_f32": (OPS.add.default, (x, x, "silu")),
        "add_mixed": (OPS.add.default, (u, x, "none", *IN)),
    }


@pytest.mark.parametrize("name", list(calls()))
def test_bits_do_not_depend_on_isa_threads_or_batch(name: str) -> None:
    op, arguments = calls()[name]
    wanted = op(*arguments)
    threads, isa = torch.get_num_threads(), backend.isa()
    try:
        for chosen in backend.available_isas():
            backend.set_isa(chosen)
            for count in (1, 2):
                torch.set_num_threads(count)
                assert torch.equal(op(*arguments), wanted), (chosen, count)
    finally:
        torch.set_num_threads(threads)
        backend.set_isa(isa)
    split = [[a[n : n + 1] if isinstance(a, Tensor) else a for a in arguments] for n in range(2)]
    assert torch.equal(torch.cat([op(*part) for part in split]), wanted)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", list(calls()))
def test_opcheck(name: str) -> None:
    op, arguments = calls()[name]
    small = [a[..., :6, :5] if isinstance(a, Tensor) else a for a in arguments]
    assert set(torch.library.opcheck(op, small).values()) == {"SUCCESS"}


class Between(nn.Module):
    """What stands between the layers of a ResNet."""

    def forward(self, u: Tensor) -> Tensor:
        u = OPS.max_pool2d(u, [3, 3], [2, 2], [1, 1], [1, 1], False)
        u = OPS.add(u, u, "relu", *IN, *SECOND, *OUT)
        return OPS.global_avg_pool(u, *OUT)  # type: ignore[no-any-return]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_compile_and_export(tmp_path: Any) -> None:
    torch._dynamo.reset()
    net = Between()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    u = channels_last(torch.randint(0, 256, (4, 20, 14, 13), dtype=torch.uint8))
    for x in (u, u[:3], u[:2, :, :9]):
        x = channels_last(x)
        assert torch.equal(compiled(x), net(x))
    dynamic = ({0: torch.export.Dim("batch", min=1, max=64)},)
    program = torch.export.export(net, (u,), dynamic_shapes=dynamic)
    torch.export.save(program, tmp_path / "between.pt2")
    torch.save({"x": u[:3], "y": net(u[:3])}, tmp_path / "io.pt")
    code = (
        "import sys, torch, sparsekd.nn\n"
        "data = torch.load(sys.argv[1] + '/io.pt')\n"
        "net = torch.export.load(sys.argv[1] + '/between.pt2').module()\n"
        "print(torch.equal(net(data['x']), data['y']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.stdout == "True\n", done.stderr


U8 = torch.zeros(1, 4, 5, 5, dtype=torch.uint8)
F32 = torch.zeros(1, 4, 5, 5)
ONE, NONE, TWO = [1, 1], [0, 0], [2, 2]


@pytest.mark.parametrize(
    ("name", "arguments", "error", "words"),
    [
        ("max_pool2d", (F32, [0, 1], ONE, NONE, ONE, False), ValueError, "kernel_size: 0"),
        ("max_pool2d", (F32, TWO, [-1, 1], NONE, ONE, False), ValueError, "stride: -1"),
        ("max_pool2d", (F32, TWO, ONE, [2, 0], ONE, False), ValueError, "at most half"),
        ("max_pool2d", (F32, TWO, ONE, [-1, 0], ONE, False), ValueError, "padding: -1"),
        ("max_pool2d", (F32, TWO, ONE, NONE, [0, 1], False), ValueError, "dilation: 0"),
        ("max_pool2d", (F32, [2**21, 1], ONE, NONE, ONE, False), ValueError, "kernel_size: 2097"),
        ("max_pool2d", (F32, [6, 1], ONE, NONE, ONE, False), ValueError, "would be empty"),
        ("max_pool2d", (F32[0], TWO, ONE, NONE, ONE, False), ValueError, r"shape \(4, 5, 5\)"),
        ("max_pool2d", (F32.double(), TWO, ONE, NONE, ONE, False), TypeError, "float64"),
        ("max_pool2d", (F32[:, :0], TWO, ONE, NONE, ONE, False), ValueError, "channels"),
        ("avg_pool2d", (F32, TWO, ONE, NONE, False, True, 0), ValueError, "divisor_override: 0"),
        ("avg_pool2d", (U8, TWO, ONE, NONE, False, True, None), ValueError, "expected a scale"),
        ("avg_pool2d", (F32, TWO, ONE, NONE, False, True, None, 0.5), ValueError, "none for"),
        ("avg_pool2d", (F32, TWO, ONE, NONE, False, True, None, None, 0, 0.5), ValueError, "u8 in"),
        ("avg_pool2d", (U8, TWO, ONE, NONE, False, True, None, 0.0), ValueError, "input scale: 0"),
        ("avg_pool2d", (U8, TWO, ONE, NONE, False, True, None, 1.0, -1), ValueError, "zero point"),
        ("global_avg_pool", (F32[:, :, :0],), ValueError, "global_avg_pool"),
        ("global_avg_pool", (U8,), ValueError, "expected a scale"),
        ("add", (F32, F32[:, :3]), ValueError, "expected equal ones"),
        ("add", (F32, F32.half()), TypeError, "second of dtype torch.float16"),
        ("add", (F32, F32, "tanh"), ValueError, "unknown activation 'tanh'"),
        ("add", (U8, F32), ValueError, "first of dtype torch.uint8 with a scale of None"),
        ("add", (U8, U8, "none", 1.0, 0, 1.0, 256), ValueError, "second zero point: 256"),
        ("add", (F32, F32, "none", None, 0, None, 0, -1.0), ValueError, "output scale: -1"),
    ],
)
def test_bad_input_is_refused_by_name(
    name: str, arguments: tuple[Any, ...], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as raised:
        getattr(OPS, name)(*arguments)
    assert str(raised.value).startswith(f"sparsekd::{name}: ")


def test_no_gradient() -> None:
    x = torch.zeros(1, 2, 3, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match="global_avg_pool runs inference only"):
        OPS.global_avg_pool(x).sum().backward()
