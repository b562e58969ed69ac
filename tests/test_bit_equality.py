"""Fake quantization in eval mode and the engine give the same bits (docs/numerics.md).

A failure prints ``problem(seed)``, which rebuilds the layer.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from sparsekd import backend, numerics
from sparsekd import nn as engine
from sparsekd.convert import convert
from sparsekd.prune import prune_
from sparsekd.quantize import calibrate, prepare_
from sparsekd.spec import NM, Int8, Unstructured

PROBLEMS = 1000
PER_TEST = 100
ISAS = backend.available_isas()
THREADS = (1, 2, 3)


@dataclass
class Problem:
    """A fake-quantized layer in eval mode, an input and what the layer makes of it."""

    about: str
    fake: nn.Linear
    x: Tensor
    activation: str | None
    beyond_fp32: bool

    def expected(self) -> Tensor:
        y: Tensor = self.fake(self.x)
        return torch.relu(y) if self.activation == "relu" else y


def problem(seed: int) -> Problem:
    choose = random.Random(seed)
    torch.manual_seed(seed)
    size = choose.choices(["small", "middle", "long", "wide"], [82, 11, 3, 4])[0]
    # One in 25 surely needs sums beyond 2^24, where the fake layer adds in int32.
    surely_beyond = seed % 25 == 0
    if surely_beyond:
        size = "long"
    inputs = {
        "small": choose.randint(1, 200),
        "middle": choose.randint(200, 1500),
        "long": choose.choice([4096, 8191, 8192]),
        "wide": choose.randint(60, 130),
    }[size]
    outputs = choose.randint(600, 1100) if size == "wide" else choose.randint(1, 70)
    rows = choose.choice([1, 2, 3, 4, 5, 8, 9, 16, 17, 33])
    if size in ("long", "wide"):
        rows = min(rows, 5)
    if size == "long":
        outputs = min(outputs, 33)

    linear = nn.Linear(inputs, outputs, bias=choose.random() < 0.8)
    pattern = "dense" if surely_beyond else choose.choice(["dense", "n:m", "arbitrary"])
    with torch.no_grad():
        if surely_beyond or choose.random() < 0.2:
            linear.weight.copy_(linear.weight.sign())  # every integer is -127 or 127
        else:
            linear.weight.mul_(10 ** choose.uniform(-3, 3))
        if pattern == "n:m":
            m = choose.choice([4, 16, 32, 64])
            linear.weight.mul_(NM(choose.randint(1, m), m).mask(linear.weight.abs()))
        elif pattern == "arbitrary":
            kept = Unstructured(choose.uniform(0.1, 0.99)).mask(torch.rand_like(linear.weight))
            linear.weight.mul_(kept)
    x = torch.randn(rows, inputs) * 10 ** choose.uniform(-3, 3) + choose.choice([0, 0, 1, -3])
    static = choose.random() < 0.5
    fake = fake_quantized(linear, Int8("static") if static else Int8(), x)
    if static and choose.random() < 0.3:
        x = x * 1.5  # some values clip
    about = f"problem({seed}): {outputs}x{inputs}, {pattern}, {'static' if static else 'dynamic'}"
    activation = choose.choice([None, "relu"])
    return Problem(about, fake, x, activation, worst_sum(fake) > numerics.EXACT_LIMIT)


def fake_quantized(linear: nn.Linear, scheme: Int8, x: Tensor) -> nn.Linear:
    model = nn.Sequential(linear)
    prepare_(model, scheme)
    if scheme.activations == "static":
        calibrate(model, [x])
    fake = model.eval()[0]
    assert isinstance(fake, nn.Linear)
    return fake


def worst_sum(fake: nn.Linear) -> int:
    """The largest sum that an output can reach with the layer's kind of activations."""
    q, _ = numerics.quantize_weight(fake.weight.detach())
    zero_point = getattr(fake, "input_zero_point", None)
    bound = 127 if zero_point is None else max(int(zero_point), 255 - int(zero_point))
    return bound * int(q.int().abs().sum(dim=1).max())


def run(layer: nn.Module, x: Tensor) -> Tensor:
    """The layer's result after a call on other values, so that nothing stale can look right."""
    layer(x.flip(0) * -1.5)
    y: Tensor = layer(x)
    return y


def difference(y: Tensor, expected: Tensor) -> str:
    wrong = y != expected
    index = tuple(wrong.nonzero()[0].tolist())
    first = f"first {index}: {y[index]} for {expected[index]}"
    return f"{int(wrong.sum())} of {y.numel()} differ, {first}"


@pytest.mark.parametrize("first", range(0, PROBLEMS, PER_TEST))
@torch.inference_mode()
def test_random_layers(first: int) -> None:
    seen: Counter[object] = Counter()
    for seed in range(first, first + PER_TEST):
        torch.set_num_threads(1)
        given = problem(seed)
        expected = given.expected()
        assert expected.isfinite().all(), given.about
        zero_point = getattr(given.fake, "input_zero_point", None)
        if zero_point is not None and int(zero_point) not in (0, 128):
            seen["zero point"] += 1
        seen["beyond fp32"] += given.beyond_fp32
        seen["not zero"] += bool((expected != 0).float().mean() > 0.2)
        layers = {
            kernel: engine.Linear.from_float(given.fake, kernel=kernel, activation=given.activation)
            for kernel in backend.KERNELS
        }
        kernels = list(layers) if seed % 2 else list(reversed(layers))
        # The best instruction set runs both kernels; one other runs one of them.
        others = ISAS[1:] or ISAS
        other = others[seed // 2 % len(others)]
        for turn, (isa, kernel) in enumerate(
            [(ISAS[0], kernels[0]), (ISAS[0], kernels[1]), (other, kernels[0])]
        ):
            threads = THREADS[(seed // 3 + turn) % 3]
            backend.set_isa(isa)
            torch.set_num_threads(threads)
            cut = random.Random(seed).randint(0, len(given.x))
            whole = run(layers[kernel], given.x)
            parts = torch.cat([layers[kernel](given.x[:cut]), layers[kernel](given.x[cut:])])
            where = f"{given.about}, {kernel} on {isa}, {threads} threads"
            assert torch.equal(whole, expected), f"{where}: {difference(whole, expected)}"
            assert torch.equal(parts, expected), f"{where}, cut at row {cut}"
            seen[isa, threads] += 1
    # The generator has to reach what the test is about.
    assert seen["zero point"] >= PER_TEST // 10
    assert seen["beyond fp32"] >= 4
    assert seen["not zero"] >= PER_TEST // 2
    assert all(seen[isa, threads] >= 2 for isa in ISAS for threads in THREADS), seen


def mlp(scheme: Int8) -> tuple[nn.Module, Tensor]:
    """Six layers, fake-quantized, with n:m, arbitrary and no masks; and an input."""
    torch.manual_seed(7)
    sizes = [75, 300, 257, 256, 128, 65, 10]
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    prune_(model, NM(4, 32), include=["0", "4"])
    prune_(model, Unstructured(0.8), include=["2", "6"])
    x = torch.randn(37, sizes[0])
    prepare_(model, scheme)
    if scheme.activations == "static":
        calibrate(model, [x])
    return model.eval(), x


@pytest.mark.parametrize("scheme", [Int8(), Int8("static")], ids=lambda s: s.activations)
@torch.inference_mode()
def test_mlp_end_to_end(isa: str, scheme: Int8) -> None:
    fake, x = mlp(scheme)
    fast = convert(fake)
    assert sum(isinstance(m, engine.Linear) for m in fast.modules()) == 6
    expected = fake(x)
    assert len(expected.unique()) > 100
    for threads in THREADS:
        torch.set_num_threads(threads)
        assert torch.equal(run(fast, x), expected)
        for size in (1, 5, 16):
            parts = torch.cat([fast(part) for part in x.split(size)])
            assert torch.equal(parts, expected), f"{threads} threads, batches of {size}"


@torch.inference_mode()
def test_each_way_to_split_the_work(isa: str) -> None:
    """Shapes above the serial limit: few rows, split over rows, split over outputs."""
    for rows, inputs, outputs in [(2, 700, 530), (40, 1500, 300), (40, 400, 1100)]:
        fake = fake_quantized(nn.Linear(inputs, outputs), Int8(), torch.empty(0, inputs))
        for kernel in backend.KERNELS:
            layer = engine.Linear.from_float(fake, kernel=kernel)
            for threads in THREADS:
                torch.set_num_threads(threads)
                x = torch.randn(rows, inputs)  # new values: an old row left over shows
                assert torch.equal(layer(x), fake(x)), f"{rows}x{inputs}x{outputs} {kernel}"


@pytest.mark.parametrize("kernel", backend.KERNELS)
@torch.inference_mode()
def test_extreme_rows(isa: str, kernel: str) -> None:
    """Rows of zeros, subnormals, tiny and huge values, and rows at the edges of the tiny range."""
    torch.manual_seed(3)
    inputs = 130
    tops = [0.0, 1e-45, 1e-40, numerics.TINY, numerics.TINY * (1 - 2**-24), 1e-20, 1e20, 3.4e38]
    x = torch.rand(len(tops), inputs) * 2 - 1
    x = x / x.abs().amax(dim=1, keepdim=True) * torch.tensor(tops)[:, None]
    assert (x.abs().amax(dim=1) == torch.tensor(tops)).all()
    linear = nn.Linear(inputs, 33)
    fake = fake_quantized(linear, Int8(), x)
    layer = engine.Linear.from_float(fake, kernel=kernel)
    assert torch.equal(layer(x), fake(x))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kernel", backend.KERNELS)
@torch.inference_mode()
def test_nan_and_inf_stay_in_their_row(isa: str, kernel: str, value: float) -> None:
    x = torch.randn(6, 70)
    for scheme in (Int8(), Int8("static")):
        fake = fake_quantized(nn.Linear(70, 20), scheme, x)
        layer = engine.Linear.from_float(fake, kernel=kernel, activation="relu")
        clean = layer(x)
        spoiled = x.clone()
        spoiled[2, 69] = value
        y = layer(spoiled)
        assert torch.equal(y[[0, 1, 3, 4, 5]], clean[[0, 1, 3, 4, 5]])
        assert torch.equal(y.isnan(), torch.relu(fake(spoiled)).isnan())
        if scheme.activations == "dynamic":
            assert y[2].isnan().all()  # ReLU keeps NaN
        else:
            assert torch.equal(y, torch.relu(fake(spoiled)))
