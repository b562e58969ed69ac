"""Comparisons with other engines, in one run and by one protocol."""

from sparsekd.bench.linear import LinearBenchConfig, bench_linear
from sparsekd.bench.result import LinearBenchResult

__all__ = ["LinearBenchConfig", "LinearBenchResult", "bench_linear"]
