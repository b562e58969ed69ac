"""Drop-in inference modules that run on the engine."""

from sparsekd import image_ops as image_ops  # registers what stands between layers
from sparsekd.nn._conv import Conv1d as Conv1d
from sparsekd.nn._conv import Conv2d as Conv2d
from sparsekd.nn._engine import EngineModule as EngineModule
from sparsekd.nn._linear import Linear as Linear

__all__ = ["Conv1d", "Conv2d", "EngineModule", "Linear"]
