"""Memory is what the documents say: scratch of a call, output, packed weights, nothing that grows.

Scratch is counted where the engine allocates it (csrc/core/buffer.h), outputs by torch's profiler.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from sparsekd import backend, convert
from sparsekd import nn as engine
from sparsekd.prune import prune_
from sparsekd.spec import NM, Bf16, Fp32, Int8, Scheme

A_THREAD = 64 << 10
#: Bytes of an input in the type that the kernels read; 0 where they read x in place.
LINEAR = {
    (Int8(), "windowed"): 1,
    (Int8(), "dense"): 1,
    (Bf16(), "windowed"): 2,
    (Fp32(), "windowed"): 0,
}
CONV = {**LINEAR, (Int8(), "depthwise"): 1, (Fp32(), "depthwise"): 0}


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> int:
    torch.set_num_threads(request.param)
    return int(request.param)


@pytest.fixture(autouse=True)
def _keep_threads() -> object:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def scratch_of(call: Callable[[], object]) -> int:
    """The most that a first call allocates in the engine; a second one must allocate nothing."""
    native, measured = backend.require(), []

    def run() -> None:  # scratch belongs to the calling thread, and a new one has none
        for _ in range(2):
            held, _ = native.buffer_bytes()
            native.restart_buffer_bytes()
            call()
            measured.append(native.buffer_bytes()[1] - held)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    first, second = measured
    assert second == 0, "scratch is not reused"
    return int(first)


def torch_bytes(call: Callable[[], Tensor]) -> tuple[int, int]:
    """What a call allocates in torch, and the bytes of its output."""
    call()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        y = call()
    events = recorded.events()
    assert events is not None
    allocated = sum(event.self_cpu_memory_usage for event in events)
    return allocated, y.numel() * y.element_size()


SHAPES = [(1, 768, 512), (4, 4096, 64), (100, 500, 300), (512, 768, 512)]
ODD_SHAPES = [(5000, 3, 8), (70000, 1, 2), (4, 100001, 8), (3, 20000, 64)]


@pytest.mark.parametrize(("rows", "inputs", "outputs"), SHAPES + ODD_SHAPES)
@pytest.mark.parametrize(("scheme", "kernel"), LINEAR, ids=str)
@torch.inference_mode()
def test_linear_scratch(
    scheme: Scheme, kernel: str, rows: int, inputs: int, outputs: int, threads: int
) -> None:
    layer = engine.Linear.from_float(nn.Linear(inputs, outputs), scheme=scheme, kernel=kernel)
    x = torch.rand(rows, inputs)
    scratch, size = scratch_of(lambda: layer(x)), LINEAR[scheme, kernel]
    assert scratch <= rows * inputs * size + threads * A_THREAD
    if size and rows < 1000:
        assert scratch >= rows * inputs * size, "the counter misses the rows"
    allocated, output = torch_bytes(lambda: layer(x))
    assert allocated == output


@pytest.mark.parametrize(("scheme", "kernel"), LINEAR, ids=str)
@torch.inference_mode()
def test_rows_that_go_in_passes(scheme: Scheme, kernel: str, threads: int) -> None:
    layer = engine.Linear.from_float(nn.Linear(33, 20), scheme=scheme, kernel=kernel)
    x = torch.rand(5000, 33)
    assert torch.equal(layer(x), torch.cat([layer(part) for part in x.split(700)]))


@pytest.mark.parametrize(("rows", "inputs", "outputs"), SHAPES)
@torch.inference_mode()
def test_csr_scratch(rows: int, inputs: int, outputs: int, threads: int) -> None:
    """At most 64 rows of x and 80 KB a thread."""
    linear = nn.Linear(inputs, outputs)
    with torch.no_grad():
        linear.weight *= torch.rand_like(linear.weight) < 0.1
    layer = engine.Linear.from_float(linear, scheme=Fp32(), kernel="csr")
    x = torch.rand(rows, inputs)
    scratch = scratch_of(lambda: layer(x))
    a_panel = 4 * min(64, -(-rows // 16) * 16) * (inputs + -(-inputs // 128))
    assert scratch <= threads * (a_panel + (80 << 10))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize(("channels", "kernel_size"), [(3, 7), (20, 7), (63, 4)])
@pytest.mark.parametrize(("scheme", "kernel"), [c for c in CONV if c[1] != "depthwise"], ids=str)
@torch.inference_mode()
def test_conv_scratch_of_rows(
    scheme: Scheme,
    kernel: str,
    channels: int,
    kernel_size: int,
    layout: torch.memory_format,
    threads: int,
) -> None:
    """Likewise, with the runs that cross an edge: here every one does."""
    float_layer = nn.Conv2d(channels, 64, kernel_size, padding=(3, 40))
    layer = engine.Conv2d.from_float(float_layer, scheme=scheme, kernel=kernel)
    x = torch.rand(2, channels, 40, 3).to(memory_format=layout)
    size = CONV[scheme, kernel]
    if isinstance(scheme, Fp32) and layout is torch.contiguous_format:
        size = 4
    assert scratch_of(lambda: layer(x)) <= x.numel() * size + threads * A_THREAD


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize(("kernel_size", "batch"), [(1, 8), (3, 2), (7, 1)])
@pytest.mark.parametrize(("scheme", "kernel"), CONV, ids=str)
@torch.inference_mode()
def test_conv_scratch(
    scheme: Scheme,
    kernel: str,
    kernel_size: int,
    batch: int,
    layout: torch.memory_format,
    threads: int,
) -> None:
    """The input in the kernels' type and order, once, and 64 KB a thread; the output."""
    channels = 96
    float_layer = nn.Conv2d(
        channels,
        channels,
        kernel_size,
        padding=kernel_size // 2,
        groups=channels if kernel == "depthwise" else 1,
    )
    layer = engine.Conv2d.from_float(float_layer, scheme=scheme, kernel=kernel)
    x = torch.rand(batch, channels, 28, 28).to(memory_format=layout)
    size = CONV[scheme, kernel]
    if isinstance(scheme, Fp32) and layout is torch.contiguous_format:
        size = 4  # NCHW has to be turned
    scratch = scratch_of(lambda: layer(x))
    assert scratch <= x.numel() * size + threads * A_THREAD
    assert scratch >= x.numel() * size, "the counter misses the input"
    allocated, output = torch_bytes(lambda: layer(x))
    assert allocated == output


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("kind", ["max", "average", "global"])
@pytest.mark.parametrize("channels", [3, 16, 70])
@torch.inference_mode()
def test_pool_scratch(channels: int, kind: str, layout: torch.memory_format, threads: int) -> None:
    """fp32 NCHW: 16 planes of the input and of the output a thread. Else nothing."""
    pools: dict[str, Callable[[Tensor], Tensor]] = {
        "max": lambda x: torch.ops.sparsekd.max_pool2d(x, 3, 2, 1, 1, False),
        "average": lambda x: torch.ops.sparsekd.avg_pool2d(x, 2, 2, 0, False, True, None),
        "global": torch.ops.sparsekd.global_avg_pool,
    }
    x = torch.rand(3, channels, 30, 26).to(memory_format=layout)
    y, scratch = pools[kind](x), scratch_of(lambda: pools[kind](x))
    planes = x[0, 0].numel() + y[0, 0].numel()
    turned = layout is torch.contiguous_format
    assert scratch <= (threads * 16 * planes * 4 if turned else 0)
    if turned:
        assert scratch >= min(16, channels) * planes * 4, "the counter misses the planes"
    allocated, output = torch_bytes(lambda: pools[kind](x))
    assert allocated == output


@pytest.mark.parametrize("n", [2, 4, 8, 16])
@pytest.mark.parametrize("bias", [True, False])
def test_packed_int8(n: int, bias: bool) -> None:
    """2.02 bytes a kept slot and 16 bytes an output."""
    inputs, outputs = 768, 256
    linear = nn.Linear(inputs, outputs, bias)
    prune_(linear, NM(n, 32))
    native = backend.require()
    held, _ = native.buffer_bytes()
    layer = engine.Linear.from_float(linear, scheme=Int8(), kernel="windowed")
    slots = outputs * inputs * n // 32
    assert layer.packed_bytes() <= 2.02 * slots + 16 * outputs
    # What runs beside the stored tensors: a copy of them, one byte a step, sums and scales.
    running = native.buffer_bytes()[0] - held
    assert layer.packed_bytes() <= running <= 1.02 * layer.packed_bytes() + 16 * outputs


@pytest.mark.parametrize("inplace", [True, False])
def test_no_float_weight_stays_after_conversion(inplace: bool) -> None:
    shape = (193, 389)  # of no other tensor
    model = nn.Sequential(nn.Linear(shape[1], shape[0]), nn.ReLU(), nn.Linear(shape[0], 10)).eval()
    prune_(model, NM(8, 32))

    def stored_bytes(tensor: Tensor) -> int:
        try:
            return tensor.untyped_storage().nbytes()
        except (RuntimeError, ValueError):  # sparse, lazy and such that other tests have left
            return 0

    def floats() -> list[torch.dtype]:
        gc.collect()
        tensors = [t for t in gc.get_objects() if issubclass(type(t), Tensor)]
        return [t.dtype for t in tensors if stored_bytes(t) == 4 * shape[0] * shape[1]]

    assert floats(), "the search finds nothing"
    fast = convert(model, scheme=Int8(), inplace=inplace)
    del model
    assert isinstance(fast[0], engine.Linear)
    assert floats() == []


def test_freed_layers_leave_nothing() -> None:
    native = backend.require()
    gc.collect()
    before, _ = native.buffer_bytes()
    layers = [
        engine.Linear.from_float(nn.Linear(64, 64), scheme=scheme, kernel=kernel)
        for scheme, kernel in LINEAR
    ]
    assert native.buffer_bytes()[0] > before + 64 * 64
    del layers
    gc.collect()
    assert native.buffer_bytes()[0] == before


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@torch.inference_mode()
def test_resident_size_is_flat_over_100_000_calls() -> None:
    """A leak of 16 bytes a call would be 1.6 MB."""
    torch.set_num_threads(1)
    linear = engine.Linear.from_float(nn.Linear(32, 32), scheme=Int8(), kernel="dense")
    conv = engine.Conv2d.from_float(nn.Conv2d(16, 16, 1), scheme=Int8(), kernel="dense")
    x, image = torch.rand(2, 32), torch.rand(1, 16, 2, 2).to(memory_format=torch.channels_last)
    for call in (lambda: linear(x), lambda: conv(image)):
        for _ in range(5000):
            call()
        gc.collect()
        before, (held, _) = resident(), backend.require().buffer_bytes()
        for _ in range(100_000):
            call()
        gc.collect()
        assert backend.require().buffer_bytes()[0] == held
        assert resident() - before < 1 << 20
