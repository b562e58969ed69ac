"""Which activations are fused: the data flow decides, and tracing it changes nothing."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from convert_models import ACTIVATIONS, Net, mlp
from torch import nn

from sparsekd.convert import convert
from sparsekd.nn import Linear
from sparsekd.spec import Int8


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_lone_activation_is_fused_and_leaves_an_identity(name):
    model, x = mlp(ACTIVATIONS[name]).eval(), torch.randn(5, 40)
    converted = convert(model, scheme="int8")
    assert converted[0].activation == name
    assert isinstance(converted[1], nn.Identity)
    unfused = Linear.from_float(model[0], scheme=Int8(), kernel=converted[0].kernel)
    torch.testing.assert_close(
        converted[1](converted[0](x)), getattr(F, name)(unfused(x)), rtol=1e-6, atol=2e-7
    )


USES = {
    "twice used output": lambda m, x: (h := m.a(x)) + m.act(h),
    "activation called twice": lambda m, x: m.act(m.b(m.act(m.a(x)))),
    "layer called twice": lambda m, x: m.a(m.act(m.a(x))),
    "something between": lambda m, x: m.act(m.a(x) * 2),
    "output also returned": lambda m, x: (h := m.a(x), m.act(h)),
    "functional activation": lambda m, x: m.b(F.relu(m.a(x))),
    "activation first": lambda m, x: m.a(m.act(x)),
}


@pytest.mark.parametrize("use", USES)
def test_an_activation_stays_when_it_is_not_the_only_user_or_is_called_twice(use):
    model, x = Net(USES[use]), torch.randn(3, 8)
    converted = convert(model, scheme="int8")
    assert converted.a.activation is None
    assert converted.b.activation is None
    assert type(converted.act) is nn.ReLU
    assert converted.sparsekd_report.notes == ()
    wanted, got = model(x), converted(x)
    for a, b in zip(wanted, got, strict=True) if isinstance(got, tuple) else [(wanted, got)]:
        torch.testing.assert_close(a, b, rtol=0, atol=0.05)


def test_the_same_wiring_fuses_when_the_activation_is_the_only_user():
    converted = convert(Net(lambda m, x: m.b(m.act(m.a(x)))), scheme="int8")
    assert (converted.a.activation, converted.b.activation) == ("relu", None)


@pytest.mark.parametrize(
    "act", [nn.GELU(approximate="tanh"), nn.LeakyReLU(), type("MyReLU", (nn.ReLU,), {})()]
)
def test_other_activations_and_subclasses_are_not_fused(act):
    converted = convert(nn.Sequential(nn.Linear(8, 8), act), scheme="int8")
    assert converted[0].activation is None
    assert type(converted[1]) is type(act)


@pytest.mark.parametrize("doubled_when_absent", [True, False])
def test_an_optional_argument_that_switches_paths_prevents_fusion(doubled_when_absent):
    class Optional(Net):
        def forward(self, x, extra=None):
            h = self.a(x)
            return self.act(h) + h if (extra is None) == doubled_when_absent else self.act(h)

    assert convert(Optional(None), scheme="int8").a.activation is None


def test_without_a_trace_only_neighbours_in_sequential_are_fused_and_the_report_says_so():
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = mlp()
            self.head, self.act = nn.Linear(7, 4), nn.ReLU()

        def forward(self, x):
            h = self.act(self.head(self.body(x)))
            return h if bool(h.sum() > 0) else -h

    converted = convert(Branching(), scheme="int8")
    assert (converted.body[0].activation, converted.head.activation) == ("relu", None)
    (note,) = converted.sparsekd_report.notes
    assert "could not be traced" in note
    assert "nn.Sequential (TraceError: " in note


def test_tracing_leaves_the_model_untouched():
    class Remembers(Net):
        def __init__(self):
            super().__init__(None)
            self.register_buffer("calls", torch.zeros(()))
            self.norm = nn.BatchNorm1d(8)
            self.last = None

        def forward(self, x):
            self.last = x
            self.calls.add_(1)
            self.norm.running_mean.add_(1)
            return self.act(self.a(x)) + torch.rand(())

    model = Remembers()
    state = torch.get_rng_state()
    converted = convert(model, scheme="int8")
    assert torch.equal(state, torch.get_rng_state())
    for each in (model, converted):
        assert each.last is None
        assert each.calls.item() == 0
        assert each.norm.running_mean.eq(0).all()
    assert converted.a.activation == "relu"
