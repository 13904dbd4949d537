"""Cached latents know where the findings are, in every augmented copy."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from xreal.config import PRESETS
from xreal.data.contract import Box, Sample
from xreal.data.phantom import Phantom
from xreal.data.prepared import PreparedDataset, write_shard
from xreal.models.autoencoder import build_autoencoder
from xreal.training.backbone import BackboneStage, as_large
from xreal.training.latents import CachedLatents
from xreal.vocabulary import Finding

TINY = PRESETS["tiny"]
SQUARE = Box(Finding.LUNG_OPACITY, x=16, y=24, width=16, height=8)  # latents (3, 2) and (3, 3) at f = 8


@pytest.fixture
def boxed(tmp_path: Path, phantoms: list[Phantom]) -> Path:
    """One sample with a box, one without, in both splits."""
    grey = (255 * phantoms[0].image).astype(np.uint8)
    plain = Sample(grey, findings=(Finding.NO_FINDING,), image_id="plain")
    white = 255 * Sample(np.zeros_like(grey), boxes=(SQUARE,)).lesion_area
    sick = Sample(white, findings=(Finding.PNEUMONIA,), view_position="AP", image_id="sick", boxes=(SQUARE,))
    for split in ("train", "val"):
        write_shard(tmp_path / f"{split}-00000.parquet", [plain, sick])
    return tmp_path


def encode(data: Path, path: Path, copies: int) -> CachedLatents:
    torch.manual_seed(0)
    autoencoder = build_autoencoder(TINY.autoencoder, 64)
    return CachedLatents.encode(PreparedDataset([data], "train"), autoencoder, path, copies)


def test_boxes_stand_on_the_latent_grid(boxed: Path, tmp_path: Path) -> None:
    cached = encode(boxed, tmp_path / "cache", 1)
    assert cached.arrays["lesions"].shape == (2, 1, 8, 8)
    assert cached.arrays["lesions"][0].sum() == 0
    assert torch.argwhere(cached.arrays["lesions"][1, 0]).tolist() == [[3, 2], [3, 3]]
    np.testing.assert_allclose(cached.take("lesions", [1])[0, 3, 2:4], np.pi / 4, atol=0.02)  # the ellipse in the box


def test_boxes_move_with_their_image(boxed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mean_pixels(_: object, image: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(image, 8)

    monkeypatch.setattr("xreal.training.latents.encode_image", mean_pixels)
    cached = encode(boxed, tmp_path / "cache", 6)
    moved = cached.take("lesions", [1] * 5, torch.arange(1, 6))
    assert not torch.equal(moved[0], moved[1])
    shown = cached.take("latents", [1] * 5, torch.arange(1, 6))[:, 0]  # the white box itself
    torch.testing.assert_close(shown, moved, atol=0.15, rtol=0)


def test_cache_is_read_back_as_it_was(boxed: Path, tmp_path: Path) -> None:
    first = encode(boxed, tmp_path / "cache", 2)
    again = encode(boxed, tmp_path / "cache", 2)
    for name in ("latents", "lesions"):
        assert torch.equal(first.take(name, [1, 0], 1), again.take(name, [1, 0], 1))


def test_cache_of_other_data_is_not_read(boxed: Path, tmp_path: Path) -> None:
    first = encode(boxed, tmp_path / "cache", 1).take("lesions", [0, 1])
    other = tmp_path / "other"
    other.mkdir()
    write_shard(other / "train-00000.parquet", list(PreparedDataset([boxed], "train"))[::-1])  # as many of them
    again = encode(other, tmp_path / "cache", 1)
    assert torch.equal(first, again.take("lesions", [1, 0]))
    assert not torch.equal(first[0], first[1])


def test_prompted_loss_weighs_more_inside_boxes(boxed: Path, tmp_path: Path) -> None:
    autoencoder = build_autoencoder(TINY.autoencoder, 64)
    stage = BackboneStage(TINY, [boxed], autoencoder, tmp_path / "run")
    _, ids, weights, _ = stage.batch([0, 1] * 200, torch.Generator().manual_seed(0))
    prompted = ~(ids == stage.unprompted_ids).all(1)
    assert (weights[0::2] == 1).all()  # no box, no more weight
    assert (weights[~prompted] == 1).all()  # without a prompt a box means nothing
    sick = weights[1::2][prompted[1::2]]
    inside = stage.encoded.take("lesions", [1])
    torch.testing.assert_close(sick, (1 + TINY.backbone.box_weight * as_large(inside)).expand_as(sick))
    assert (sick[:, inside[0] == 0] == 1).all()
    assert (sick[:, inside[0] > 0] > 1).all()


def test_what_a_box_shows_can_be_asked_for_alone(boxed: Path, tmp_path: Path) -> None:
    preset = replace(TINY, backbone=replace(TINY.backbone, detail_dropout=1.0, prompt_dropout=0.0, box_sampling=3.0))
    stage = BackboneStage(preset, [boxed], build_autoencoder(TINY.autoencoder, 64), tmp_path / "run")
    ids = stage.batch([1] * 100, torch.Generator().manual_seed(0)).ids
    asked = {stage.tokenizer.decode(row, skip_special_tokens=True) for row in ids}
    assert asked == {"pneumonia", "lung opacity"}
    assert (stage.sampling_weights[1] / stage.sampling_weights[0]).item() == pytest.approx(3)  # both findings are rare


def test_a_gpu_with_room_keeps_all_and_writes_nothing(
    boxed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = PreparedDataset([boxed], "train")
    torch.manual_seed(0)
    autoencoder = build_autoencoder(TINY.autoencoder, 64)
    written = CachedLatents.encode(data, autoencoder, tmp_path / "written", 3, organs=True)
    unfit = CachedLatents.encode(data, autoencoder, tmp_path / "unfit", 3, organs=True, on_device=True)
    assert (tmp_path / "unfit/latents.npy").exists()  # this device is no GPU
    monkeypatch.setattr("xreal.training.latents._fits", lambda shapes, device: True)
    kept = CachedLatents.encode(data, autoencoder, tmp_path / "kept", 3, organs=True, on_device=True)
    assert not (tmp_path / "kept").exists()
    for name, array in written.arrays.items():
        assert torch.equal(kept.arrays[name], array)
        assert torch.equal(unfit.arrays[name], array)
