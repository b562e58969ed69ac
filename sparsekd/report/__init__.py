"""How results are shown: tables on the terminal, pictures in files."""

from sparsekd.report.console import show
from sparsekd.report.pictures import Series, accuracy_latency_picture

__all__ = ["Series", "accuracy_latency_picture", "show"]
