"""``python -m sparsekd`` is the same as ``sparsekd``."""

import sys

from sparsekd.cli import main

if __name__ == "__main__":
    sys.exit(main())
