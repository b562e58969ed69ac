"""sparsekd.flow: which module follows which layer (tests/convert/test_flow.py has the fusions)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from sparsekd.flow import FoldedBatchNorm, foreign_hooks, holders, read_flow, weight_readers
from sparsekd.prune import prune_

CONV = (nn.Conv2d,)


class Wired(nn.Module):
    def __init__(self, use) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.norm, self.pass_on = nn.BatchNorm2d(4), nn.Identity()
        self.folded = FoldedBatchNorm("BatchNorm2d", 4, "a")
        self.use = use

    def forward(self, x: Tensor) -> Tensor:
        return self.use(self, x)


USES = {
    "alone": (lambda m, x: m.norm(m.a(x)), {"a": "norm"}),
    "through identity": (lambda m, x: m.norm(m.pass_on(m.a(x))), {"a": "norm"}),
    "through what was folded": (lambda m, x: m.norm(m.folded(m.a(x))), {"a": "norm"}),
    "layers in a row": (lambda m, x: m.norm(m.b(m.a(x))), {"a": "b", "b": "norm"}),
    "used twice": (lambda m, x: (h := m.a(x)) + m.norm(h), {}),
    "identity used twice": (lambda m, x: (h := m.pass_on(m.a(x))) + m.norm(h), {}),
    "called twice": (lambda m, x: m.norm(m.a(m.a(x))), {}),
    "follower called twice": (lambda m, x: m.norm(m.a(x)) + m.norm(x), {}),
    "something between": (lambda m, x: m.norm(m.a(x).relu()), {}),
    "in training only": (lambda m, x: m.norm(m.a(x)) if m.training else m.a(x), {}),
    "other in training": (lambda m, x: m.norm(m.a(x)) + (m.a(x) if m.training else 0), {}),
}


@pytest.mark.parametrize("name", USES)
@pytest.mark.parametrize("training", [True, False])
def test_only_users(name, training):
    use, pairs = USES[name]
    model = Wired(use).train(training)
    flow = read_flow(model, CONV, reach=(nn.BatchNorm2d,), train=True)
    assert flow.failure == ""
    assert flow.pairs == pairs
    assert all(m.training is training for m in model.modules())


def test_without_train_only_eval_counts():
    model = Wired(USES["other in training"][0])
    assert read_flow(model, CONV).pairs == {"a": "norm"}


def test_reach_looks_into_modules_without_layers():
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()))
    assert read_flow(model, CONV).pairs == {"0": "1"}
    assert read_flow(model, CONV, reach=(nn.BatchNorm2d,)).pairs == {"0": "1.0"}


def test_direct_reads_are_named():
    model = Wired(lambda m, x: m.norm(m.a(x)) * m.a.weight.mean())
    assert read_flow(model, CONV).direct_reads == {"a"}


def test_modules_registered_twice_have_no_pairs():
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))
    model.again = model[1]
    assert read_flow(model, CONV).pairs == {}
    assert len(holders(model)[id(model[1])]) == 2


def test_when_tracing_fails_neighbours_are_known():
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Identity(), nn.BatchNorm2d(4))
            self.a, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(self.a(self.body(x)))
            return x if bool(x.sum() > 0) else -x

    flow = read_flow(Branching(), CONV)
    assert flow.pairs == {"body.0": "body.2"}
    assert flow.failure.startswith("TraceError: ")


def test_a_single_layer_has_no_flow():
    assert read_flow(nn.Conv2d(1, 1, 1), CONV).pairs == {}


def test_foreign_hooks_are_listed_in_words():
    layer = nn.Linear(4, 4)
    prune_(layer, "1:2")
    assert foreign_hooks(layer) == []  # our own
    layer.register_forward_hook(lambda *_: None)
    layer.register_full_backward_hook(lambda *_: None)
    layer.forward = lambda x: x
    assert foreign_hooks(layer) == [
        "forward hook",
        "backward hook",
        "forward replaced on the instance",
    ]
    assert "parametrization" in foreign_hooks(parametrizations.weight_norm(nn.Linear(2, 2)))


def test_weight_readers():
    model = nn.ModuleList([nn.MultiheadAttention(4, 1), nn.TransformerEncoderLayer(4, 1, 4)])
    readers = weight_readers(model)
    assert readers[id(model[0].out_proj)] == "MultiheadAttention"
    assert readers[id(model[1].linear2)] == "TransformerEncoderLayer"
    assert id(model[0]) not in readers


def test_reading_leaves_random_numbers_alone():
    model = Wired(lambda m, x: m.a(x) + torch.rand(()))
    state = torch.get_rng_state()
    read_flow(model, CONV, train=True)
    assert torch.equal(state, torch.get_rng_state())
