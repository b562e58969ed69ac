"""The whole way on real data: distill, prune, quantize, convert, verify, save, load, measure."""

from sparsekd.quickstart.config import QuickstartConfig
from sparsekd.quickstart.result import ModelRow, QuickstartResult
from sparsekd.quickstart.run import quickstart

__all__ = ["ModelRow", "QuickstartConfig", "QuickstartResult", "quickstart"]
