"""Whatever the caller has set in the floating-point unit: the same bits, and it stays set."""

from __future__ import annotations

import ctypes
import ctypes.util
import platform
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from sparsekd import backend
from sparsekd import nn as engine
from sparsekd.spec import Int8

ROUNDINGS = {"downward": 0x400, "upward": 0x800, "towards zero": 0xC00}  # x86-64, <fenv.h>
X86 = platform.machine() in ("x86_64", "AMD64")
SMALLEST_NORMAL = torch.finfo(torch.float32).tiny


def layers() -> Iterator[tuple[engine.Linear, Tensor]]:
    """Layers with subnormal outputs and inputs, small and above the one-thread limit."""
    for inputs, outputs, rows in [(70, 37, 5), (700, 530, 40)]:
        layer = nn.Linear(inputs, outputs)
        with torch.no_grad():
            layer.weight.mul_(1e-20)
            layer.bias.mul_(1e-38)
        x = torch.randn(rows, inputs) * 1e-20
        x[1] *= 1e-20  # a row of subnormals
        x[2, ::2] = 1e-41
        x[3] *= 1e20
        for kernel in backend.KERNELS:
            for activation in (None, "gelu", "silu"):
                yield (
                    engine.Linear.from_float(
                        layer, scheme=Int8(), kernel=kernel, activation=activation
                    ),
                    x,
                )


def subnormal_product() -> float:
    """Zero where the unit flushes subnormals."""
    return float((torch.full((8,), 1e-40) * 0.5).max())


def test_flush_denormal_changes_nothing_and_stays(isa: str) -> None:
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU can not flush subnormals")
    torch.set_flush_denormal(False)
    assert subnormal_product() != 0.0
    subnormal = 0
    for layer, x in layers():
        wanted = layer(x).view(torch.int32)
        magnitude = layer(x).abs()
        subnormal += int(((magnitude > 0) & (magnitude < SMALLEST_NORMAL)).sum())
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            torch.set_flush_denormal(True)
            got = layer(x).view(torch.int32)
            still = subnormal_product()
            torch.set_flush_denormal(False)
            assert torch.equal(got, wanted)
            assert still == 0.0
            assert torch.equal(layer(x).view(torch.int32), wanted)
            assert subnormal_product() != 0.0
        torch.set_num_threads(1)
    assert subnormal > 1000  # or the test would prove nothing


@pytest.mark.skipif(not X86, reason="rounding modes are numbered differently elsewhere")
@pytest.mark.parametrize("mode", ROUNDINGS)
def test_rounding_mode_changes_nothing_and_stays(isa: str, mode: str) -> None:
    libm = ctypes.CDLL(ctypes.util.find_library("m"))
    before = libm.fegetround()
    for layer, x in layers():
        for threads in (1, 2):
            torch.set_num_threads(threads)
            wanted = layer(x)
            try:
                assert libm.fesetround(ROUNDINGS[mode]) == 0
                got = layer(x)
                still = libm.fegetround()
                other = x / 3
            finally:
                libm.fesetround(before)
            assert torch.equal(got.view(torch.int32), wanted.view(torch.int32))
            assert still == ROUNDINGS[mode]
            assert not torch.equal(other, x / 3)  # the mode was in force for torch's own code
    assert libm.fegetround() == before


def test_trapping_exceptions_do_not_reach_the_engine() -> None:
    """A caller that traps invalid operations: rows with NaN and Inf must not kill the process."""
    libm = ctypes.util.find_library("m")
    if libm is None or not hasattr(ctypes.CDLL(libm), "feenableexcept"):
        pytest.skip("needs glibc's feenableexcept")
    program = f"""
import ctypes, torch
from sparsekd import backend, nn
from sparsekd.spec import Int8
libm = ctypes.CDLL({libm!r})
layer = nn.Linear.from_float(torch.nn.Linear(70, 37), scheme=Int8(), activation="gelu")
x = torch.randn(6, 70)
x[1, 3], x[2, 4], x[3] = float("nan"), float("inf"), 1e-42
wanted = layer(x)
for name in backend.available_isas():
    backend.set_isa(name)
    libm.feenableexcept(0x1D)  # invalid, division by zero, overflow, underflow
    got = layer(x)
    left = libm.fedisableexcept(0x3F)
    assert left == 0x1D, left
    assert torch.equal(got.view(torch.int32), wanted.view(torch.int32))
print("done")
"""
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr[-2000:]
