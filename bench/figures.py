"""Measure the figures of the README and put them there.

    python bench/figures.py                          # measure everything, print the blocks
    python bench/figures.py --write                  # and put them into README.md
    python bench/figures.py --write --only linear    # one of them: linear, models, quickstart, cnn

The blocks are `sparsekd bench linear --preset readme`, `sparsekd bench model` and `sparsekd
quickstart`, told for a document. An interrupted benchmark goes on where it was.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sparsekd.bench import (
    LinearBenchConfig,
    LinearBenchResult,
    ModelBenchConfig,
    ModelBenchResult,
    bench_linear,
    bench_model,
)
from sparsekd.bench.record import Entry, Point
from sparsekd.bench.tables import markdown, short_name
from sparsekd.benchmark import MARK, digits, format_ratio
from sparsekd.environment import where_text
from sparsekd.quickstart import QuickstartConfig, quickstart
from sparsekd.report import show

ROOT = Path(__file__).resolve().parents[1]
MODELS = "resnet18,resnet50,mobilenetv2,minilm"
END = "<!-- /figures -->"


def linear(out: Path) -> str:
    """Linear layers against everyone."""
    return "\n".join(linear_lines(bench_linear(LinearBenchConfig(preset="readme", out=str(out)))))


def models(out: Path) -> str:
    """Whole models against everyone, and where the time of ours goes."""
    config = ModelBenchConfig(models=MODELS, rounds=5, out=str(out))
    return "\n".join(model_lines(bench_model(config)))


def mlp(out: Path) -> str:
    """What the quickstart prints; its picture goes beside the document's others."""
    text = _quickstart(QuickstartConfig(out=str(out / "mlp")))
    shutil.copyfile(out / "mlp" / "quickstart.png", ROOT / "docs" / "quickstart.png")
    return text


def cnn(out: Path) -> str:
    """What the quickstart with convolutions prints."""
    return _quickstart(QuickstartConfig(model="cnn", out=str(out / "cnn")))


BLOCKS: Mapping[str, Callable[[Path], str]] = {
    "quickstart": mlp,
    "cnn": cnn,
    "linear": linear,
    "models": models,
}


def _quickstart(config: QuickstartConfig) -> str:
    result = quickstart(config)
    if not result.verified:
        raise RuntimeError(f"the quickstart of {config.model} does not hold against torch")
    stream = io.StringIO()
    show(replace(result, files=()), stream)  # where they stand here is nobody's concern
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    return "```\n" + "\n".join(lines).strip() + "\n```"


def linear_lines(result: LinearBenchResult) -> Iterator[str]:
    """The studies of a result as Markdown, with what has to stand beside them."""
    for name, points in result.slices():
        for study in result.studies:
            if study.rows(points):
                yield f"{study.title[0].upper()}{study.title[1:]}, {name}:\n"
                yield markdown(study, points, "rows × in → out") + "\n"
    yield from _origin(result.environment, result.layers(), "linear")


def model_lines(result: ModelBenchResult) -> Iterator[str]:
    """Whole models as Markdown: times, where ours goes, and how well outputs agree."""
    points = result.points
    names = list(dict.fromkeys(v.name for model in result.models for v in model.variants))
    heads = ["", "torch fp32", "best dense fp32", "best dense int8", *map(_our_name, names)]
    yield f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}"
    for point in points:
        mine = {entry.name: entry for entry in point.entries}
        torches = [e for e in point.entries if e.name.startswith("torch fp32")]
        cells = [point.title, _ms(min(torches, key=lambda e: e.seconds, default=None))]
        cells += [_named(point.best("dense fp32")), _named(point.best("dense int8"))]
        cells += [_ratio(point, mine.get(name)) for name in names]
        yield f"| {' | '.join(cells)} |"
    yield "\nWhere it goes in our convolutional networks (ms; timed apart, calls in a row):\n"
    heads = ["", "", "whole", "kernels", "fp32 edges of the layers", "torch between"]
    yield f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}"
    for model in result.models:
        for split in model.splits:
            times = (split.whole, split.kernels, split.edges, split.between)
            told = " | ".join(digits(1e3 * time) for time in times)
            yield f"| {model.name} {split.case} | {_our_name(split.variant)} | {told} |"
    layers = [v.verified.layers for model in result.models for v in model.variants]
    equal = sum(check.rule == "exact" and not check.differ for checks in layers for check in checks)
    yield (
        f"\n{equal} of {sum(map(len, layers))} converted layers of the {len(layers)} models agreed "
        "bit for bit with fake quantization. Cosine of the outputs to the fp32 model's, in "
        "brackets of the model pruned in fp32:"
    )
    for model in result.models:
        told = ", ".join(
            f"{_our_name(v.name)} {v.to_float.mean:.3f}"
            + (f" ({v.pruned_to_float.mean:.3f})" if v.sparsity else "")
            for v in model.variants
        )
        yield f"- {model.name} ({model.note}): {told}"
    yield ""
    yield from _origin(result.environment, points, "models")


def _origin(environment: Mapping[str, Any], points: Sequence[Point], block: str) -> Iterator[str]:
    """Where and when, with what; and what must not be quoted."""
    versions = sorted({e.version for p in points for e in p.entries if not e.ours})
    packages = ", ".join(text for text in versions if not text.startswith(("sparsekd ", "torch ")))
    comma = ", " if packages else ""
    yield f"{where_text(environment)}{comma}{packages}; {environment['date'][:10]}."
    busy = [point.title for point in points if point.busy]
    if busy:
        yield f"Others used the cores at {', '.join(busy)}: not to be quoted."
    yield f"To repeat: `python bench/figures.py --write --only {block}`."


def _our_name(name: str) -> str:
    return name.replace("sparsekd", "ours")


def _ms(entry: Entry | None) -> str:
    return digits(1e3 * entry.seconds) if entry else "-"


def _named(entry: Entry | None) -> str:
    return f"{_ms(entry)} {short_name(entry.name)}" if entry else "-"


def _ratio(point: Point, entry: Entry | None) -> str:
    ratio = point.ratio(entry, "dense int8") if entry else None
    if ratio is None:
        return _ms(entry)
    told = format_ratio(ratio).replace("x", "×").replace(f" {MARK}", " slower")
    return f"{_ms(entry)} ({told})"


def begin(name: str) -> str:
    """The marker before a block."""
    return f"<!-- figures: {name} -->"


def replaced(text: str, name: str, block: str) -> str:
    """A document with what stands between a block's markers replaced.

    Raises:
        ValueError: it does not have the first marker once, and the second somewhere behind it.
    """
    head, found, rest = text.partition(begin(name))
    if not found or begin(name) in rest or END not in rest:
        raise ValueError(f"the document needs one {begin(name)} and behind it {END}")
    return f"{head}{found}\n{block.rstrip()}\n{END}{rest.partition(END)[2]}"


def main(argv: Sequence[str] | None = None) -> int:
    """0: done; 2: the document has no place for the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--write", action="store_true", help="replace the blocks in the document")
    parser.add_argument("--only", nargs="+", choices=list(BLOCKS), default=list(BLOCKS))
    parser.add_argument("--document", type=Path, default=ROOT / "README.md")
    parser.add_argument("--out", type=Path, default=Path("bench-out"), help="folder for raw data")
    arguments = parser.parse_args(argv)
    if arguments.write:
        try:  # before the minutes of work that it is for
            for name in arguments.only:
                replaced(arguments.document.read_text(encoding="utf-8"), name, "")
        except ValueError as error:
            print(f"figures: error: {arguments.document}: {error}", file=sys.stderr)
            return 2
    for name in arguments.only:
        block = BLOCKS[name](arguments.out)
        print(block)
        if arguments.write:
            text = arguments.document.read_text(encoding="utf-8")
            arguments.document.write_text(replaced(text, name, block), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
