"""The networks' own laws: linear start, shapes, what a saved configuration holds, prompts and tokens."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from xreal.config import PRESETS, AutoencoderConfig, Preset
from xreal.data.phantom import Phantom
from xreal.models.autoencoder import (
    PatchAutoencoderKL,
    build_autoencoder,
    decode_latents,
    downsampling,
    encode_image,
)
from xreal.models.backbone import (
    PatchUNet2DConditionModel,
    build_scheduler,
    build_unet,
    loss_weight,
    training_target,
)
from xreal.models.prompts import misread
from xreal.models.text_encoder import build_text_encoder, build_tokenizer, encode_prompts, tokenize, wordpiece_tokenizer
from xreal.vocabulary import Finding, prompt_from_findings, prompt_words

TINY = PRESETS["tiny"]
PLAIN = AutoencoderConfig(
    block_out_channels=(8, 8, 16), latent_channels=3, norm_num_groups=4, patch_size=1, image_channels=3
)
PATCHED = replace(TINY, backbone=replace(TINY.backbone, patch_size=2))


@pytest.fixture(scope="module")
def pictures(phantoms: list[Phantom]) -> torch.Tensor:
    return torch.from_numpy(np.stack([chest.image for chest in phantoms]))[:, None]


def test_autoencoder_starts_as_principal_components(pictures: torch.Tensor) -> None:
    torch.manual_seed(0)
    network = build_autoencoder(TINY.autoencoder, 64).eval()
    network.initialise(pictures)
    with torch.inference_mode():
        posterior = network.encode(pictures).latent_dist
        decoded = network.decode(posterior.mode()).sample
    patches = pictures.unfold(2, 8, 8).unfold(3, 8, 8).reshape(-1, 64).double()
    centred = patches - patches.mean(0)
    values, vectors = np.linalg.eigh(centred.T.numpy() @ centred.numpy())
    top = torch.from_numpy(vectors[:, -4:])
    expected = (patches.mean(0) + centred @ top @ top.T).view(12, 1, 8, 8, 8, 8)  # image, 1, row, column, y, x
    expected = expected.permute(0, 1, 2, 4, 3, 5).reshape(12, 1, 64, 64)
    torch.testing.assert_close(decoded, expected.float(), rtol=0, atol=1e-4)
    residual = (decoded - pictures).square().sum().item()
    assert residual == pytest.approx(values[:-4].sum(), rel=1e-3)  # no linear map of 4 numbers leaves less
    torch.testing.assert_close(posterior.mean.var((0, 2, 3)), torch.ones(4), rtol=1e-2, atol=0)
    torch.testing.assert_close(posterior.std, torch.full_like(posterior.std, np.exp(-3.0)))


@pytest.mark.parametrize("config", [TINY.autoencoder, PLAIN], ids=["patches", "plain"])
def test_autoencoder_keeps_the_contract(config: AutoencoderConfig, pictures: torch.Tensor) -> None:
    torch.manual_seed(0)
    network = build_autoencoder(config, 64).eval()
    network.register_to_config(scaling_factor=0.5)
    factor = downsampling(network)
    assert factor == config.downsampling
    with torch.inference_mode():
        latents = encode_image(network, pictures[:2])
        decoded = decode_latents(network, latents)
        half = network.encode(pictures[:2].expand(-1, config.image_channels, -1, -1)).latent_dist.mode() * 0.5
    assert latents.shape == (2, config.latent_channels, 64 // factor, 64 // factor)
    torch.testing.assert_close(latents, half)
    assert (decoded.shape, decoded.dtype) == ((2, 1, 64, 64), torch.float32)
    assert decoded.min() >= 0
    assert decoded.max() <= 1


def test_posterior_is_sampled_by_each_images_generator(pictures: torch.Tensor) -> None:
    network = build_autoencoder(TINY.autoencoder, 64).eval()

    def sample(images: torch.Tensor, *seeds: int) -> torch.Tensor:
        with torch.inference_mode():
            return encode_image(network, images, [torch.Generator().manual_seed(seed) for seed in seeds])

    both = sample(pictures[:2], 1, 2)
    torch.testing.assert_close(both[1:], sample(pictures[1:2], 2))
    assert (both[1:] - sample(pictures[1:2], 3)).abs().min() > 0


@pytest.mark.parametrize(
    ("cls", "network", "own", "foreign"),
    [
        (PatchAutoencoderKL, build_autoencoder(TINY.autoencoder, 64), "patch_size", "down_block_types"),
        (AutoencoderKL, build_autoencoder(PLAIN, 64), "down_block_types", "patch_size"),
        (PatchUNet2DConditionModel, build_unet(PATCHED), "patch_size", "time_embedding_type"),
        (UNet2DConditionModel, build_unet(TINY), "time_embedding_type", "patch_size"),
    ],
    ids=["patch autoencoder", "autoencoder", "patch U-Net", "U-Net"],
)
def test_saved_network_opens_as_itself(
    cls: type, network: torch.nn.Module, own: str, foreign: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert type(network) is cls
    network.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["_class_name"] == cls.__name__
    assert own in config
    assert foreign not in config
    opened, report = cls.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    assert not caplog.records
    own_settings = {name: value for name, value in config.items() if not name.startswith("_")}
    assert own_settings == {name: opened.config[name] for name in own_settings}
    assert own_settings == json.loads(json.dumps({name: network.config[name] for name in own_settings}))
    for name, tensor in network.state_dict().items():
        assert torch.equal(opened.state_dict()[name], tensor), name


@pytest.mark.parametrize("preset", [TINY, PATCHED], ids=["plain", "patches"])
def test_unet_keeps_the_latents_shape_and_reads_the_prompt(preset: Preset) -> None:
    torch.manual_seed(0)
    unet = build_unet(preset).eval()
    latents, embeds = torch.randn(2, 4, 8, 8), torch.randn(2, 24, 16)
    with torch.inference_mode():
        first = unet(latents, torch.tensor(500), embeds).sample
        second = unet(latents, torch.tensor(500), embeds.flip(0)).sample
        later = unet(latents, torch.tensor(501), embeds).sample
    assert first.shape == latents.shape
    assert (first - second).abs().max() > 1e-4
    assert (first - later).abs().max() > 0


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_weighted_error_of_the_target_is_that_of_the_image(kind: str) -> None:
    """Min-SNR weights make both kinds of target the same loss: min(SNR, γ) times the error of the clean latents."""
    scheduler = build_scheduler(replace(TINY.backbone, prediction_type=kind))
    timesteps = torch.tensor([3, 250, 900])
    latents, noise, off = torch.randn(3, 1, 2, 2), torch.randn(3, 1, 2, 2), 0.1 * torch.randn(3, 1, 2, 2)
    noisy = scheduler.add_noise(latents, noise, timesteps)
    alpha = scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    guessed_noise = (noisy - alpha.sqrt() * (latents + off)) / (1 - alpha).sqrt()
    guessed = training_target(scheduler, latents + off, guessed_noise, timesteps)
    error = (guessed - training_target(scheduler, latents, noise, timesteps)).square().mean((1, 2, 3))
    snr = (alpha / (1 - alpha)).flatten()
    expected = snr.clamp_max(5.0) * off.square().mean((1, 2, 3))
    torch.testing.assert_close(error * loss_weight(scheduler, timesteps, 5.0), expected, rtol=1e-2, atol=1e-5)
    assert torch.equal(loss_weight(scheduler, timesteps, 0), torch.ones(3))


@pytest.mark.parametrize("preset", ["cxr-256", "tiny"])
def test_tokenizer_knows_every_word_of_prompts(preset: str) -> None:
    config = PRESETS[preset].text_encoder
    tokenizer = build_tokenizer(config)
    assert len(tokenizer) <= config.vocab_size
    prompts = [*prompt_words(), ", ".join(prompt_words()[:3]), "", "PNEUMONIA, ap VIEW"]
    ids = tokenize(tokenizer, prompts)
    assert ids.shape == (len(prompts), config.max_length)
    assert not (ids == tokenizer.unk_token_id).any()
    assert ids.max() < config.vocab_size
    assert len(set(map(tuple, ids.tolist()))) == len(prompts)
    for prompt, row in zip(prompts, ids, strict=True):
        assert tokenizer.decode(row, skip_special_tokens=True).replace(" ,", ",") == prompt.lower()


def test_tokenizer_is_the_same_every_time() -> None:
    first, second = (build_tokenizer(TINY.text_encoder).get_vocab() for _ in range(2))
    assert first == second


def test_two_findings_fit_the_length_with_view_and_sex() -> None:
    for name in ("cxr-256", "paper"):
        tokenizer = build_tokenizer(PRESETS[name].text_encoder)
        for pair in itertools.combinations(Finding, 2):
            prompt = prompt_from_findings(pair, "PA", "F")
            assert len(tokenizer(prompt).input_ids) <= tokenizer.model_max_length, prompt


def test_what_is_misread_is_said() -> None:
    tokenizer = build_tokenizer(TINY.text_encoder)
    for finding in Finding:
        assert misread(tokenizer, f"{finding}, PA view, female", 24) == ""
    assert misread(tokenizer, "", 24) == ""
    said = misread(tokenizer, "Pnuemonia, AP view, Pnuemonia", 64)
    assert said == ("prompt 'Pnuemonia, AP view, Pnuemonia': the model knows no word 'pnuemonia' and reads its letters")
    assert misread(tokenizer, "Edema, PA view", 6) == ""
    assert "it is 5 tokens long, and the model reads the first 4" in misread(tokenizer, "Edema, PA view.", 6)
    bert = wordpiece_tokenizer(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "pneumo", "##thorax"], 24)
    assert misread(bert, "pneumothorax", 24) == ""  # of parts that mean something


def test_prompt_embeddings_are_those_of_each_prompt_alone() -> None:
    torch.manual_seed(0)
    tokenizer, encoder = build_tokenizer(TINY.text_encoder), build_text_encoder(TINY.text_encoder).eval()
    device = torch.device("cpu")
    with torch.inference_mode():
        both = encode_prompts(tokenizer, encoder, ["Edema", ""], device)
        alone = encode_prompts(tokenizer, encoder, [""], device)
    assert both.shape == (2, 24, 16)
    torch.testing.assert_close(both[1:], alone)
    assert (both[0] - both[1]).abs().max() > 0.01
