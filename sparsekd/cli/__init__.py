"""The command line: each command is one library call, and its flags are that call's arguments."""

from sparsekd.cli._main import main

__all__ = ["main"]
