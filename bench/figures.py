"""Measure the figures of the README and put them there.

    python bench/figures.py             # measure, print the tables
    python bench/figures.py --write     # and replace the block between the markers in README.md

It is `sparsekd bench linear --preset readme`, told in Markdown. An interrupted run goes on. The
quickstart's table and picture come from `sparsekd quickstart`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from sparsekd.bench import LinearBenchConfig, LinearBenchResult, bench_linear
from sparsekd.bench.tables import markdown
from sparsekd.environment import where_text

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- figures -->", "<!-- /figures -->"
COMMAND = "python bench/figures.py --write"


def tables(result: LinearBenchResult) -> Iterator[str]:
    """The studies of a result as Markdown, with what has to stand beside them."""
    for name, points in result.slices():
        for study in result.studies:
            if study.rows(points):
                yield f"{study.title[0].upper()}{study.title[1:]}, {name}:\n"
                yield markdown(study, points, "rows × in → out") + "\n"
    versions = sorted({e.version for p in result.layers() for e in p.entries if not e.ours})
    packages = ", ".join(text for text in versions if not text.startswith(("sparsekd ", "torch ")))
    date = result.environment["date"][:10]
    yield f"{where_text(result.environment)}{', ' if packages else ''}{packages}; {date}."
    busy = [point.title for point in result.points if point.busy]
    if busy:
        yield f"Others used the cores at {', '.join(busy)}: not to be quoted."
    yield f"To repeat: `{COMMAND}`."


def replaced(text: str, block: str) -> str:
    """A document with what stands between its markers replaced.

    Raises:
        ValueError: it does not have each marker once, in order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"the document needs one {BEGIN} and behind it one {END}")
    head, rest = text.split(BEGIN)
    return f"{head}{BEGIN}\n{block.rstrip()}\n{END}{rest.split(END)[1]}"


def main(argv: Sequence[str] | None = None) -> int:
    """0: done; 2: the document has no place for the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--write", action="store_true", help="replace the block in the document")
    parser.add_argument("--document", type=Path, default=ROOT / "README.md")
    parser.add_argument("--out", default="bench-out", help="folder for linear.json")
    arguments = parser.parse_args(argv)
    text = arguments.document.read_text(encoding="utf-8") if arguments.write else ""
    try:
        if arguments.write:
            replaced(text, "")  # before the minutes of work that it is for
    except ValueError as error:
        print(f"figures: error: {arguments.document}: {error}", file=sys.stderr)
        return 2
    block = "\n".join(tables(bench_linear(LinearBenchConfig(preset="readme", out=arguments.out))))
    print(block)
    if arguments.write:
        arguments.document.write_text(replaced(text, block), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
