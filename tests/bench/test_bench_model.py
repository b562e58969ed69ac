"""``bench model``: models are verified, compared with everyone, and all of it is told."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_definition import TINY
from torch import Tensor, nn

import sparsekd as skd
from sparsekd.bench import ModelBenchConfig, bench_model
from sparsekd.bench.definitions import ModelDefinition
from sparsekd.bench.model import run_case
from sparsekd.bench.networks import (
    NetworkProblem,
    channels_last,
    module_contender,
    network_peers,
)
from sparsekd.bench.peers import Engine, PeerMissingError
from sparsekd.bench.runner import Contender
from sparsekd.bench.time_split import split_time
from sparsekd.bench.variants import agreement, make_variant
from sparsekd.report import show
from sparsekd.spec import Fp32

FOLDER = Path(__file__).resolve().parents[2] / "bench" / "models"


def text_of(result: object) -> str:
    stream = io.StringIO()
    show(result, stream)
    return stream.getvalue()


@pytest.fixture
def config(tmp_path: Path) -> ModelBenchConfig:
    folder = tmp_path / "definitions"
    folder.mkdir()
    (folder / "__init__.py").write_text(TINY)
    return ModelBenchConfig(
        models="tiny",
        sparsity="0.75",
        threads=1,
        rounds=1,
        calls=2,
        pause_s=0.0,
        peers=False,
        definitions=str(folder),
        out=str(tmp_path / "out"),
    )


def encoder() -> nn.Module:
    """Two arguments, one of them integers, as an encoder has it."""

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(50, 32)
            self.one, self.two = nn.Linear(32, 64), nn.Linear(64, 32)

        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            states = self.two(nn.functional.gelu(self.one(self.table(ids))))
            pooled: Tensor = (states * mask.unsqueeze(-1)).sum(1)
            return pooled

    return Encoder().eval().requires_grad_(False)


def test_everything_is_measured_and_told(config: ModelBenchConfig) -> None:
    result = bench_model(config, progress=False)
    assert result.verified
    figures = result.models[0]
    assert [variant.name for variant in figures.variants] == [
        "sparsekd dense int8",
        "sparsekd 8:32 int8",
    ]
    names = [entry.name for entry in result.points[0].entries]
    assert names == [
        "sparsekd dense int8",
        "sparsekd dense int8, NCHW inputs",
        "sparsekd 8:32 int8",
        "sparsekd 8:32 int8, NCHW inputs",
        "torch fp32",
        "torch fp32 channels_last",
    ]
    assert [point.case["case"] for point in result.points] == ["1", "3"]
    assert result.files[0] == Path(config.out, "model.json")
    assert [file.read_bytes()[:4] for file in result.files[1:]] in ([], [b"\x89PNG"])
    read = json.loads(result.files[0].read_text())
    assert read["settings"]["models"] == "tiny"
    assert "versions" in read["environment"]
    told = read["models"][0]
    assert told["note"] == "a note, random weights"
    assert told["variants"][1]["verified"]["ok"] is True
    assert told["variants"][1]["coverage"]["rows"]
    assert (read["schema"], read["what"]) == (1, "model")
    for point in read["points"]:
        assert point["case"]["model"] == "tiny"
        for engine in point["engines"]:
            assert len(engine["samples_s"]) == 1
            assert engine["error"] < 0.1
            assert engine["ours"] == engine["name"].startswith("sparsekd")
    splits = told["splits"]
    assert [(split["case"], split["variant"]) for split in splits] == [
        (case, variant.name) for case in ("1", "3") for variant in figures.variants
    ]
    for split in splits:
        assert split["whole"] > split["layers"] > 0 < split["kernels"]
        parts = split["kernels"] + split["edges"] + split["between"]
        assert parts == pytest.approx(split["whole"])
    text = text_of(result)
    assert "where the time goes" in text
    assert "a note, random weights" in text
    assert "bit for bit" in text
    assert "8:32 int8, NCHW inputs" in text


def test_a_network_without_int8_convolutions_has_no_split() -> None:
    model = skd.convert(encoder(), scheme=Fp32())
    ids, mask = torch.zeros(1, 4, dtype=torch.int64), torch.ones(1, 4)
    assert split_time(model, [(ids, mask)], case="a", variant="b") is None


def test_the_clocks_of_a_split_are_gone_afterwards(config: ModelBenchConfig) -> None:
    definition = config.chosen()["tiny"]
    variant = make_variant(definition, definition.build(), 0.75)
    inputs = definition.cases["1"]()
    with torch.inference_mode():
        before = variant.engine(*inputs[0])
        split = split_time(variant.engine, inputs, case="1", variant=variant.name)
        assert torch.equal(variant.engine(*inputs[0]), before)
    assert split is not None
    assert not any("forward" in module.__dict__ for module in variant.engine.modules())


def test_losses_are_marked(config: ModelBenchConfig) -> None:
    result = bench_model(config, progress=False)
    first = result.points[0]
    slow = replace(first.entries[0], samples=replace(first.entries[0].samples, seconds=(9.0,)))
    first = replace(first, entries=(slow, *first.entries[1:]), absent={"x": "not [bench] here"})
    text = text_of(replace(result, points=(first,)))
    assert "0.00x !" in text
    assert "x: not [bench] here (tiny 1)" in text


def test_variants_say_what_each_step_costs(config: ModelBenchConfig) -> None:
    definition = config.chosen()["tiny"]
    model = definition.build()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    dense = make_variant(definition, model, 0.0)
    sparse = make_variant(definition, model, 0.75)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    assert dense.to_float.mean > 0.999
    assert dense.pruned_to_float.worst == pytest.approx(1.0)
    assert sparse.to_pruned.mean > 0.999
    assert sparse.to_float.mean == pytest.approx(sparse.pruned_to_float.mean, abs=0.01)
    assert sparse.verified.ok
    assert {check.rule for check in sparse.verified.layers} == {"exact"}
    counts = sparse.coverage_counts()
    assert counts["Conv2d windowed"] == 1  # the second; the stem is not pruned
    assert counts["Linear windowed"] == 1
    kept = [c.build(problem(definition, model)).config for c in sparse.contenders(images=False)]
    assert kept[0]["engine layers"] == 3


def problem(definition: ModelDefinition, model: nn.Module) -> NetworkProblem:
    return NetworkProblem(model, tuple(definition.cases["1"]()), 1)


def test_agreement() -> None:
    one = torch.eye(3)
    other = torch.tensor([[2.0, 0, 0], [0, -1, 0], [0, 1, 1]])
    found = agreement(one, other)
    assert found.samples == 3
    assert found.worst == pytest.approx(-1.0)
    assert found.mean == pytest.approx((1 - 1 + 0.5**0.5) / 3)
    assert found.worst <= found.low <= found.mean


@pytest.mark.parametrize("images", [True, False], ids=["images", "encoder"])
def test_each_peer_computes_the_model(images: bool, config: ModelBenchConfig) -> None:
    if images:
        definition = config.chosen()["tiny"]
        given = problem(definition, definition.build())
    else:
        mask = torch.ones(2, 5, dtype=torch.int64)
        inputs = tuple((torch.randint(0, 50, (2, 5)), mask) for _ in range(3))
        given = NetworkProblem(encoder(), inputs, 1, dynamic=True)
    right = given.model(*given.inputs[1])
    peers = network_peers(images=images, dynamic=not images)
    assert len({peer.name for peer in peers}) == len(peers) == (6 if images else 7)
    missing = 0
    for peer in peers:
        try:
            engine = peer.build(given)
        except PeerMissingError:
            missing += 1
            continue
        tolerance = 1e-4 if peer.kind == "dense fp32" else 0.1
        got = engine.output(1)
        assert got.shape == right.shape, peer.name
        assert (got - right).norm() <= tolerance * right.norm(), peer.name
        with torch.inference_mode():
            engine.run()
    if missing:
        pytest.skip(f"{missing} engines are not installed")


def test_channels_last_reaches_the_module() -> None:
    seen: list[Tensor] = []

    class Watch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return x.mean((2, 3))

    given = NetworkProblem(Watch(), ((torch.rand(2, 3, 4, 4),),), 1)
    contender = module_contender("w", "dense fp32", Watch(), package="torch", config={}, nhwc=True)
    contender.build(given).run()
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert channels_last(torch.rand(2, 3)).is_contiguous()


def test_missing_broken_and_wrong_engines_are_named(config: ModelBenchConfig) -> None:
    definition = config.chosen()["tiny"]
    given = problem(definition, definition.build())

    def absent(_: NetworkProblem) -> Engine:
        raise PeerMissingError("x: not installed")

    def broken(_: NetworkProblem) -> Engine:
        raise RuntimeError("no such op\nand more")

    def wrong(_: NetworkProblem) -> Engine:
        return Engine("1", lambda: None, lambda _: torch.zeros(1, 10), {})

    contenders = [
        *network_peers(images=False, dynamic=False)[:1],
        *(Contender(f.__name__, "dense int8", f) for f in (absent, broken, wrong)),
    ]
    point = run_case(given, contenders, config.timing())
    reasons = point.absent
    assert [entry.name for entry in point.entries] == ["torch fp32"]
    assert reasons["absent"] == "x: not installed"
    assert reasons["broken"] == "failed: RuntimeError: no such op"
    assert reasons["wrong"] == "not timed: its output is wrong (relative error 1.0e+00)"
    with pytest.raises(RuntimeError, match="no such op"):
        run_case(given, [Contender("ours", "dense int8", broken, ours=True)], config.timing())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threads": 0}, "threads >= 1"),
        ({"calls": 1}, "calls >= 2"),
        ({"sparsity": "half"}, "must be numbers"),
        ({"sparsity": "0.3"}, "no n:32 pattern"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelBenchConfig(**changes)  # type: ignore[arg-type]


def test_unknown_models_are_refused(config: ModelBenchConfig) -> None:
    with pytest.raises(ValueError, match="unknown model 'vgg'; choose among tiny"):
        bench_model(replace(config, models="vgg"))
    with pytest.raises(ValueError, match="no model named"):
        bench_model(replace(config, models=","))


@pytest.mark.skipif(not FOLDER.is_dir(), reason="needs the source tree")
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv2"])
def test_real_architectures_verify_bit_for_bit(name: str) -> None:
    full = ModelBenchConfig(models=name, definitions=str(FOLDER)).chosen()[name]
    architecture = full.build.args[0]  # type: ignore[attr-defined]
    small = type(full)(
        build=lambda: full.build.func(architecture, 32),  # type: ignore[attr-defined]
        cases={},
        samples=lambda: [(torch.randn(2, 3, 32, 32),)],
        not_pruned=full.not_pruned,
    )
    variant = make_variant(small, small.build(), 0.75)
    assert variant.verified.ok
    assert all(check.rule == "exact" for check in variant.verified.layers)
    counts = variant.coverage_counts()
    assert sum(n for key, n in counts.items() if key.startswith("BatchNorm2d")) == 0
    assert sum(n for key, n in counts.items() if key in ("Conv2d torch", "Linear torch")) == 0
