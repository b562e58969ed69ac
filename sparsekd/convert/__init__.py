"""From a trained torch model to an engine model and back.

``convert`` puts engine layers where the model's schemes and data flow allow it and reports on
every leaf module; ``to_float`` goes the other way.
"""

from sparsekd.convert._checks import refuse_hooks
from sparsekd.convert._convert import KERNELS, convert
from sparsekd.convert._flow import activation_name, holders
from sparsekd.convert._report import ConversionReport, ConversionRow
from sparsekd.convert._restore import FusedActivation, substitute, to_float

__all__ = [
    "KERNELS",
    "ConversionReport",
    "ConversionRow",
    "FusedActivation",
    "activation_name",
    "convert",
    "holders",
    "refuse_hooks",
    "substitute",
    "to_float",
]
