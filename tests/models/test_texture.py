"""Texture: drawn with the strength that real X-rays have in each band and place, the same for image and twin."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from xreal.config import PRESETS
from xreal.errors import InputError
from xreal.evaluation.rows import reconstruct
from xreal.masks.lesions import Lesion
from xreal.models.folder import write_index
from xreal.models.texture import Texture
from xreal.pipeline import XRealPipeline
from xreal.training.loop import train
from xreal.training.stages import build_stage


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def constant(*deviations: float) -> Texture:
    """Return a texture of these deviations, whatever the image."""
    texture = Texture(bands=len(deviations), width=4)
    with torch.no_grad():
        texture.deviation[-1].weight.zero_()
        texture.deviation[-1].bias.copy_(torch.tensor(deviations).log())
    return texture


def textured_grey(texture: Texture, grey: Tensor, *seeds: int, strength: float = 1.0) -> Tensor:
    drawn: Tensor = texture(grey, texture.noise(grey.shape[-2:], generators(*seeds)), strength)
    return drawn


def powers(texture: Texture, images: Tensor) -> Tensor:
    return texture.split(images.expand(-1, texture.config.bands, -1, -1)).square().mean((0, 2, 3))


def test_bands_lose_nothing_of_what_is_finer_than_the_last() -> None:
    texture = Texture(bands=6, width=4)
    white = torch.randn(1, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    kept = powers(texture, white).sum().item()
    assert kept == pytest.approx(white.square().mean().item(), rel=0.01)


@torch.no_grad()
def test_drawn_noise_has_the_deviation_that_the_network_says() -> None:
    for band, wanted in ((0, 0.02), (2, 0.01)):
        deviations = [1e-5, 1e-5, 1e-5]
        deviations[band] = wanted
        texture = constant(*deviations)
        grey = torch.full((4, 1, 128, 128), 0.5)
        drawn = textured_grey(texture, grey, 0, 1, 2, 3) - grey
        assert drawn.std().item() == pytest.approx(wanted, rel=0.1)
        # What is seen in each band, its neighbours' noise included, is what the likelihood reckons with.
        expected = texture.variances(grey).mean((0, 2, 3))
        torch.testing.assert_close(powers(texture, drawn), expected, rtol=0.15, atol=1e-7)


@torch.no_grad()
def test_noise_is_of_the_seed_alone_and_scales_with_strength() -> None:
    texture = constant(0.01, 0.01)
    grey = torch.full((2, 1, 64, 64), 0.5)
    pair, one = textured_grey(texture, grey, 3, 7), textured_grey(texture, grey[:1], 7)
    assert torch.equal(pair[1], one[0])
    assert not torch.equal(pair[0], pair[1])
    assert torch.equal(textured_grey(texture, grey, 3, 7, strength=0.0), grey)
    torch.testing.assert_close(textured_grey(texture, grey, 3, 7, strength=0.5) - grey, (pair - grey) / 2)
    white = textured_grey(texture, torch.ones(1, 1, 64, 64), 0)
    assert white.max() == 1
    assert white.min() < 1


def test_likelihood_finds_the_strength_of_each_side() -> None:
    """The left half loses fine grain, the right half four times as much: training by the loss tells it."""
    torch.manual_seed(0)
    texture = Texture(bands=3, width=8)
    optimizer = torch.optim.Adam(texture.parameters(), lr=1e-2)
    decoded = torch.full((8, 1, 64, 64), 0.2)
    decoded[..., 32:] = 0.8
    deviation = torch.where(decoded < 0.5, 0.005, 0.02)
    for _ in range(150):
        loss = texture.loss(decoded, decoded + deviation * torch.randn(decoded.shape))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        finest = texture.variances(decoded[:1])[0, 0].sqrt()
    # White noise: the finest band passes most of it.
    share = math.sqrt(powers(texture, torch.randn(4, 1, 64, 64)).tolist()[0])
    assert finest[:, 8:24].mean().item() == pytest.approx(0.005 * share, rel=0.15)
    assert finest[:, 40:56].mean().item() == pytest.approx(0.02 * share, rel=0.15)


@pytest.fixture
def textured(tiny_pipeline: XRealPipeline) -> XRealPipeline:
    components = {name: part for name, part in tiny_pipeline.components.items() if name != "texture"}
    return XRealPipeline(**components, texture=constant(0.02, 0.02))


def test_pipeline_textures_image_and_twin_alike(
    textured: XRealPipeline, organ_mask: np.ndarray, lesion_in: Callable[..., Lesion]
) -> None:
    lesions = [lesion_in()]
    plain = textured(organ_mask, lesions, [5], steps=3, texture=0.0)
    output = textured(organ_mask, lesions, [5], steps=3)
    assert plain.healthy is not None
    assert output.healthy is not None
    assert plain.settings["texture"] == 0
    assert output.settings["texture"] == 1
    inner = (plain.healthy > 0.1) & (plain.healthy < 0.9) & (plain.images > 0.1) & (plain.images < 0.9)
    assert (output.healthy - plain.healthy)[inner].std() == pytest.approx(0.02 * math.sqrt(2), rel=0.3)
    np.testing.assert_allclose(
        (output.images - plain.images)[inner], (output.healthy - plain.healthy)[inner], rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("texture", [-0.1, 2.1, float("nan")])
def test_strength_out_of_range(tiny_pipeline: XRealPipeline, texture: float) -> None:
    with pytest.raises(InputError, match="texture is"):
        tiny_pipeline(None, (), [0], steps=2, texture=texture)


def test_model_without_texture_says_so(tiny_pipeline: XRealPipeline) -> None:
    assert tiny_pipeline(None, (), [0], steps=2).settings["texture"] == 0


def test_stage_adds_texture_to_a_model_folder(phantom_data: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    stage = build_stage("texture", PRESETS["tiny"], [phantom_data], tmp_path, autoencoder=tiny_model_folder)
    metrics = train(stage, tmp_path, mixed_precision="no")
    assert np.isfinite(list(metrics.values())).all()
    for part in tiny_model_folder.iterdir():
        if part.is_dir():
            (tmp_path / part.name).symlink_to(part)
    assert write_index(tmp_path)
    pipeline = XRealPipeline.from_pretrained(tmp_path)
    assert isinstance(pipeline.texture, Texture)
    output = pipeline(None, (), [1], steps=2)
    assert not np.array_equal(output.images, pipeline(None, (), [1], steps=2, texture=0.0).images)


def test_ceiling_of_the_card_has_texture_too(tiny_pipeline: XRealPipeline) -> None:
    images = np.full((9, 64, 64), 0.5, np.float32)  # more than one batch
    plain = reconstruct(tiny_pipeline.vae, images)
    textured = reconstruct(tiny_pipeline.vae, images, constant(0.02, 0.02))
    assert (textured - plain).std() == pytest.approx(0.02 * math.sqrt(2), rel=0.3)
    assert not np.array_equal(textured[0], textured[8])  # each image its own
