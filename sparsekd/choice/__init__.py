"""Which kernel a layer gets by measurement: timing in the running model, deciding, reporting.

It knows modules that take turns and nothing of how they are made; ``convert`` makes them and
``tune`` is the public verb.
"""

from sparsekd.choice._break_even import BreakEven, break_even
from sparsekd.choice._decide import MARGIN, decide
from sparsekd.choice._measure import Contest, Trial, measure
from sparsekd.choice._options import Option
from sparsekd.choice._report import Call, Figure, LayerChoice, Machine, TuneReport
from sparsekd.choice._table import plain_table

__all__ = [
    "MARGIN",
    "BreakEven",
    "Call",
    "Contest",
    "Figure",
    "LayerChoice",
    "Machine",
    "Option",
    "Trial",
    "TuneReport",
    "break_even",
    "decide",
    "measure",
    "plain_table",
]
