"""Whole models for `sparsekd bench model`: our own definitions, and real weights where there are.

`MODELS` maps the name that the command knows to what it has to know of the model.
"""

from .images import image_model
from .minilm import minilm
from .mobilenet_v2 import mobilenet_v2
from .resnet import resnet18, resnet50

MODELS = {
    "resnet18": image_model(resnet18, stem="conv1"),
    "resnet50": image_model(resnet50, stem="conv1"),
    "mobilenetv2": image_model(mobilenet_v2, stem="features.0.0"),
    "minilm": minilm(),
}
