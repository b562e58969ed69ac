"""Drop-in inference modules that run on the engine."""

from sparsekd.nn._linear import Linear as Linear

__all__ = ["Linear"]
