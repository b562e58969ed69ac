"""Comparisons with other engines, in one run and by one protocol."""

from sparsekd.bench.conv import ConvBenchConfig, bench_conv
from sparsekd.bench.conv_result import ConvBenchResult
from sparsekd.bench.linear import LinearBenchConfig, bench_linear
from sparsekd.bench.linear_result import LinearBenchResult
from sparsekd.bench.model import ModelBenchConfig, bench_model
from sparsekd.bench.model_result import ModelBenchResult

__all__ = [
    "ConvBenchConfig",
    "ConvBenchResult",
    "LinearBenchConfig",
    "LinearBenchResult",
    "ModelBenchConfig",
    "ModelBenchResult",
    "bench_conv",
    "bench_linear",
    "bench_model",
]
