"""One safetensors file for a whole model: ``save`` and ``load``. Format: docs/file-format.md."""

from sparsekd.io._load import load
from sparsekd.io._manifest import VERSION, FileFormatError
from sparsekd.io._save import save

__all__ = ["VERSION", "FileFormatError", "load", "save"]
