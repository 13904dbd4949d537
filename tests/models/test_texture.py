"""Texture: no grid, grain as strong as real X-rays have it in each band and place, films that differ as theirs do."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from typer.testing import CliRunner

from xreal.cli import app
from xreal.config import PRESETS
from xreal.errors import DataError, InputError, TrainingError
from xreal.evaluation.rows import reconstruct
from xreal.masks.lesions import Lesion
from xreal.models.bands import amplify, changes, noise_in_bands, split
from xreal.models.folder import write_index
from xreal.models.grid import find_grid
from xreal.models.texture import Texture
from xreal.pipeline import XRealPipeline
from xreal.training.film import fit_films, learn_films
from xreal.training.loop import train
from xreal.training.stages import build_stage


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def white(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def grained(relative: float = 1.0, bands: int = 6, films: float = 0.0) -> Texture:
    """Return a texture whose grain is ``relative`` times what each band has; films are stronger by ``films``."""
    texture = Texture(bands=bands, grain_bands=min(bands, 4), width=4)
    with torch.no_grad():
        texture.deviation[-1].weight.zero_()
        texture.deviation[-1].bias.fill_(np.log(relative))
        texture.film_mean.fill_(films)
    return texture


def chests(count: int, seed: int = 0, side: int = 64) -> Tensor:
    """Return smooth images with faint detail of all sizes, (count, 1, side, side)."""
    noise = split(white(count, 1, side, side, seed=seed), 6)
    return (0.5 + 0.01 * noise[:, :-1].sum(1, keepdim=True) + 0.3 * noise[:, -1:]).clamp(0, 1)


def textured(texture: Texture, images: Tensor, *seeds: int, strength: float = 1.0) -> Tensor:
    drawn: Tensor = texture(images, texture.film(images, generators(*seeds)), strength)
    return drawn


@pytest.mark.parametrize("size", [(64, 64), (40, 24), (8, 8)])
def test_bands_add_up_to_the_image(size: tuple[int, int]) -> None:
    images = torch.rand(2, 1, *size)
    torch.testing.assert_close(split(images, 5).sum(1, keepdim=True), images)


def test_each_band_holds_its_frequency() -> None:
    across = torch.arange(128)
    for band, frequency in ((0, 0.5), (2, 0.25), (4, 0.125)):
        wave = torch.cos(2 * torch.pi * frequency * across).expand(1, 1, 128, 128)
        inner = split(wave, 6)[0, :, 32:-32, 32:-32].square().mean((1, 2))
        assert inner[band] > 0.9 * inner.sum()


def test_amplified_bands_are_those_of_the_split() -> None:
    images, gains = torch.rand(2, 1, 40, 24), torch.rand(2, 5) + 0.5
    parts = split(images, 5)
    parts[:, :-1] *= gains[..., None, None]
    torch.testing.assert_close(amplify(images, gains), parts.sum(1, keepdim=True))


def test_bands_of_noise_have_unit_variance() -> None:
    torch.testing.assert_close(
        noise_in_bands(white(8, 1, 128, 128), 6).std((0, 2, 3)), torch.ones(6), rtol=0.05, atol=0
    )


def test_noise_changes_as_much_as_it_has_in_each_direction() -> None:
    bands = split(white(6, 1, 128, 128), 6)[:, :5]
    variance = bands.var((0, 2, 3))
    for change in changes(bands):
        torch.testing.assert_close(change[..., :-1, 1:-1].square().mean((0, 2, 3)), variance, rtol=0.05, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("turned", [False, True])
def test_lines_are_no_grain(turned: bool) -> None:
    texture = Texture(bands=6, grain_bands=4)
    faint = 0.5 + 0.001 * white(1, 1, 128, 128)
    across = torch.arange(128.0) + (torch.arange(128.0)[:, None] if turned else torch.zeros(128, 1))
    lined = faint + 0.2 * (across % 16 < 2)
    bands = [texture.bands(images) for images in (lined, faint)]
    size, grain = (
        (one(bands[0]) - one(bands[1]))[:, :4].mean((0, 2, 3)) for one in (texture.sizes, texture.grain_sizes)
    )
    assert (size > 1).all()
    assert (grain < 0.5 * size).all()


def test_the_grid_goes_and_edges_stay() -> None:
    clean = chests(3, side=256)
    clean[:, :, 70:, 90:] += 0.3  # an edge, far stronger than the grid
    clean[:, :, :, :8] = 0  # black border
    pattern = 0.004 * white(3, 1, 8, 8, seed=1)
    gridded = (clean + pattern.repeat(1, 1, 32, 32)).clamp(0, 1)
    left = gridded - find_grid(gridded, 8) - clean
    before, after = ((part[:, :, :, 8:]).square().mean().sqrt() for part in (gridded - clean, left))
    assert after < 0.4 * before
    assert find_grid(clean, 8).square().mean().sqrt() < 0.001
    assert find_grid(torch.zeros(1, 1, 64, 64), 8).abs().max() == 0


def test_a_grid_may_differ_from_place_to_place() -> None:
    clean = chests(3, side=256)
    pattern = 0.004 * white(3, 1, 8, 8, seed=1).repeat(1, 1, 32, 32) * torch.linspace(-1, 1, 256)
    left = pattern - find_grid(clean + pattern, 8)
    assert left.square().mean() < 0.25 * pattern.square().mean()


@torch.no_grad()
def test_grain_is_as_strong_as_the_network_says() -> None:
    images = chests(6)
    texture = grained(relative=1.0)
    deviations = F.interpolate(texture.strengths(texture.bands(images)), scale_factor=4, mode="bilinear").exp()
    expected = (deviations * noise_in_bands(white(6, 1, 64, 64, seed=9), 4)).sum(1).std()
    assert texture.grain(images, generators(*range(6))).std().item() == pytest.approx(expected.item(), rel=0.1)
    wanted = split(images, 6)[:, :4].square().mean((0, 2, 3)).sqrt()
    torch.testing.assert_close(deviations.mean((0, 2, 3)), wanted, rtol=0.25, atol=0)


@torch.no_grad()
def test_edges_get_no_more_grain_than_a_film_has() -> None:
    images = chests(1)
    images[:, :, :, 32:] += 0.4
    strengths = grained().strengths(grained().bands(images.clamp(0, 1)))[:, 0]
    assert strengths.max() < np.log(3) + strengths.mean()


@torch.no_grad()
def test_patches_make_grain_stronger_in_one_place_than_in_the_next() -> None:
    images, even, patchy = chests(4), grained(3.0), grained(3.0)
    patchy.patches.fill_(0.8)
    sizes = [one.sizes(one.bands(textured(one, images, *range(4))))[:, :4] for one in (even, patchy)]
    torch.testing.assert_close(sizes[1].mean((0, 2, 3)), sizes[0].mean((0, 2, 3)), rtol=0, atol=0.25)
    assert (sizes[1].std((2, 3)) > 1.1 * sizes[0].std((2, 3))).all()


@torch.no_grad()
def test_no_patch_is_so_strong_that_single_pixels_are_seen() -> None:
    images, even, patchy = chests(8), *(Texture(bands=6, grain_bands=1, width=4) for _ in range(2))
    patchy.load_state_dict(even.state_dict())
    patchy.patches.fill_(1.0)
    plain, strong = (one.grain(images, generators(*range(8))) for one in (even, patchy))
    factors = (strong / plain).log()
    assert 1.9 < factors.max() < 2.01
    assert -2.01 < factors.min() < -1.9


@torch.no_grad()
def test_patches_are_learnt_from_real_images() -> None:
    def uneven(deviation: float, seed: int) -> Tensor:
        texture = grained(3.0)
        texture.patches.fill_(deviation)
        return textured(texture, chests(60, seed=seed), *range(100 * seed, 100 * seed + 60))

    texture = grained(3.0)
    fit_films(texture, chests(60), uneven(0.7, seed=1))
    half_the_variance = torch.full((4,), 0.7 * 0.5**0.5)
    torch.testing.assert_close(texture.patches, half_the_variance, rtol=0, atol=0.15)
    fit_films(texture, chests(60), uneven(0.0, seed=1))
    assert texture.patches.max() < 0.25


@torch.no_grad()
def test_texture_is_of_the_seed_alone_and_scales_with_strength() -> None:
    texture, images = grained(0.5, films=0.1), chests(2)
    pair, one = textured(texture, images, 3, 7), textured(texture, images[1:], 7)
    torch.testing.assert_close(pair[1], one[0])
    assert not torch.equal(pair[0], pair[1])
    torch.testing.assert_close(textured(texture, images, 3, 7, strength=0.0), images)
    half, whole = ((textured(texture, images, 3, 7, strength=s) - images).std() for s in (0.5, 1.0))
    assert 0.3 < half / whole < 0.7
    bright = textured(texture, torch.full((1, 1, 64, 64), 1.0) - 0.01 * white(1, 1, 64, 64).abs(), 0)
    assert 0 <= bright.min() < bright.max() <= 1


def test_training_finds_the_strength_of_each_side() -> None:
    """What is decoded is darker where four times as much is lost: training by the loss tells it."""
    torch.manual_seed(0)
    texture = Texture(bands=4, grain_bands=3, width=8)
    optimizer = torch.optim.Adam(texture.parameters(), lr=2e-2)
    decoded = torch.full((8, 1, 64, 64), 0.2)
    decoded[..., 32:] = 0.8
    decoded = decoded + 0.001 * white(*decoded.shape)
    deviation = torch.where(decoded < 0.5, 0.005, 0.02)
    for step in range(150):
        real = decoded + deviation * white(*decoded.shape, seed=step)
        loss = texture.loss(decoded, real, generators(*range(8)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        grain = texture.grain(decoded, generators(*range(8)))
    left, right = (split(grain, 3)[:, 0, :, part].std().item() for part in (slice(4, 20), slice(44, 60)))
    expected = split(white(8, 1, 64, 64), 3)[:, 0].std().item()
    assert left == pytest.approx(0.005 * expected, rel=0.25)
    assert right == pytest.approx(0.02 * expected, rel=0.25)


@torch.no_grad()
def test_films_give_drawn_images_the_amplitudes_of_real_ones() -> None:
    """Real images have 1.3 times the detail, each film another factor more, of deviation 0.3 in the logarithm."""
    factors = (np.log(1.3) + 0.3 * white(120, 1, 1, 1, seed=5)).exp()
    parts = split(chests(120, seed=3), 6)
    real = (factors * parts[:, :-1].sum(1, keepdim=True) + parts[:, -1:]).clamp(0, 1)
    texture = grained(0.01)
    left = fit_films(texture, chests(120), real)
    assert left["mean"] < 0.5
    assert left["scatter"] < 0.6
    assert texture.film_mean.mean().item() == pytest.approx(np.log(1.3), abs=0.1)
    assert texture.film_root.square().sum(1).sqrt().mean().item() == pytest.approx(0.3, abs=0.1)
    # Films that scatter less than drawn images do cannot be reached, but are not made worse.
    fit_films(texture, real, chests(120))
    assert texture.film_root.abs().max() < 0.1


@pytest.fixture
def film_pipeline(tiny_pipeline: XRealPipeline) -> XRealPipeline:
    components = {name: part for name, part in tiny_pipeline.components.items() if name != "texture"}
    return XRealPipeline(**components, texture=grained(1.0))


def test_pipeline_textures_image_and_twin_alike(
    film_pipeline: XRealPipeline, organ_mask: np.ndarray, lesion_in: Callable[..., Lesion]
) -> None:
    lesion = lesion_in()
    plain = film_pipeline(organ_mask, [lesion], [5], steps=3, texture=0.0)
    output = film_pipeline(organ_mask, [lesion], [5], steps=3)
    assert plain.healthy is not None
    assert output.healthy is not None
    assert plain.settings["texture"] == 0
    assert output.settings["texture"] == 1
    inner = (plain.healthy > 0.1) & (plain.healthy < 0.9) & (plain.images > 0.1) & (plain.images < 0.9)
    grain = (output.healthy - plain.healthy)[inner]
    assert grain.std() > 0.001
    np.testing.assert_allclose((output.images - plain.images)[inner], grain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("texture", [-0.1, 2.1, float("nan")])
def test_strength_out_of_range(tiny_pipeline: XRealPipeline, texture: float) -> None:
    with pytest.raises(InputError, match="texture is"):
        tiny_pipeline(None, (), [0], steps=2, texture=texture)


def test_model_without_texture_says_so(tiny_pipeline: XRealPipeline) -> None:
    assert tiny_pipeline(None, (), [0], steps=2).settings["texture"] == 0


@pytest.fixture(scope="module")
def textured_folder(phantom_data: Path, tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with a texture that was trained by its stage."""
    folder = tmp_path_factory.mktemp("textured") / "model"
    shutil.copytree(tiny_model_folder, folder)
    stage = build_stage("texture", PRESETS["tiny"], [phantom_data], folder, autoencoder=tiny_model_folder)
    metrics = train(stage, folder, mixed_precision="no")
    assert np.isfinite(list(metrics.values())).all()
    assert write_index(folder)
    return folder


def test_stage_adds_texture_to_a_model_folder(textured_folder: Path) -> None:
    pipeline = XRealPipeline.from_pretrained(textured_folder)
    assert isinstance(pipeline.texture, Texture)
    output = pipeline(None, (), [1], steps=2)
    assert not np.array_equal(output.images, pipeline(None, (), [1], steps=2, texture=0.0).images)


def test_films_are_learnt_from_what_the_model_draws(
    textured_folder: Path, phantom_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(textured_folder, folder)
    with pytest.raises(DataError, match="training X-rays without finding to learn films from; give at least 50"):
        learn_films([phantom_data], folder)
    monkeypatch.setattr("xreal.training.film._FEWEST", 2)
    done = []
    texture, left = learn_films([phantom_data], folder, lambda some, total: done.append((some, total)), most=3)
    assert texture.film_mean.abs().max() > 0
    assert np.isfinite([left["mean"], left["scatter"]]).all()
    assert done[-1][0] == done[-1][1] <= 3
    result = CliRunner().invoke(app, ["train", "film", "--data", str(phantom_data), "--out", str(folder)])
    assert result.exit_code == 0, result.output
    assert "dB at most" in result.output
    assert XRealPipeline.from_pretrained(folder).texture.film_mean.abs().max() > 0


def test_films_need_a_texture(tiny_model_folder: Path, phantom_data: Path) -> None:
    with pytest.raises(TrainingError, match="holds no texture/"):
        learn_films([phantom_data], tiny_model_folder)


def test_ceiling_of_the_card_has_grain_but_its_own_film(tiny_pipeline: XRealPipeline) -> None:
    def ceiling(texture: Texture | None) -> np.ndarray:
        return reconstruct(XRealPipeline(**tiny_pipeline.components | {"texture": texture}), images)

    images = chests(9).repeat(1, 1, 1, 1)[:, 0].numpy()  # more than one batch
    plain, with_grain = ceiling(None), ceiling(grained(1.0))
    assert (with_grain - plain).std() > 0.001
    assert not np.array_equal(with_grain[0] - plain[0], with_grain[8] - plain[8])  # each image its own
    learnt = grained(1.0, films=1.0)
    learnt.patches.data.fill_(1.0)
    np.testing.assert_array_equal(with_grain, ceiling(learnt))
