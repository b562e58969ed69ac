"""``bench conv``: the layers are those of the networks, every engine computes them, all is told."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sparsekd.backend import ConvGeometry
from sparsekd.bench import ConvBenchConfig, ConvBenchResult, bench_conv
from sparsekd.bench.conv import ERROR_BOUNDS
from sparsekd.bench.conv_layers import ConvLayer, ConvProblem, conv_error, convolutions_of
from sparsekd.bench.conv_ours import FORMATS, our_convolutions
from sparsekd.bench.conv_peers import conv_peers
from sparsekd.bench.definitions import ModelDefinition, load_definitions
from sparsekd.bench.peers import Engine, PeerMissingError
from sparsekd.bench.record import Entry, Point
from sparsekd.bench.settings import PEERS
from sparsekd.benchmark import OwnClock, Samples
from sparsekd.report import show

FOLDER = Path(__file__).resolve().parents[2] / "bench" / "models"

TINY = """
from torch import nn
import torch
from sparsekd.bench.definitions import ModelDefinition

def build():
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.Conv2d(32, 32, 3, padding=1, groups=32),
        nn.Conv2d(32, 64, 1), nn.Conv2d(64, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1),
    ).eval()

MODELS = {"tiny": ModelDefinition(
    build=build, cases={"1": lambda: [(torch.rand(1, 3, 12, 12),)]}, samples=list, images=True,
)}
"""


def layer(kind: str) -> ConvLayer:
    channels, kernel, groups, stride = {
        "3x3": ((32, 48), (3, 3), 1, (2, 2)),
        "1x1": ((64, 16), (1, 1), 1, (1, 1)),
        "dw": ((48, 48), (3, 3), 48, (1, 1)),
        "stem": ((3, 16), (7, 7), 1, (2, 2)),
    }[kind]
    pad = kernel[0] // 2
    return ConvLayer(ConvGeometry(channels, kernel, stride, (1, 1), (pad,) * 4, groups), (9, 7))


def test_layers_of_a_network() -> None:
    def build() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1), nn.ReLU()
        )

    definition = ModelDefinition(build, {"1": lambda: [(torch.rand(1, 3, 10, 8),)]}, list)
    found = convolutions_of(definition)
    assert list(found.values()) == [["0"], ["1", "2"]]
    first, second = found
    assert (first.title, second.title) == ("3x3 3->8 10x8", "1x1 8->8 10x8")
    assert first.multiply_adds(2) == 2 * 10 * 8 * 8 * 27


@pytest.mark.skipif(not FOLDER.is_dir(), reason="needs the source tree")
def test_layers_of_real_networks() -> None:
    models = load_definitions(FOLDER)
    resnet = {conv.title: names for conv, names in convolutions_of(models["resnet50"]).items()}
    assert len(resnet) == 23
    assert sum(map(len, resnet.values())) == 53
    assert len(resnet["3x3 256->256 14x14"]) == 5
    assert resnet["7x7/2 3->64 224x224"] == ["conv1"]
    mobile = list(convolutions_of(models["mobilenetv2"]))
    assert sum(conv.depthwise for conv in mobile) == 10
    assert {conv.title for conv in mobile} >= {"3x3/2 dw 96 112x112", "1x1 320->1280 7x7"}
    assert len({conv.title for conv in mobile}) == len(mobile)


@pytest.mark.parametrize("kind", ["3x3", "1x1", "dw", "stem"])
@pytest.mark.parametrize("batch", [1, 3])
def test_every_engine_is_right(kind: str, batch: int) -> None:
    problem = ConvProblem.random(layer(kind), batch, threads=1)
    contenders = [
        *our_convolutions(FORMATS, [0.5, 0.875], problem.layer),
        *(peer for package in PEERS for peer in conv_peers(package)),
    ]
    missing = 0
    for contender in contenders:
        try:
            engine = contender.build(problem)
        except PeerMissingError:
            missing += 1
            continue
        assert conv_error(engine, problem) <= ERROR_BOUNDS[contender.kind], contender.name
        for index in range(4):
            output = engine.output(index)
            height, width = problem.layer.out_size
            assert output.shape == (batch, problem.layer.geometry.channels[1], height, width)
        with torch.inference_mode():
            seconds = engine.run()
        if isinstance(engine.run, OwnClock):
            assert isinstance(seconds, float)
            assert 0 <= seconds < 10
    if missing:
        pytest.skip(f"{missing} engines are not installed")


def test_formats_that_serve_a_layer() -> None:
    def names(kind: str) -> list[str]:
        return [c.name for c in our_convolutions(FORMATS, [0.75], layer(kind))]

    assert names("dw") == ["sparsekd depthwise int8", "sparsekd depthwise fp32"]
    assert names("stem") == ["sparsekd dense int8"]
    assert names("3x3") == [
        "sparsekd dense int8",
        "sparsekd int8 8:32",
        "sparsekd fp32 4:16",
        "sparsekd fp32 4:16, NCHW",
    ]


def test_work_counts_kept_weights() -> None:
    problem = ConvProblem.random(layer("1x1"), 2, threads=1)
    built = {c.name: c.build(problem) for c in our_convolutions(FORMATS, [0.75], problem.layer)}
    assert built["sparsekd dense int8"].work == 64 * 16 * 9 * 7 * 2
    assert built["sparsekd int8 8:32"].work == 64 * 16 * 9 * 7 * 2 // 4
    assert built["sparsekd fp32 4:16"].work == 64 * 16 * 9 * 7 * 2 // 4
    moved = built["sparsekd dense int8"].moved
    assert moved == 64 * 16 + 2 * 9 * 7 * (64 + 16)


def test_error_sees_a_wrong_output() -> None:
    problem = ConvProblem.random(layer("3x3"), 2, threads=1)
    right = our_convolutions(["dense"], [], problem.layer)[0].build(problem)
    assert conv_error(right, problem) < 0.03
    shifted = Engine("x 1", lambda: None, lambda index: right.output(index).roll(1, -1))
    assert conv_error(shifted, problem) > 0.2


def text_of(result: object) -> str:
    stream = io.StringIO()
    show(result, stream)
    return stream.getvalue()


@pytest.fixture
def definitions(tmp_path: Path) -> str:
    folder = tmp_path / "definitions"
    folder.mkdir()
    (folder / "__init__.py").write_text(TINY)
    return str(folder)


def config_of(definitions: str, out: Path, **changes: Any) -> ConvBenchConfig:
    settings: dict[str, Any] = {
        "models": "tiny",
        "batches": "1,2",
        "threads": 1,
        "rounds": 1,
        "pause_s": 0.0,
        "peers": "torch",
        "definitions": definitions,
        "out": str(out),
    }
    return ConvBenchConfig(**settings | changes)


def test_whole_run(definitions: str, tmp_path: Path) -> None:
    result = bench_conv(config_of(definitions, tmp_path / "out"), progress=False)
    read = json.loads((tmp_path / "out" / "conv.json").read_text())
    assert read == json.loads(result.to_json())
    assert (read["schema"], read["what"]) == (1, "conv")
    titles = [p["title"] for p in read["points"] if "machine" not in p["case"]]
    assert titles == [
        f"{name}, batch {batch}"
        for name in ("3x3/2 3->32 12x12", "3x3 dw 32 6x6", "1x1 32->64 6x6", "3x3 64->64 6x6")
        for batch in (1, 2)
    ]
    assert read["names"]["3x3 64->64 6x6"] == ["tiny 3", "tiny 4"]
    assert len(read["depthwise"]) == 2
    wide = [s for s in read["summaries"] if s["group"] == "channels >= 64"]
    assert {s["family"] for s in wide} >= {"int8 n:32", "fp32 n:16"}
    assert all(s["points"] == 2 for s in wide if s["study"].endswith("our dense int8"))
    text = text_of(result)
    assert "3x3 64->64 6x6, batch 2" in text
    assert "depthwise int8: bytes in and out" in " ".join(text.split())


def test_layers_can_be_chosen(definitions: str, tmp_path: Path) -> None:
    config = config_of(definitions, tmp_path, layers="3x3*")
    assert [conv.title for conv in config.chosen()] == [
        "3x3/2 3->32 12x12",
        "3x3 dw 32 6x6",
        "3x3 64->64 6x6",
    ]
    served = config_of(definitions, tmp_path, formats="dense").chosen()
    assert "3x3 dw 32 6x6" not in [conv.title for conv in served]
    assert len(served) == 3
    with pytest.raises(ValueError, match=r"'9x9\*' .*there are: 3x3/2 3->32 12x12"):
        config_of(definitions, tmp_path, layers="9x9*").chosen()
    with pytest.raises(ValueError, match="has one of the formats 'dense'"):
        config_of(definitions, tmp_path, layers="* dw *", formats="dense").chosen()
    with pytest.raises(ValueError, match="unknown network 'vgg'; choose among tiny"):
        config_of(definitions, tmp_path, models="vgg").chosen()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batches": 0}, "batches must be a whole number of at least 1, got '0'"),
        ({"formats": "int4"}, "unknown format 'int4'; choose among dense, int8"),
        ({"formats": ""}, "needs a format"),
        ({"sparsity": "0.9"}, "no n:32 pattern"),
        ({"rounds": 0}, "rounds >= 1"),
        ({"peers": "tvm"}, "unknown peer 'tvm'"),
    ],
)
def test_bad_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ConvBenchConfig(**wrong)


def test_streaming_is_held_against_copying() -> None:
    def entry(name: str, kind: Any, family: str = "", moved: int = 0) -> Entry:
        ours = bool(family)
        return Entry(name, kind, ours, "1", {}, 0.0, 0.0, Samples((1e-3,)), family, moved=moved)

    copying = entry("copy 256 MB", "rate", moved=40_000)
    case = {"threads": 2, "channels": [32, 32], "kernel": [3, 3], "batch": 1, "models": ["tiny"]}
    points = (
        Point("limits", {"machine": "limits", "threads": 2}, (copying,)),
        Point("dw", case, (entry("ours", "dense int8", "depthwise int8", 30_000),)),
    )
    where = {"cpu": "a cpu", "threads": 1, "isa": "scalar", "versions": {"torch": "2.13"}}
    result = ConvBenchResult(points, {}, where)
    assert result.extra()["depthwise"] == [
        {"title": "dw", "bytes_a_second": pytest.approx(3e7), "of_memory": pytest.approx(0.75)}
    ]
