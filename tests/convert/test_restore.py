"""to_float: engine layers, activations and masks back in torch."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from convert_models import ACTIVATIONS, mask_, mlp
from torch import Tensor, nn

from sparsekd.convert import convert, to_float
from sparsekd.nn import Linear
from sparsekd.spec import NM, Int8


@pytest.mark.parametrize("act", [*ACTIVATIONS.values(), nn.Tanh])
def test_to_float_gives_back_layers_activations_and_masks(act):
    model = mlp(act)
    mask_(model[0], NM(8, 32))
    converted = convert(model, scheme="int8")
    # The link from identity to layer survives copies and pickles.
    copied = pickle.loads(pickle.dumps(copy.deepcopy(converted)))
    back = to_float(copied)
    assert [type(m) for m in back] == [nn.Linear, act, nn.Linear]
    assert torch.equal(back[0].weight, converted[0].weight_dequantized())
    assert torch.equal(back[0].weight_mask, back[0].weight.ne(0))
    assert isinstance(copied[0], Linear)
    assert not hasattr(back, "sparsekd_report")
    again, x = convert(back, scheme="int8"), torch.randn(4, 40)
    assert torch.equal(again[0].int_weight(), converted[0].int_weight())
    torch.testing.assert_close(again(x), converted(x), rtol=1e-4, atol=1e-5)


def test_to_float_in_place_and_of_a_lone_layer():
    converted = convert(mlp(), scheme="int8")
    assert to_float(converted, inplace=True) is converted
    assert type(converted[0]) is nn.Linear
    assert type(to_float(Linear(3, 2))) is nn.Linear
    with pytest.raises(ValueError, match="can not happen in place"):
        to_float(Linear(3, 2), inplace=True)


def test_to_float_keeps_an_activation_that_never_was_a_module():
    layer = Linear.from_float(nn.Linear(8, 5), scheme=Int8(), kernel="dense", activation="gelu")
    back, x = to_float(nn.Sequential(layer)), torch.randn(3, 8)
    assert [type(m) for m in back[0]] == [nn.Linear, nn.GELU]
    torch.testing.assert_close(back(x), layer(x), rtol=0, atol=0.05)


def test_a_trained_model_can_be_trained_again_after_to_float():
    back = to_float(convert(mlp(), scheme="int8"))
    with torch.enable_grad():
        loss: Tensor = back(torch.randn(4, 40)).square().sum()
        loss.backward()
    assert all(p.grad is not None for p in back.parameters())
