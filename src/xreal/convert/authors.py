"""The authors' release (and Cheff's, of the same layout) -> a model folder."""

from __future__ import annotations

import hashlib
import re
import shutil
from pathlib import Path
from typing import Any

from xreal.convert.checkpoint import Weights, named, read_checkpoint
from xreal.convert.layout import SCALING_FACTOR, read_autoencoder, read_schedule, read_text_encoder, read_unet
from xreal.convert.plan import Component, Plan
from xreal.errors import ModelError
from xreal.images import check_output_folder
from xreal.models.autoencoder import downsampling
from xreal.models.folder import write_index
from xreal.models.text_encoder import wordpiece_tokenizer

__all__ = ["convert_authors", "plan_authors"]

UNET, TEXT_ENCODER, FIRST_STAGE = "model.diffusion_model.", "cond_stage_model.transformer.", "first_stage_model."
AUTOENCODER = r"(encoder|decoder|quant_conv|post_quant_conv)\."

# Tensors that sampling does not need, by what their key begins with. A key that matches nothing is an error.
_UNUSED_IN_BACKBONE = {
    r"model_ema\.": "moving average; the authors sample with the plain weights",
    r"first_stage_model\.loss\.": "training loss",
    r"first_stage_model\.": "the autoencoder's own file wins",
    r"(betas|alphas_cumprod(_prev)?|(sqrt_|log_|posterior_)\w+|lvlb_weights)$": "follows from the noise schedule",
    r"logvar$": "training loss",
}
_UNUSED_IN_AUTOENCODER = {r"loss\.": "training loss", r"model_ema\.": "moving average; the plain weights are used"}


def convert_authors(
    backbone: Path, autoencoder: Path, anatomy_controller: Path, vocab: Path, out: Path, image_size: int = 256
) -> Plan:
    """Convert the three checkpoints and write a model folder that ``XRealPipeline.from_pretrained`` opens.

    Everything is checked before anything is written, and the folder appears whole or not at all.

    Args:
        backbone: U-Net, text encoder and noise schedule.
        autoencoder: E_G and D_G.
        anatomy_controller: E_v and D_v.
        vocab: WordPiece tokens, one a line.
        out: new or empty folder.
        image_size: side of the images in pixels, which no tensor shows; the authors' 256.

    Returns:
        What was done.

    Raises:
        ModelError: a file is missing, truncated, another one than its name says, or does not fit the layout.
        OutputError: ``out`` holds files or cannot be written to.
    """
    check_output_folder(out)
    plan = plan_authors(backbone, autoencoder, anatomy_controller, vocab, image_size)
    fresh = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)  # what a killed conversion left
    fresh.mkdir(parents=True)
    for component in plan.components:
        component.load().save_pretrained(fresh / component.name)
        component.network.to("meta")  # one network at a time in memory
    plan.tokenizer.save_pretrained(fresh / "tokenizer")
    plan.scheduler.save_pretrained(fresh / "scheduler")
    (fresh / "README.md").write_text(_card(plan, [backbone, autoencoder, anatomy_controller, vocab]), encoding="utf-8")
    write_index(fresh)
    if out.is_dir():
        out.rmdir()  # empty, as checked
    fresh.rename(out)
    return plan


def plan_authors(
    backbone: Path, autoencoder: Path, anatomy_controller: Path, vocab: Path, image_size: int = 256
) -> Plan:
    """Check the files and say what the conversion would do; arguments and errors as ``convert_authors``."""
    tokens = _read_vocabulary(vocab)
    files = [read_checkpoint(path) for path in (backbone, autoencoder, anatomy_controller)]
    unused: dict[str, str] = {}
    known = f"{re.escape(UNET)}|{re.escape(TEXT_ENCODER)}|scale_factor$"
    unused |= _left_out(files[0], known, _UNUSED_IN_BACKBONE, "the backbone")
    factor = float(files[0].tensors["scale_factor"]) if "scale_factor" in files[0].tensors else SCALING_FACTOR
    autoencoders = []
    for name, file in zip(("vae", "anatomy_controller"), files[1:], strict=True):
        unused |= _left_out(file, AUTOENCODER, _UNUSED_IN_AUTOENCODER, "an autoencoder")
        own = {key: value for key, value in file.tensors.items() if re.match(AUTOENCODER, key)}
        autoencoders.append(read_autoencoder(name, Weights(file.path, "", own), image_size, factor))
    vae = autoencoders[0].network
    unet = read_unet(files[0].part(UNET), image_size, downsampling(vae))
    text_encoder = read_text_encoder(files[0].part(TEXT_ENCODER))
    scheduler = read_schedule(files[0])
    _check_fit(vae, unet, text_encoder, tokens, vocab, image_size)
    length = int(text_encoder.network.config.max_position_embeddings)
    facts = (
        f"{image_size}×{image_size} pixels in [0, 1], {vae.config.in_channels} equal channels; organ mask as label ÷ 4",
        f"{vae.config.latent_channels} latent channels, f = {downsampling(vae)}, × {factor:g}",
        f"U-Net {unet.network.config.block_out_channels}, context {unet.network.config.cross_attention_dim}",
        f"text encoder {text_encoder.network.config.encoder_layers} layers, {length} tokens, {len(tokens)} of "
        f"{text_encoder.network.config.vocab_size} words in {vocab.name}",
        f"{scheduler.config.num_train_timesteps} steps, β {scheduler.config.beta_start} to {scheduler.config.beta_end}",
    )
    components = (*autoencoders, unet, text_encoder)
    return Plan(components, wordpiece_tokenizer(tokens, length), scheduler, facts, unused)


def _left_out(file: Weights, used: str, reasons: dict[str, str], what: str) -> dict[str, str]:
    """Return why each tensor that does not match ``used`` is left out.

    Raises:
        ModelError: there is no reason for some.
    """
    rest = [key for key in file.tensors if not re.match(used, key)]
    if len(rest) == len(file.tensors):
        raise ModelError(f"{file.path} holds nothing of {what}, but {named(rest, 3)}; is it another of the files?")
    unused = {}
    for key in rest:
        found = [reason for start, reason in reasons.items() if re.match(start, key)]
        if found:
            unused[f"{file.path.name}: {key}"] = found[0]
    if unknown := [key for key in rest if f"{file.path.name}: {key}" not in unused]:
        raise ModelError(f"{file.path} holds tensors that are not of the authors' layout: {named(unknown)}")
    return unused


def _read_vocabulary(path: Path) -> list[str]:
    try:
        tokens = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} cannot be read as a vocabulary, one token a line ({error})") from error
    needed = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
    if missing := [token for token in needed if token not in tokens]:
        raise ModelError(f"{path} lacks {', '.join(missing)}; expected BERT's uncased vocab.txt, one token a line")
    if tokens[0] != "[PAD]":
        raise ModelError(f"{path} begins with {tokens[0]!r}; expected [PAD], which prompts are padded with, as token 0")
    if len(set(tokens)) < len(tokens):
        twice = sorted({token for token in tokens if tokens.count(token) > 1})
        raise ModelError(f"{path} names tokens twice: {named(twice)}")
    return tokens


def _check_fit(
    vae: Any, unet: Component, text_encoder: Component, tokens: list[str], vocab: Path, image_size: int
) -> None:
    """Check what holds between the networks.

    Raises:
        ModelError: they do not belong together.
    """
    config, text = unet.network.config, text_encoder.network.config
    channels = vae.config.latent_channels
    if (config.in_channels, config.out_channels) != (channels, channels):
        raise ModelError(
            f"the U-Net takes {config.in_channels} latent channels and returns {config.out_channels}, the autoencoder "
            f"has {channels}; the files do not belong together"
        )
    if config.cross_attention_dim != text.d_model:
        raise ModelError(
            f"the U-Net expects embeddings of width {config.cross_attention_dim}, the text encoder gives {text.d_model}"
        )
    if len(tokens) > text.vocab_size:
        raise ModelError(
            f"{vocab} holds {len(tokens)} tokens, the text encoder has embeddings of {text.vocab_size}; "
            "is it the vocabulary that the model was trained with?"
        )
    step = downsampling(vae) * 2 ** (len(config.block_out_channels) - 1)
    if image_size < step or image_size % step:
        raise ModelError(f"image size {image_size} is no multiple of {step}, the model's downsampling; choose one")


def _card(plan: Plan, files: list[Path]) -> str:
    """Write the model card: where the weights come from and what was inferred."""
    rows = "\n".join(f"| `{path.name}` | `{_sha256(path)}` |" for path in files)
    facts = "\n".join(f"- {fact}" for fact in plan.facts)
    return (
        "# Converted XReal model\n\nMade by `xreal convert authors`. The weights are those of their authors and stand "
        "under their terms; training data, splits and numbers are told by them. Synthetic images, not for diagnosis."
        f"\n\n| file | SHA-256 |\n|---|---|\n{rows}\n\n{facts}\n\n"
        f"{len(plan.unused)} stored tensors are not used (`xreal convert authors --dry-run` names them).\n"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
