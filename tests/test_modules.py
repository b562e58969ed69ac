"""Marks that the parts leave on modules, and the choice of modules by name or type."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from sparsekd.modules import is_own_hook, quant_spec, select, weight_mask
from sparsekd.spec import Int8


class Marked(nn.Linear):
    is_fake_quant = True
    scheme: object = Int8("static")


def model() -> nn.Sequential:
    shared = nn.Linear(4, 4)
    return nn.Sequential(
        nn.Sequential(nn.Linear(4, 4), nn.ReLU(), shared), shared, nn.Conv2d(1, 1, 1)
    )


def test_quant_spec_reads_marked_classes_only():
    assert quant_spec(Marked(2, 2)) == Int8("static")
    plain = nn.Linear(2, 2)
    plain.scheme = Int8()
    plain.is_fake_quant = True  # on the instance: not the mark
    assert quant_spec(plain) is None


def test_a_mark_without_a_scheme_is_refused():
    layer = Marked(2, 2)
    layer.scheme = "int8"
    with pytest.raises(TypeError, match="must carry an Int8 scheme, got 'int8'"):
        quant_spec(layer)


def test_weight_mask_is_the_buffer():
    layer = nn.Linear(2, 2)
    assert weight_mask(layer) is None
    mask = torch.ones(2, 2, dtype=torch.bool)
    layer.register_buffer("weight_mask", mask)
    assert weight_mask(layer) is mask


def test_own_hooks_are_known_by_their_class():
    class Ours:
        sparsekd_hook = True

    def foreign() -> None: ...

    foreign.sparsekd_hook = True  # type: ignore[attr-defined]
    assert is_own_hook(Ours())
    assert not is_own_hook(foreign)


@pytest.mark.parametrize(
    ("include", "exclude", "names"),
    [
        ((), (), ["0.0", "0.2"]),
        ("0.*", (), ["0.0", "0.2"]),
        (["0.0"], (), ["0.0"]),
        ((), "0.0", ["0.2"]),
        (nn.Linear, ["0.2"], ["0.0"]),
        ((), nn.Linear, []),
    ],
)
def test_select_by_name_and_type(include, exclude, names):
    assert [name for name, _ in select(model(), include, exclude)] == names


def test_select_takes_other_kinds():
    chosen = select(model(), include=nn.Conv2d, kinds=(nn.Linear, nn.Conv2d))
    assert [name for name, _ in chosen] == ["2"]


@pytest.mark.parametrize("where", ["include", "exclude"])
@pytest.mark.parametrize("selector", ["head", nn.Conv2d, "1"])
def test_select_refuses_what_matches_nothing(where, selector):
    with pytest.raises(ValueError, match=r"matches no layer; the layers are: 0\.0, 0\.2"):
        select(model(), **{where: [selector]})


def test_select_on_a_single_layer():
    assert [name for name, _ in select(nn.Linear(2, 2))] == [""]
    with pytest.raises(ValueError, match=r"the layers are: \(the model itself\)"):
        select(nn.Linear(2, 2), include="x")
    with pytest.raises(ValueError, match="the layers are: none"):
        select(nn.ReLU(), include="x")


def test_select_leaves_the_projection_of_attention_alone():
    model = nn.Sequential(nn.MultiheadAttention(4, 1), nn.Linear(4, 4))
    assert [name for name, _ in select(model)] == ["1"]
