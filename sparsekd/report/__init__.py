"""How results are shown: tables on the terminal, pictures in files."""

from sparsekd.report.bench_pictures import (
    Panel,
    RooflinePoint,
    roofline_picture,
    speedup_picture,
)
from sparsekd.report.console import show
from sparsekd.report.pictures import Series, accuracy_latency_picture
from sparsekd.report.time_bars import Bar, BarPanel, time_bars_picture

__all__ = [
    "Bar",
    "BarPanel",
    "Panel",
    "RooflinePoint",
    "Series",
    "accuracy_latency_picture",
    "roofline_picture",
    "show",
    "speedup_picture",
    "time_bars_picture",
]
