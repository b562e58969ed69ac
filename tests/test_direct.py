"""Direct calls: the bits of the other paths, and declined where something has to see the call."""

from __future__ import annotations

import contextlib
import gc
import itertools
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.overrides import BaseTorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from sparsekd import direct
from sparsekd import nn as engine
from sparsekd.quantize import calibrate, prepare_
from sparsekd.spec import Bf16, Fp32, Int8, Scheme

pytestmark = pytest.mark.skipif(
    not hasattr(Tensor, "__dlpack_c_exchange_api__"), reason="this torch has no direct calls"
)

EngineModule = engine.Linear | engine.Conv1d | engine.Conv2d


def linear(scheme: Scheme | None = None, kernel: str = "windowed", **rest: Any) -> engine.Linear:
    layer = nn.Linear(70, 37).requires_grad_(False)
    return engine.Linear.from_float(layer, scheme=scheme or Int8(), kernel=kernel, **rest)


def static_linear() -> engine.Linear:
    model = nn.Sequential(nn.Linear(70, 37))
    prepare_(model, Int8("static"))
    calibrate(model, [torch.rand(9, 70) - 0.2])
    return engine.Linear.from_float(model.eval()[0], kernel="dense")


def conv(kernel: str = "windowed", scheme: Scheme | None = None, **geometry: Any) -> engine.Conv2d:
    layer = nn.Conv2d(6, 20, **{"kernel_size": 3, "padding": 1, **geometry})
    return engine.Conv2d.from_float(layer, scheme=scheme or Int8(), kernel=kernel)


def call(layer: EngineModule, x: object) -> Tensor | None:
    assert layer._cached is not None
    y: Tensor | None = layer._cached.call(x, layer._buffers)
    return y


def check(layer: EngineModule, x: Tensor) -> None:
    """The direct call serves x, with the bits and the layout of the path through Python."""
    y, wanted = call(layer, x), layer._forward(x)
    assert y is not None
    assert type(y) is Tensor
    assert torch.equal(y, wanted)
    assert y.shape == wanted.shape
    assert y.stride() == wanted.stride()
    assert y.dtype is torch.float32
    assert not y.requires_grad
    assert y.is_inference() == torch.is_inference_mode_enabled()
    assert torch.equal(layer(x), y)


LINEARS: dict[str, Callable[[], engine.Linear]] = {
    "int8 windowed": linear,
    "int8 dense": lambda: linear(kernel="dense", activation="gelu"),
    "int8 static": static_linear,
    "fp32 windowed": lambda: linear(Fp32()),
    "fp32 csr": lambda: linear(Fp32(), "csr"),
    "bf16 windowed": lambda: linear(Bf16()),
}


@pytest.mark.parametrize("name", LINEARS)
def test_linear(name: str) -> None:
    layer = LINEARS[name]()
    for shape in [(70,), (1, 70), (9, 70), (2, 3, 70), (1, 1, 1, 70), (300, 70)]:
        check(layer, torch.randn(shape))
        with torch.inference_mode():
            check(layer, torch.randn(shape))


CONVS: dict[str, Callable[[], engine.Conv2d]] = {
    "int8 windowed": conv,
    "int8 dense": lambda: conv("dense", stride=2, dilation=(1, 2)),
    "int8 groups": lambda: conv("dense", groups=2, kernel_size=(1, 5), padding="same"),
    "fp32 windowed": lambda: conv(scheme=Fp32()),
    "bf16 windowed": lambda: conv(scheme=Bf16(), padding=(2, 0)),
}


@pytest.mark.parametrize("name", CONVS)
def test_conv2d(name: str) -> None:
    layer = CONVS[name]()
    for shape in [(1, 6, 9, 8), (2, 6, 5, 7), (3, 6, 6, 6)]:
        x = torch.randn(shape)
        check(layer, x)
        check(layer, x.to(memory_format=torch.channels_last))


def test_depthwise() -> None:
    layer = engine.Conv2d.from_float(
        nn.Conv2d(6, 6, 3, groups=6), scheme=Int8(), kernel="depthwise"
    )
    check(layer, torch.randn(2, 6, 7, 7))
    check(layer, torch.randn(2, 6, 7, 7).to(memory_format=torch.channels_last))


def test_conv1d() -> None:
    layer = engine.Conv1d.from_float(nn.Conv1d(6, 20, 3, padding=1), scheme=Int8())
    for length in (1, 2, 9):
        check(layer, torch.randn(2, 6, length))
        check(layer, torch.randn(2, length, 6).transpose(1, 2))  # channels last


def test_ambiguous_memory_formats() -> None:
    """Sizes of 1 make strides free; the output's format is that of the path through Python."""
    served = 0
    for channels in (1, 2):
        float_layer = nn.Conv2d(channels, 3, 1)
        layer = engine.Conv2d.from_float(float_layer, scheme=Int8())
        one_d = engine.Conv1d.from_float(nn.Conv1d(channels, 3, 1), scheme=Int8())
        for batch, height, width in itertools.product((1, 2), repeat=3):
            shape = (batch, channels, height, width)
            strides = itertools.product((1, 2, 4, 5, 8), repeat=4)
            for n, c, h, w in [s for s in strides if s[0] >= max(s[1:])]:
                x = torch.randn(80).as_strided(shape, (n, c, h, w))
                if (y := call(layer, x)) is not None:
                    served += 1
                    wanted = layer._forward(x)
                    assert (y.stride(), y.tolist()) == (wanted.stride(), wanted.tolist())
                if height == 1 and (y := call(one_d, x[:, :, 0])) is not None:
                    served += 1
                    wanted = one_d._forward(x[:, :, 0])
                    assert (y.stride(), y.tolist()) == (wanted.stride(), wanted.tolist())
    assert served > 500


class _Sub(Tensor):
    pass


DECLINED: dict[str, Callable[[], object]] = {
    "None": lambda: None,
    "a list": lambda: [0.0] * 70,
    "a subclass": lambda: torch.randn(2, 70).as_subclass(_Sub),
    "a parameter": lambda: nn.Parameter(torch.randn(2, 70)),
    "a tracked tensor": lambda: torch.randn(2, 70, requires_grad=True),
    "a negated view": lambda: torch._neg_view(torch.randn(2, 70)),
    "an imaginary part": lambda: torch.randn(2, 70, dtype=torch.cfloat).conj().imag,
    "fp64": lambda: torch.randn(2, 70, dtype=torch.float64),
    "fp16": lambda: torch.randn(2, 70).half(),
    "int32": lambda: torch.zeros(2, 70, dtype=torch.int32),
    "complex": lambda: torch.randn(2, 70, dtype=torch.cfloat),
    "uint8": lambda: torch.zeros(2, 70, dtype=torch.uint8),
    "on meta": lambda: torch.empty(2, 70, device="meta"),
    "sparse": lambda: torch.randn(2, 70).to_sparse(),
    "mkldnn": lambda: torch.randn(2, 70).to_mkldnn(),
    "a number": lambda: torch.tensor(1.0),
    "too narrow": lambda: torch.randn(2, 69),
    "no rows": lambda: torch.randn(0, 70),
    "transposed": lambda: torch.randn(70, 2).t(),
    "columns of a wider one": lambda: torch.randn(2, 80)[:, :70],
    "expanded": lambda: torch.randn(1, 70).expand(2, 70),
    "nine dimensions": lambda: torch.randn(1, 1, 1, 1, 1, 1, 1, 2, 70),
    "zeros without memory": lambda: torch._efficientzerotensor((2, 70)),
    "functional": lambda: torch._to_functional_tensor(torch.randn(3, 70)[1:]),
}


@pytest.mark.parametrize("name", DECLINED)
def test_inputs_that_are_declined(name: str) -> None:
    assert call(linear(), DECLINED[name]()) is None


def test_freed_memory_is_declined() -> None:
    whole = torch.randn(3, 70)
    view = whole[1:]
    assert call(linear(), view) is not None
    whole.untyped_storage().resize_(0)
    assert call(linear(), whole) is None
    assert call(linear(), view) is None


@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(6, 9, 9),
        torch.zeros(2, 5, 9, 9),
        torch.zeros(0, 6, 9, 9),
        torch.zeros(2, 6, 1, 1),  # the output would be empty
        torch.zeros(2, 6, 9, 18)[..., ::2],
        torch.zeros(2, 6, 9, 9).permute(0, 1, 3, 2),
    ],
    ids=["no batch", "channels", "batch 0", "too small", "every other column", "turned"],
)
def test_images_that_are_declined(x: Tensor) -> None:
    assert call(conv(padding=0), x) is None


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def _default_device() -> Iterator[None]:
    torch.set_default_device("meta")
    try:
        yield
    finally:
        torch.set_default_device(None)


@pytest.mark.parametrize(
    "mode",
    [_Dispatch, BaseTorchFunctionMode, forward_ad.dual_level, _default_device],
    ids=["dispatch mode", "function mode", "forward AD", "default device"],
)
def test_modes_see_the_call(mode: Callable[[], contextlib.AbstractContextManager[object]]) -> None:
    layer, x = linear(), torch.randn(2, 70)
    with mode():
        assert call(layer, x) is None
    assert call(layer, x) is not None


@pytest.mark.filterwarnings("ignore:.*deprecated:DeprecationWarning")  # torch's own, inside jvp
@pytest.mark.parametrize("inner", [False, True], ids=["the transform's own input", "another"])
@pytest.mark.parametrize("transform", ["vmap", "grad", "jvp", "functionalize"])
def test_transforms_see_the_call(transform: str, inner: bool) -> None:
    layer, x, results = linear(), torch.randn(2, 70), []

    def body(v: Tensor) -> Tensor:
        results.append(call(layer, x if inner else v))
        return v.sum()

    run: Any = getattr(torch.func, transform)
    if transform == "jvp":
        run(body, (x,), (x,))
    else:
        run(body)(x)
    assert results == [None]


@pytest.mark.filterwarnings("ignore:`torch.jit.*:DeprecationWarning")
def test_jit_trace_records_the_op() -> None:
    layer, x = linear(), torch.randn(2, 70)
    traced = torch.jit.trace(layer, (x,))
    other = torch.randn(2, 70)
    assert torch.equal(traced(other), layer(other))


def test_a_change_of_the_tensors_is_noticed() -> None:
    layer, x = linear(), torch.randn(2, 70)
    assert layer.bias is not None
    first = layer(x)
    layer.bias.add_(1.0)  # written
    assert call(layer, x) is None
    assert torch.allclose(layer(x), first + 1.0)
    check(layer, x)
    layer.scale = layer.scale * 2  # replaced
    assert call(layer, x) is None
    assert not torch.equal(layer(x), first)
    check(layer, x)
    cached = layer._cached
    assert cached is not None
    for buffers in ({}, dict(list(layer._buffers.items())[:-1]), {**layer._buffers, "more": None}):
        assert cached.call(x, buffers) is None


def test_inference_tensors_as_buffers() -> None:
    """They have no version counter: replacing one is noticed, as everywhere."""
    with torch.inference_mode():
        layer, x = linear(), torch.randn(2, 70)
        check(layer, x)
        layer.bias = layer.bias + 1.0
        assert call(layer, x) is None


def test_hooks_run() -> None:
    layer, x, seen = linear(), torch.randn(2, 70), []
    layer.register_forward_pre_hook(lambda module, args: seen.append("before"))
    layer.register_forward_hook(lambda module, args, y: seen.append(tuple(y.shape)))
    layer(x)
    assert seen == ["before", (2, 37)]


def test_the_output_is_a_tensor_like_any_other() -> None:
    layer, x = linear(), torch.randn(2, 70)
    first, second = call(layer, x), call(layer, x)
    assert first is not None
    assert second is not None
    assert first.data_ptr() != second.data_ptr()
    first.resize_(100, 70)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        check(layer, x)
    finally:
        torch.set_default_dtype(before)


def test_wrong_arguments() -> None:
    layer = linear()
    assert layer._cached is not None
    for arguments in [(), (torch.zeros(2, 70),), (torch.zeros(2, 70), None)]:
        with pytest.raises(TypeError, match="takes an input and the layer's buffers"):
            layer._cached.call(*arguments)


def test_no_references_are_lost_or_kept() -> None:
    layer, x = linear(), torch.randn(2, 70)
    watched: list[object] = [x, layer._buffers, *layer._buffers.values(), None, True, False]
    before = [sys.getrefcount(thing) for thing in watched]
    for _ in range(1000):
        call(layer, x)
        call(layer, x.t())
    after = [sys.getrefcount(thing) for thing in watched]
    assert all(abs(a - b) < 100 for a, b in zip(after, before, strict=True))


def test_a_layer_in_a_cycle_with_its_tensors_is_collected() -> None:
    layer = linear()
    layer(torch.randn(2, 70))
    layer.values.owner = layer  # type: ignore[attr-defined]
    weight = weakref.ref(layer.values)
    del layer
    gc.collect()
    assert weight() is None


def test_many_threads() -> None:
    """Large enough to let go of the GIL, small enough to keep it."""
    for size in (70, 700):
        layer = engine.Linear.from_float(nn.Linear(size, size), scheme=Int8())
        x = torch.randn(4, size)
        wanted, wrong = layer(x), []

        def body(layer: Any, x: Tensor, wanted: Tensor, wrong: list[int]) -> None:
            wrong.extend(1 for _ in range(500) if not torch.equal(call(layer, x), wanted))

        arguments = (layer, x, wanted, wrong)
        workers = [threading.Thread(target=body, args=arguments) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert not wrong


def test_without_the_dlpack_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    """An older torch: the same results through Python."""

    class Old:
        can_read = False

    layer, x = linear(), torch.randn(2, 70)
    wanted = layer(x)
    monkeypatch.setattr(direct, "_torch", Old)
    layer._cached = None
    assert torch.equal(layer(x), wanted)
    assert call(layer, x) is None
