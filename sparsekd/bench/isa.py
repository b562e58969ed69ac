"""An instruction set forced on an engine for a while."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from sparsekd import backend

__all__ = ["forced_isa"]

# What comes closest in oneDNN, which torch's quantized layers call.
_ONEDNN = {
    "scalar": "SSE41",
    "avx2": "AVX2",
    "avx512": "AVX512_CORE",
    "avx512_vnni": "AVX512_CORE_VNNI",
    "avx512_vbmi": "AVX512_CORE_VNNI",
    "avx512_bf16": "AVX512_CORE_BF16",
}


@contextmanager
def forced_isa(name: str) -> Iterator[None]:
    """Our engine on an instruction set, "" for the best; torch's dynamic int8 on its like.

    torch's quantized layers go through FBGEMM, which can not be restricted, so they are made with
    oneDNN meanwhile, which reads ONEDNN_MAX_CPU_ISA when it is first called: in a process that has
    called it before, set the variable from outside. torch's fp32 goes through MKL and stays as it
    is.

    Raises:
        ValueError: the name is unknown or not available here.
    """
    if not name:
        yield
        return
    os.environ.setdefault("ONEDNN_MAX_CPU_ISA", _ONEDNN.get(name, "DEFAULT"))
    engine = torch.backends.quantized.engine
    torch.backends.quantized.engine = "onednn"
    backend.set_isa(name)
    try:
        yield
    finally:
        backend.set_isa(None)
        torch.backends.quantized.engine = engine
