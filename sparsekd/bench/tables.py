"""How studies are told: tables for the terminal, and in Markdown for documents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from sparsekd.bench.record import Entry, Point
from sparsekd.bench.studies import Fit, Group, Study
from sparsekd.benchmark import MARK, Samples, digits, format_ratio, format_times

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "absent_lines",
    "fit_table",
    "markdown",
    "new_table",
    "rate_lines",
    "share_table",
    "study_table",
]

BUSY = "~"  # behind a point measured while others used the cores or a host shared them
_SHORT = (("ONNX Runtime", "ORT"), (" int8", ""), (" fp32", ""), (" static", ""))


def short_name(name: str) -> str:
    """An engine's name for a narrow column, without its arithmetic.

    >>> short_name("ONNX Runtime int8 dynamic")
    'ORT dynamic'
    """
    for long, short in _SHORT:
        name = name.replace(long, short)
    return name


def spread(samples: Samples) -> float:
    """Half the distance from p10 to p90, as a share of the median."""
    return (samples.p90 - samples.p10) / 2 / samples.median


def study_table(study: Study, points: Sequence[Point], groups: Sequence[Group]) -> Table:
    """A line for each point: the yardstick's time, ours and the ratios; below them the means."""
    rows, columns = study.rows(points), study.columns(points)
    alone = len({column.family for column in columns if column.sparsity is not None}) < 2
    table = new_table(study.title)
    table.add_column("")
    table.add_column("yardstick, ms", justify="right")
    table.add_column("±%", justify="right")
    for column in columns:
        table.add_column(column.label(alone=alone), justify="right")
    for point in rows:
        bases = [study.yardstick(point, column) for column in columns]
        base = next(filter(None, bases), None)
        shown = [base, *(point.find(c.family, c.sparsity) for c in columns)]
        widest = max((spread(entry.samples) for entry in shown if entry), default=0.0)
        cells = [
            _cell(entry, study.ratio(point, column))
            for column, entry in zip(columns, shown[1:], strict=True)
        ]
        one = base if len({entry.name for entry in bases if entry}) < 2 else None
        title = f"{point.title} {BUSY}" if point.busy else point.title
        table.add_row(title, _base_cell(one), f"{100 * widest:.0f}", *cells)
    table.add_section()
    for name, cells in summary_rows(study, points, groups):
        table.add_row(name, "", "", *cells)
    return table


def summary_rows(
    study: Study, points: Sequence[Point], groups: Sequence[Group]
) -> Iterable[tuple[str, list[str]]]:
    """(name, a cell for each column): means, smallest ratios, and what is under the floor."""
    columns = study.columns(points)
    seen = set()
    for group in groups:
        members = frozenset(p.title for p in study.rows(points) if group[1](p))
        if not members or members in seen:
            continue
        seen.add(members)
        found = [study.summary(points, column, group) for column in columns]
        if any(s and s.points for s in found):
            means = [format_ratio(s.mean) if s and s.mean else "-" for s in found]
            yield f"mean, {group[0]}", means
            least = [format_ratio(s.smallest) if s and s.smallest else "-" for s in found]
            yield f"least, {group[0]}", least
        if any(s and s.below for s in found) and len(seen) == 1:
            floor = f"as fast, <{1e6 * study.floor_s:.0f} µs"
            yield floor, [f"{s.as_fast} of {s.below}" if s else "-" for s in found]


def share_table(study: Study, points: Sequence[Point]) -> Table:
    """Useful multiply-adds a second over the rate that was measured beside them."""
    rows, columns = study.rows(points), study.columns(points)
    alone = len({column.family for column in columns if column.sparsity is not None}) < 2
    table = new_table(f"useful multiply-adds over the measured rate of {study.rate}")
    table.add_column("")
    table.add_column("rate, G/s", justify="right")
    for column in columns:
        table.add_column(column.label(alone=alone), justify="right")
    for point in rows:
        limit = point.rate(study.rate)
        if limit is not None:
            shares = [study.utilisation(point, column) for column in columns]
            cells = ["-" if share is None else f"{share:.2f}" for share in shares]
            table.add_row(point.title, f"{limit / 1e9:.0f}", *cells)
    return table


def fit_table(fits: Sequence[Fit]) -> Table:
    """The fixed part of each call, and what one multiply-add costs."""
    table = new_table("time = fixed + each · kept weights · rows")
    table.add_column("")
    for head in ("fixed, µs", "each, ps", "G/s at the margin", "largest residual"):
        table.add_column(head, justify="right")
    for line in fits:
        table.add_row(
            f"{line.title}, {line.family}",
            f"{1e6 * line.fixed_s:.2f}",
            f"{1e12 * line.each_s:.3f}",
            f"{1e-9 / line.each_s:.0f}" if line.each_s > 0 else "-",
            f"{100 * line.residual:.1f} %",
        )
    return table


def rate_lines(point: Point) -> list[str]:
    """The measured limits of the machine, a line each."""
    lines = []
    for entry in point.entries:
        amount, unit = (entry.work, "G multiply-adds/s") if entry.work else (entry.moved, "GB/s")
        if amount:
            rate = digits(amount / entry.seconds / 1e9)
            lines.append(f"{entry.name}: {rate} {unit} ±{100 * spread(entry.samples):.0f} %")
    return lines


def absent_lines(points: Iterable[Point]) -> list[str]:
    """Engines that were not timed and why, each reason once, with the first point that it hit."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for point in points:
        for name, why in point.absent.items():
            reasons.setdefault((name, why), []).append(point.title)
    return [
        f"{name}: {why} ({titles[0]}{f' and {len(titles) - 1} more' if titles[1:] else ''})"
        for (name, why), titles in reasons.items()
    ]


def markdown(study: Study, points: Sequence[Point], head: str) -> str:
    """The lines of a study as a Markdown table, without its means."""
    rows, columns = study.rows(points), study.columns(points)
    names = [head, "yardstick, ms", *(column.label(alone=True) for column in columns)]
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    for point in rows:
        base = next(filter(None, (study.yardstick(point, c) for c in columns)), None)
        cells = [point.title, _base_cell(base)]
        for column in columns:
            entry = point.find(column.family, column.sparsity)
            cells.append(_cell(entry, study.ratio(point, column), brackets=True))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(entry: Entry | None, ratio: float | None, *, brackets: bool = False) -> str:
    if entry is None:
        return "-"
    time = format_times(entry.samples)[0]
    if ratio is None:
        return time
    told = format_ratio(ratio)
    if brackets:
        told = told.replace("x", "×").replace(f" {MARK}", " slower")
        return f"{time} ({told})"
    return f"{time} [red]{told}[/red]" if ratio < 1 else f"{time} {told}"


def _base_cell(entry: Entry | None) -> str:
    if entry is None:
        return ""
    return f"{short_name(entry.name)} {format_times(entry.samples)[0]}"


def new_table(title: str) -> Table:
    from rich import box
    from rich.table import Table

    # Cells may wrap between time and ratio, where there is no room; they are never cut.
    return Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
