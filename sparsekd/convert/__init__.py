"""From a trained torch model to an engine model and back.

``convert`` puts engine layers where the model's schemes and data flow allow it and reports on
every leaf module; ``to_float`` goes the other way.
"""

from sparsekd.convert._checks import refuse_hooks
from sparsekd.convert._choose import KERNELS
from sparsekd.convert._convert import convert
from sparsekd.convert._fuse import activation_name
from sparsekd.convert._inputs import runs_of
from sparsekd.convert._kinds import LAYERS, EngineLayer, Sizes, engine_of, sizes_of
from sparsekd.convert._plan import Request, make_plan
from sparsekd.convert._report import ConversionReport, ConversionRow
from sparsekd.convert._restore import FoldedNorm, FusedActivation, substitute, to_float
from sparsekd.convert._rows import report_of
from sparsekd.convert._trial import SECONDS, measure_plan

__all__ = [
    "KERNELS",
    "LAYERS",
    "SECONDS",
    "ConversionReport",
    "ConversionRow",
    "EngineLayer",
    "FoldedNorm",
    "FusedActivation",
    "Request",
    "Sizes",
    "activation_name",
    "convert",
    "engine_of",
    "make_plan",
    "measure_plan",
    "refuse_hooks",
    "report_of",
    "runs_of",
    "sizes_of",
    "substitute",
    "to_float",
]
