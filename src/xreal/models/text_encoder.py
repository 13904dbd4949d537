"""Prompt -> embeddings: WordPiece tokens through a BERT-style transformer that is trained with the backbone."""

from __future__ import annotations

from collections.abc import Sequence

from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import PreTrainedTokenizerFast

from xreal.config import TextEncoderConfig
from xreal.models.prompts import encode_prompts, tokenize
from xreal.vocabulary import prompt_words

__all__ = ["build_text_encoder", "build_tokenizer", "encode_prompts", "tokenize", "wordpiece_tokenizer"]

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # BERT's; they take the first numbers, padding is 0


def build_tokenizer(config: TextEncoderConfig) -> PreTrainedTokenizerFast:
    """Make an uncased WordPiece tokenizer: a token per word of prompts, letters for all other words.

    The vocabulary is written down, not trained: the trainer breaks ties by chance, so that two starts of a run would
    number the tokens differently.
    """
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    words = sorted({word for phrase in prompt_words() for word in phrase.lower().split()})
    tokens = [*_SPECIAL, *",.-", *letters, *(f"##{letter}" for letter in letters), *words]
    return wordpiece_tokenizer(tokens, config.max_length)


def wordpiece_tokenizer(tokens: Sequence[str], max_length: int) -> PreTrainedTokenizerFast:
    """Make BERT's uncased WordPiece tokenizer of these tokens, numbered from 0, without asking for any file.

    Args:
        tokens: each once; "[PAD]" first, "[UNK]", "[CLS]" and "[SEP]" anywhere.
        max_length: to which prompts are padded or cut, "[CLS]" and "[SEP]" included.
    """
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]" if "[MASK]" in vocabulary else None,
        model_max_length=max_length,
    )


def build_text_encoder(config: TextEncoderConfig) -> LDMBertModel:
    """Make an untrained text encoder of the paper's design (pre-norm, learnt positions, no padding mask)."""
    encoder = LDMBertModel(
        LDMBertConfig(
            vocab_size=config.vocab_size,
            max_position_embeddings=config.max_length,
            encoder_layers=config.layers,
            encoder_ffn_dim=4 * config.width,
            encoder_attention_heads=config.heads,
            head_dim=64 if config.width >= 256 else config.width // config.heads,
            d_model=config.width,
        )
    )
    # The default, 0.02, makes all prompts nearly the same embeddings, and the U-Net learns to ignore them.
    nn.init.normal_(encoder.model.embed_tokens.weight, std=0.5)
    encoder.to_logits.requires_grad_(False)  # never called; a distributed run waits for the gradient of all others
    return encoder
