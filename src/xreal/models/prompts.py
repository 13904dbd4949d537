"""Prompt -> tokens -> embeddings, by any tokenizer and text encoder; and our own ones read without transformers.

transformers takes longer to import than an image takes to draw. What `tokenizers` and PyTorch hold of the same is here,
for a process that does nothing but draw (``models/narrow.py``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers.tokenization_utils_base import PreTrainedTokenizerBase

__all__ = ["LightTextEncoder", "LightTokenizer", "encode_prompts", "misread", "prompt_length", "tokenize"]


def tokenize(
    tokenizer: PreTrainedTokenizerBase | LightTokenizer, prompts: Sequence[str], length: int | None = None
) -> Tensor:
    """Return token numbers (B, L), int64, always padded or cut to ``length``; default the tokenizer's full length."""
    length = tokenizer.model_max_length if length is None else length
    encoded = tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    ids: Tensor = encoded.input_ids
    return ids


def misread(tokenizer: PreTrainedTokenizerBase | LightTokenizer, prompt: str, length: int) -> str:
    """Say what of a prompt is not read as it was meant; "" where nothing is wrong.

    Args:
        tokenizer: a word that its vocabulary lacks is read letter by letter where it is WordPiece's; others are not
            asked.
        prompt: text.
        length: tokens that the text encoder takes, beginning and end included.
    """
    pieces = tokenizer.tokenize(prompt)
    words: list[list[str]] = []
    for piece in pieces:
        if piece.startswith("##") and words:
            words[-1].append(piece.removeprefix("##"))
        else:
            words.append([piece])
    spelt = ["".join(word) for word in words if len(word) > 1 and max(map(len, word)) == 1]
    said = [f"the model knows no word {word!r} and reads its letters" for word in dict.fromkeys(spelt)]
    if len(pieces) > length - 2:
        said.append(f"it is {len(pieces)} tokens long, and the model reads the first {length - 2}")
    return f"prompt {prompt!r}: {'; '.join(said)}" if said else ""


def prompt_length(tokenizer: PreTrainedTokenizerBase | LightTokenizer, text_encoder: nn.Module) -> int:
    """Return how many tokens both take, beginning and end included."""
    config: Any = text_encoder.config
    return int(min(tokenizer.model_max_length, config.max_position_embeddings))


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase | LightTokenizer,
    text_encoder: nn.Module,
    prompts: Sequence[str],
    device: torch.device,
) -> Tensor:
    """Return prompt embeddings (B, L, d); L is what both the tokenizer and the text encoder allow.

    Padding is attended to, unless the text encoder's configuration asks for an attention mask.
    """
    ids = tokenize(tokenizer, prompts, prompt_length(tokenizer, text_encoder)).to(device)
    extra = {}
    if getattr(text_encoder.config, "use_attention_mask", False):
        extra["attention_mask"] = (ids != tokenizer.pad_token_id).long()
    embeds: Tensor = text_encoder(ids, return_dict=False, **extra)[0]
    return embeds


class LightTokenizer:
    """A folder of ``PreTrainedTokenizerFast``, read by `tokenizers` alone; called as ``tokenize`` calls it."""

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.model_max_length = int(settings["model_max_length"])
        self._pad_token = str(settings["pad_token"])
        self.pad_token_id = self._tokenizer.token_to_id(self._pad_token)

    def __call__(self, prompts: list[str], max_length: int, **_: Any) -> SimpleNamespace:
        """Return ``input_ids`` (B, L), padded or cut to ``max_length``."""
        self._tokenizer.enable_truncation(max_length)
        self._tokenizer.enable_padding(length=max_length, pad_id=self.pad_token_id, pad_token=self._pad_token)
        return SimpleNamespace(input_ids=torch.tensor([one.ids for one in self._tokenizer.encode_batch(prompts)]))

    def tokenize(self, prompt: str) -> list[str]:
        """Return all tokens of a prompt, without beginning and end."""
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        tokens: list[str] = self._tokenizer.encode(prompt, add_special_tokens=False).tokens
        return tokens


class LightTextEncoder(nn.Module):
    """The folder of an ``LDMBertModel``, without transformers: same weights, same embeddings, for inference alone."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if settings["activation_function"] != "gelu":
            raise ValueError(f"activation {settings['activation_function']}; expected gelu")
        self.config = SimpleNamespace(**settings | {"hidden_size": settings["d_model"]})
        self.model = _Transformer(self.config)
        stored: dict[str, Tensor] = {}
        for path in sorted(folder.glob("*.safetensors")):
            stored |= load_file(path)
        self.load_state_dict({key: value.float() for key, value in stored.items() if not key.startswith("to_logits.")})

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the weights: diffusers asks for it when it moves a pipeline."""
        return next(self.parameters()).dtype

    def forward(self, input_ids: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        """Return the embeddings (B, L, d) of token numbers (B, L), in a tuple."""
        return (self.model(input_ids),)


class _Transformer(nn.Module):
    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.d_model)
        self.embed_positions = nn.Embedding(config.max_position_embeddings, config.d_model)
        self.layers = nn.ModuleList(_Layer(config) for _ in range(config.encoder_layers))
        self.layer_norm = nn.LayerNorm(config.d_model)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.embed_tokens(ids) + self.embed_positions.weight[: ids.shape[1]]
        for layer in self.layers:
            hidden = layer(hidden)
        normed: Tensor = self.layer_norm(hidden)
        return normed


class _Layer(nn.Module):
    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        width, inner = config.d_model, config.encoder_attention_heads * config.head_dim
        self.self_attn = nn.ModuleDict({name: nn.Linear(width, inner, bias=False) for name in _PROJECTIONS})
        self.self_attn["out_proj"] = nn.Linear(inner, width)
        self.self_attn_layer_norm, self.final_layer_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.fc1, self.fc2 = nn.Linear(width, config.encoder_ffn_dim), nn.Linear(config.encoder_ffn_dim, width)
        self.heads = config.encoder_attention_heads

    def forward(self, hidden: Tensor) -> Tensor:
        normed = self.self_attn_layer_norm(hidden)
        query, key, value = (self.self_attn[name](normed).unflatten(-1, (self.heads, -1)) for name in _PROJECTIONS)
        found = F.scaled_dot_product_attention(*(one.transpose(1, 2) for one in (query, key, value)))
        hidden = hidden + self.self_attn["out_proj"](found.transpose(1, 2).flatten(2))
        further: Tensor = self.fc2(F.gelu(self.fc1(self.final_layer_norm(hidden))))
        return hidden + further


_PROJECTIONS = ("q_proj", "k_proj", "v_proj")
