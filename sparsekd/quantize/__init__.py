"""Fake quantization: layers that compute the engine's integers in torch, and can be trained.

>>> prepare_(model, Int8("static"))
>>> calibrate(model, batches)
"""

from sparsekd.quantize._calibrate import calibrate as calibrate
from sparsekd.quantize._fake_quant import FakeQuantLinear as FakeQuantLinear
from sparsekd.quantize._fake_quant_conv import FakeQuantConv1d as FakeQuantConv1d
from sparsekd.quantize._fake_quant_conv import FakeQuantConv2d as FakeQuantConv2d
from sparsekd.quantize._prepare import PrepareReport as PrepareReport
from sparsekd.quantize._prepare import prepare_ as prepare_
from sparsekd.quantize._prepare import remove_ as remove_
from sparsekd.spec import Int8 as Int8

__all__ = [
    "FakeQuantConv1d",
    "FakeQuantConv2d",
    "FakeQuantLinear",
    "Int8",
    "PrepareReport",
    "calibrate",
    "prepare_",
    "remove_",
]
