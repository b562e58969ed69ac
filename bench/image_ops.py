"""Pooling, adding and residuals beside torch: the figures of docs/kernels.md.

    python bench/image_ops.py [--threads 1] [--json image_ops.json]

Each line is one operation on one size, called through ``torch.ops.sparsekd`` as a model calls it:
u8 images, fp32 in channels_last and NCHW, and torch's fp32 on the same images. A convolution with a
residual is timed beside the same convolution alone and beside one that is followed by the sum.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sparsekd import ops
from sparsekd.backend import ConvGeometry
from sparsekd.bench.conv_ours import u8_layer
from sparsekd.benchmark import BenchmarkTable, benchmark
from sparsekd.environment import busy_note, environment, where_text
from sparsekd.numerics import quantize_weight
from sparsekd.prune import prune_

Call = Callable[..., Tensor]
U8 = (0.02, 7)  # scale and zero point of the bytes
OUT = (0.03, 5)
COPIES = 4  # of the inputs, among which calls rotate


def pools() -> dict[str, tuple[tuple[int, ...], Call, Call, Call]]:
    """By title: size of the images, and the op on u8, on fp32 and torch's on fp32."""
    native = torch.ops.sparsekd
    maximum = (3, 2, 1, 1, False)
    average = (2, 2, 0, False, True, None)
    return {
        "3x3/2 maximum": (
            (1, 64, 56, 56),
            lambda x: native.max_pool2d(x, *maximum),
            lambda x: native.max_pool2d(x, *maximum),
            lambda x: F.max_pool2d(x, 3, 2, 1),
        ),
        "2x2/2 average": (
            (1, 64, 56, 56),
            lambda x: native.avg_pool2d(x, *average, *U8, *OUT),
            lambda x: native.avg_pool2d(x, *average),
            lambda x: F.avg_pool2d(x, 2, 2),
        ),
        "global average": (
            (1, 2048, 7, 7),
            lambda x: native.global_avg_pool(x, *U8, *OUT),
            native.global_avg_pool,
            lambda x: F.adaptive_avg_pool2d(x, 1),
        ),
    }


def images(shape: tuple[int, ...], layout: torch.memory_format | None) -> list[Tensor]:
    """u8 in channels_last where no layout is given, else fp32."""
    if layout is None:
        made = [torch.randint(0, 256, shape, dtype=torch.uint8) for _ in range(COPIES)]
        return [x.contiguous(memory_format=torch.channels_last) for x in made]
    return [torch.randn(shape).contiguous(memory_format=layout) for _ in range(COPIES)]


def rotated(call: Call, *inputs: list[Tensor]) -> Callable[[int], Tensor]:
    """The call on the k-th of its own inputs: contenders of a line differ in theirs."""
    rows = list(zip(*inputs, strict=True))
    return lambda k: call(*rows[k])


def sides(u8: Call, ours: Call, theirs: Call, shapes: list[tuple[int, ...]]) -> dict[str, Call]:
    nhwc, nchw = torch.channels_last, torch.contiguous_format
    made: dict[str, Call] = {}
    for name, call, layout in (
        ("torch fp32 NHWC", theirs, nhwc),
        ("torch fp32 NCHW", theirs, nchw),
        ("sparsekd u8", u8, None),
        ("sparsekd fp32 NHWC", ours, nhwc),
        ("sparsekd fp32 NCHW", ours, nchw),
    ):
        made[name] = rotated(call, *(images(shape, layout) for shape in shapes))
    return made


def with_residual(channels: tuple[int, int], size: int, pattern: str | None) -> dict[str, Call]:
    """A 1x1 convolution u8 to u8: alone, with a residual of either type, with a sum after it."""
    conv = torch.nn.Conv2d(*channels, 1)
    if pattern is not None:
        prune_(conv, pattern)
    integers, scale = quantize_weight(conv.weight.detach())
    geometry = ConvGeometry(channels, (1, 1), (1, 1), (1, 1), (0, 0, 0, 0), 1)
    kernel = "dense" if pattern is None else "windowed"
    taps = integers.movedim(1, -1).flatten(1, 2).contiguous()
    handle, _ = u8_layer(taps, scale, conv.bias, geometry, kernel, U8[0], None)
    x = images((1, channels[0], size, size), None)
    shape = (1, channels[1], size, size)
    r, floats = images(shape, None), images(shape, torch.channels_last)

    def run(x: Tensor, residual: tuple[Tensor, float, int] | None = None) -> Tensor:
        return ops.run_conv2d(handle, geometry, x, OUT, residual)

    return {
        "alone": rotated(run, x),
        "u8 residual": rotated(lambda x, r: run(x, (r, *U8)), x, r),
        "fp32 residual": rotated(lambda x, r: run(x, (r, 1.0, 0)), x, floats),
        "alone, then add": rotated(
            lambda x, r: torch.ops.sparsekd.add(run(x), r, "none", *OUT, *U8, *OUT), x, r
        ),
    }


def studies() -> dict[str, dict[str, Call]]:
    """Contenders by the title of their line."""
    made = {}
    for title, (shape, u8, ours, theirs) in pools().items():
        made[f"{title} {text(shape)}"] = sides(u8, ours, theirs, [shape])
    native = torch.ops.sparsekd.add
    for shape in ((1, 256, 28, 28), (1, 64, 7, 7)):
        made[f"sum {text(shape)}"] = sides(
            lambda a, b: native(a, b, "none", *U8, *U8, *OUT),
            lambda a, b: native(a, b),
            torch.add,
            [shape, shape],
        )
    for channels, size in (((64, 256), 28), ((256, 1024), 7)):
        for pattern in (None, "8:32", "4:32"):
            title = f"1x1 {channels[0]}->{channels[1]} {size}x{size} {pattern or 'dense'}"
            made[title] = with_residual(channels, size, pattern)
    return made


def text(shape: tuple[int, ...]) -> str:
    return f"{shape[2]}x{shape[3]}x{shape[1]}"


def line(title: str, table: BenchmarkTable) -> str:
    times = ", ".join(f"{row.model} {row.samples.median * 1e6:.1f}" for row in table.rows)
    return f"{title}: {times} us"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write all medians, in seconds")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(arguments.threads)
    where = environment()
    print(where_text(where))
    if (note := busy_note(where)) is not None:
        print(note)
    found = {}
    with torch.inference_mode():
        for title, calls in studies().items():
            table = benchmark(calls, list(range(COPIES)))
            print(line(title, table), flush=True)
            found[title] = {row.model: row.samples.median for row in table.rows}
    if arguments.json is not None:
        document = {"median_s": found, "environment": where}
        arguments.json.write_text(json.dumps(document, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
