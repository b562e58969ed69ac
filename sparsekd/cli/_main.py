"""From words to a command: parsing, help, one-line errors and exit codes."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import metadata
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from sparsekd.cli._commands import COMMANDS, GROUPS, Command

__all__ = ["main"]

_FAILED, _USAGE, _INTERRUPTED = 1, 2, 130


class _Formatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the examples."""


class _Parser(ArgumentParser):
    """Says in one line what is wrong and how to learn more."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        called = self.prog.replace(" [options]", "")
        said = " ".join(message.split())
        sys.stderr.write(f"{called}: error: {said} (see {called} --help)\n")
        raise SystemExit(_USAGE) from ex


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the words behind ``sparsekd``; None takes those of the process.

    Returns:
        The exit status: 0 done, 1 the command failed, 2 wrong usage, 130 interrupted.

    >>> main(["doctor"])
    0
    """
    try:
        parsed = _parser().parse_args(sys.argv[1:] if argv is None else list(argv))
        command, arguments = _leaf(parsed)
        return command.run(arguments)
    except SystemExit as stop:  # --help, --version, wrong usage
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        print("sparsekd: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except (ValueError, OSError, ImportError) as error:  # what its user can mend
        print(f"sparsekd: error: {' '.join(str(error).split())}", file=sys.stderr)
        return _FAILED


def _parser() -> ArgumentParser:
    """The whole grammar: a parser for each command, at the end of its words."""
    top = _new_parser(
        "sparsekd",
        "Distill, prune and quantize PyTorch models, and run them fast on CPUs.",
        "start with:\n  sparsekd quickstart          the whole way on real data, in two minutes\n"
        "  sparsekd COMMAND --help      what a command does, with examples",
    )
    version = f"sparsekd {metadata.version('sparsekd')}"
    top.add_argument("--version", action="version", version=version, help="Print the version.")
    branches: dict[tuple[str, ...], Any] = {
        (): top.add_subcommands(dest="command", metavar="COMMAND", title="commands")
    }
    for command in COMMANDS:
        *path, last = command.words
        branch = tuple(path)
        if branch not in branches:
            branches[branch] = _add_group(branches[()], *branch)
        leaf = _new_parser(
            " ".join(["sparsekd", *command.words]),
            command.description,
            "examples:\n" + "\n".join(f"  {example}" for example in command.examples),
        )
        command.add_arguments(leaf)
        branches[branch].add_subcommand(last, leaf, help=command.description)
    return top


def _add_group(top: Any, word: str) -> Any:
    """The place for the commands that begin with this word."""
    group = _new_parser(f"sparsekd {word}", GROUPS[word])
    top.add_subcommand(word, group, help=GROUPS[word])
    return group.add_subcommands(dest="command", metavar="WHAT", title="commands")


def _new_parser(prog: str, description: str, epilog: str = "") -> ArgumentParser:
    return _Parser(prog=prog, description=description, epilog=epilog, formatter_class=_Formatter)


def _leaf(parsed: Any) -> tuple[Command, Any]:
    """The command that was named, and its own arguments."""
    words: list[str] = []
    while "command" in parsed:
        words.append(parsed.command)
        parsed = parsed[parsed.command]
    return next(c for c in COMMANDS if c.words == tuple(words)), parsed
