"""Two result files of `sparsekd bench` side by side: which points got slower, which faster.

    python bench/compare.py before.json after.json
    python bench/compare.py before.json after.json --fail      # exit status 1 where ours got slower

Works for linear, conv and model results. A change counts when it is larger than the tolerance and
the two ranges from p10 to p90 do not overlap; smaller ones are noise. Figures of two runs differ by
the hour: the engines of others, which did not change, are listed to show by how much.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SCHEMA = 1


@dataclass(frozen=True)
class Change:
    """One engine at one point, before and after.

    Attributes:
        verdict: "slower", "faster" or "same".
    """

    title: str
    engine: str
    ours: bool
    before_s: float
    after_s: float
    verdict: str

    @property
    def ratio(self) -> float:
        """Time before over time after; above 1 it got faster."""
        return self.before_s / self.after_s


def read(path: Path) -> Mapping[str, Any]:
    """A result file.

    Raises:
        ValueError: it is none, or one of another schema.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: no JSON ({error})") from error
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        schema = found.get("schema") if isinstance(found, dict) else None
        raise ValueError(
            f"{path}: schema {schema!r}, expected {SCHEMA}: no result of sparsekd bench"
        )
    return found


def engines(result: Mapping[str, Any]) -> dict[tuple[str, str], tuple[str, Mapping[str, Any]]]:
    """(case, engine) -> (title of the point, what was measured)."""
    return {
        (json.dumps(point["case"], sort_keys=True), entry["name"]): (point["title"], entry)
        for point in result["points"]
        for entry in point["engines"]
    }


def verdict(before: Mapping[str, Any], after: Mapping[str, Any], tolerance: float) -> str:
    """ "slower", "faster" or, within the tolerance or the spread, "same"."""
    if after["median_s"] > before["median_s"] * (1 + tolerance):
        return "slower" if after["p10_s"] > before["p90_s"] else "same"
    if before["median_s"] > after["median_s"] * (1 + tolerance):
        return "faster" if after["p90_s"] < before["p10_s"] else "same"
    return "same"


def changes(
    before: Mapping[str, Any], after: Mapping[str, Any], tolerance: float = 0.05
) -> tuple[list[Change], list[str]]:
    """What both have, in the order of the first, and (as text) what only one of them has.

    Raises:
        ValueError: they are results of different commands.
    """
    if before["what"] != after["what"]:
        raise ValueError(f"one is of bench {before['what']}, the other of bench {after['what']}")
    old, new = engines(before), engines(after)
    both = []
    for key, (title, entry) in old.items():
        if key in new:
            other = new[key][1]
            times = entry["median_s"], other["median_s"]
            told = verdict(entry, other, tolerance)
            both.append(Change(title, entry["name"], entry["ours"], *times, told))
    alone = [f"only before: {old[key][0]}, {key[1]}" for key in old if key not in new]
    alone += [f"only after: {new[key][0]}, {key[1]}" for key in new if key not in old]
    return both, alone


def table(lines: Sequence[Change]) -> Iterable[str]:
    """A line for each, as text."""
    heads = ("point", "engine", "before, ms", "after, ms", "before/after", "")
    cells = [
        (c.title, c.engine, f"{1e3 * c.before_s:.4g}", f"{1e3 * c.after_s:.4g}", f"{c.ratio:.2f}x",
         "" if c.verdict == "same" else c.verdict)
        for c in lines
    ]  # fmt: skip
    widths = [max(len(row[i]) for row in (heads, *cells)) for i in range(len(heads))]
    for row in (heads, *cells):
        left = [row[i].ljust(widths[i]) for i in (0, 1)]
        right = [row[i].rjust(widths[i]) for i in (2, 3, 4)]
        yield "  ".join([*left, *right, row[5]]).rstrip()


def mean_ratio(lines: Sequence[Change]) -> str:
    """The geometric mean of before/after, as text."""
    if not lines:
        return "none"
    mean = math.exp(sum(math.log(c.ratio) for c in lines) / len(lines))
    return f"{mean:.3f}x over {len(lines)}"


def main(argv: Sequence[str] | None = None) -> int:
    """0: compared; 1: with --fail, ours got slower somewhere; 2: nothing to compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--tolerance", type=float, default=0.05, help="changes below it are noise")
    parser.add_argument("--all", action="store_true", help="list what stayed the same as well")
    parser.add_argument("--fail", action="store_true", help="exit status 1 where ours got slower")
    arguments = parser.parse_args(argv)
    try:
        both, alone = changes(read(arguments.before), read(arguments.after), arguments.tolerance)
        if not both:
            raise ValueError("the two files have no point in common")
    except (OSError, ValueError) as error:
        print(f"compare: error: {error}", file=sys.stderr)
        return 2
    shown = both if arguments.all else [c for c in both if c.verdict != "same"]
    shown = sorted(shown, key=lambda c: (not c.ours, c.ratio))
    print("\n".join(table(shown)) if shown else "nothing changed beyond its spread")
    print("\n".join(alone))
    ours = [c for c in both if c.ours]
    slower = [c for c in ours if c.verdict == "slower"]
    faster = [c for c in ours if c.verdict == "faster"]
    print(f"ours: {len(slower)} slower, {len(faster)} faster of {len(ours)}")
    print(f"geometric mean of before/after: ours {mean_ratio(ours)}", end="; ")
    print(f"others (the two hours) {mean_ratio([c for c in both if not c.ours])}")
    return 1 if arguments.fail and slower else 0


if __name__ == "__main__":
    sys.exit(main())
