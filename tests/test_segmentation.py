"""Segmentation of files: one piece per organ, at the model's size, and no mask where none can be trusted."""

from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from xreal.data.phantom import Phantom
from xreal.errors import ImageError, ModelError
from xreal.images import fit_square_mask, write_image
from xreal.masks.organs import dice_per_organ, read_organ_mask
from xreal.masks.segmenter import Segmenter, segment
from xreal.segmentation import load_segmenter, mask_provider, segment_files


class Known(torch.nn.Module):
    """Stands in for a network: gives the label map that it was made with, for images of its size."""

    device = torch.device("cpu")
    config: ClassVar[dict[str, int]] = {"sample_size": 64}

    def __init__(self, labels: np.ndarray) -> None:
        super().__init__()
        self.labels = torch.from_numpy(labels).long()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert images.shape[1:] == (1, 64, 64)
        return torch.nn.functional.one_hot(self.labels, 4).movedim(-1, 0).float().expand(len(images), -1, -1, -1)


def test_organs_come_in_one_piece_without_holes(organ_mask: np.ndarray) -> None:
    dirty = organ_mask.copy()
    dirty[:3, :3] = 1  # a speck of left lung in a corner
    rows, columns = np.nonzero(organ_mask == 3)
    dirty[int(rows.mean()), int(columns.mean())] = 0  # a hole in the heart
    found = segment(Known(dirty), torch.zeros(9, 1, 64, 64))  # type: ignore[arg-type]
    assert (found.shape, found.dtype) == ((9, 64, 64), np.uint8)
    np.testing.assert_array_equal(found[0], organ_mask)
    np.testing.assert_array_equal(found[8], organ_mask)


@pytest.mark.parametrize("side", [40, 256])
def test_images_of_any_size_are_seen_at_the_networks_and_masks_come_back_at_theirs(
    organ_mask: np.ndarray, side: int
) -> None:
    found = segment(Known(organ_mask), torch.zeros(2, 1, side, side))  # type: ignore[arg-type]
    assert found.shape == (2, side, side)
    dice = dice_per_organ(fit_square_mask(organ_mask, side), found[1])
    assert min(dice.values()) > 0.93, dice


def test_nothing_found_is_an_empty_mask() -> None:
    assert not segment(Known(np.zeros((64, 64), np.uint8)), torch.zeros(1, 1, 64, 64)).any()  # type: ignore[arg-type]


def test_brightness_and_contrast_do_not_matter(tiny_model_folder: Path, phantoms: list[Phantom]) -> None:
    segmenter: Segmenter = load_segmenter(str(tiny_model_folder))
    image = torch.from_numpy(phantoms[0].image)[None, None]
    with torch.inference_mode():
        torch.testing.assert_close(segmenter(0.1 + 0.5 * image), segmenter(image), rtol=0.02, atol=0.02)


def test_implausible_masks_are_not_provided(
    tiny_model_folder: Path, phantoms: list[Phantom], monkeypatch: pytest.MonkeyPatch
) -> None:
    provide = mask_provider(str(tiny_model_folder))
    assert provide(phantoms[0].image) is None  # untrained
    monkeypatch.setattr("xreal.segmentation.segment", lambda *_: phantoms[0].organ_mask[None])
    np.testing.assert_array_equal(provide(phantoms[0].image), phantoms[0].organ_mask)


def test_image_of_any_size_gives_a_mask_of_the_models(tiny_model_folder: Path, tmp_path: Path) -> None:
    ramp = np.linspace(0, 1, 90 * 120, dtype=np.float32).reshape(90, 120)
    write_image(tmp_path / "wide.png", ramp)
    ((path, reasons),) = segment_files(tmp_path / "wide.png", tmp_path / "mask.npy", str(tiny_model_folder))
    assert path == tmp_path / "mask.npy"
    assert read_organ_mask(path).shape == (64, 64)
    assert reasons


def test_a_picture_that_cannot_be_read_stops_before_the_weights_are_opened(tmp_path: Path) -> None:
    (tmp_path / "chest.png").write_text("no picture")
    with pytest.raises(ImageError, match=r"chest\.png cannot be read"):
        list(segment_files(tmp_path / "chest.png", tmp_path / "out.png", "no such model"))
    (tmp_path / "chest.jpg").touch()
    with pytest.raises(ImageError, match="several pictures called chest"):
        list(segment_files(tmp_path, tmp_path / "out", "no such model"))
    (tmp_path / "chest.jpg").unlink()
    with pytest.raises(ModelError, match="neither a folder nor a bundled model"):
        list(segment_files(tmp_path, tmp_path / "out", "no such model"))
    assert [path.name for path in tmp_path.iterdir()] == ["chest.png"]
