"""The probes of the machine's limits: they run, count their work and refuse nonsense."""

from __future__ import annotations

import pytest
import torch

from sparsekd import backend

native = backend.require()


def test_the_cpu_decides_which_rates_there_are() -> None:
    features = backend.info()["cpu_features"]
    names = native.rate_names()
    assert ("vpdpbusd" in names) == ("avx512_vnni" in features)
    assert ("vpermb+dot" in names) == ({"avx512_vnni", "avx512_vbmi"} <= set(features))
    assert ("vpermps+fma" in names) == ("avx512f" in features)
    assert ("fma" in names) == (bool({"avx512f", "avx2"} & set(features)))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_work_grows_with_turns_and_threads(threads: int) -> None:
    for name in native.rate_names():
        once = native.run_rate(name, 1, 1)
        assert once > 0
        assert native.run_rate(name, 1000, threads) == 1000 * threads * once


def test_memory_is_read_in_parts_of_each_thread() -> None:
    data = torch.zeros(1 << 16, dtype=torch.uint8)
    start = -data.data_ptr() % 64
    for threads in (1, 2, 3):
        size = 512 * 7 + 100  # the last 100 bytes are no whole block
        assert native.read_memory(data.data_ptr() + start, size, 5, threads) == 512 * 7 * 5


def test_what_can_not_be_measured_is_refused() -> None:
    data = torch.zeros(4096, dtype=torch.uint8)
    start = data.data_ptr() + -data.data_ptr() % 64
    with pytest.raises(ValueError, match="no rate 'warp' on this CPU; there are: "):
        native.run_rate("warp", 1, 1)
    for turns in (0, -1):
        with pytest.raises(ValueError, match="expected at least 1"):
            native.read_memory(start, 1024, turns, 1)
    for name in native.rate_names()[:1]:
        with pytest.raises(ValueError, match="turns: 0, expected at least 1"):
            native.run_rate(name, 0, 1)
    with pytest.raises(ValueError, match="not aligned"):
        native.read_memory(start + 1, 1024, 1, 1)
    with pytest.raises(ValueError, match="bytes: 512, expected at least 1024"):
        native.read_memory(start, 512, 1, 2)
    with pytest.raises(ValueError, match="freed"):
        native.read_memory(0, 1024, 1, 1)
