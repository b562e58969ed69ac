"""The limits of the machine, as one more point of a comparison."""

from __future__ import annotations

from sparsekd.bench.journal import Journal
from sparsekd.bench.rates import memory_contenders, rate_contenders, rate_names
from sparsekd.bench.record import key_of
from sparsekd.bench.runner import Timing, run_point
from sparsekd.bench.study_result import threads_text
from sparsekd.benchmark import torch_threads

__all__ = ["measure_limits"]


def measure_limits(journal: Journal, threads: int, timing: Timing) -> None:
    """Measure every limit that there is, unless the journal has them."""
    case = {"machine": "limits", "threads": threads}
    if key_of(case) in journal.points:
        return
    with torch_threads(threads):
        journal.add(
            run_point(
                None,
                [*rate_contenders(rate_names(), threads), *memory_contenders(threads)],
                timing,
                title=f"limits of the machine, {threads_text(threads)}",
                case=case,
                error_of=lambda *_: 0.0,
                bounds={},
            )
        )
