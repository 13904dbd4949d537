"""Near-copies of training images: told from images of other patients, and kept out of a data set."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xreal.bulk.copies
import xreal.evaluation.privacy
from xreal.bulk.copies import CopyCheck, prepare_copy_check
from xreal.bulk.drawing import draw_items
from xreal.bulk.plan import parse_plan
from xreal.bulk.sampling import sample_item
from xreal.data.contract import Sample
from xreal.data.phantom import phantom
from xreal.data.prepared import write_shard
from xreal.errors import InputError, OutputError
from xreal.evaluation.privacy import TrainingImages, nearest_training_images, thumbnails
from xreal.files import cache_folder
from xreal.pipeline import XRealPipeline


def write_phantoms(folder: Path, split: str, seeds: range) -> None:
    images = [np.rint(phantom(seed, 64).image * 255).astype(np.uint8) for seed in seeds]
    samples = [Sample(image, image_id=str(s), patient_id=str(s)) for s, image in zip(seeds, images, strict=True)]
    write_shard(folder / f"{split}-00000.parquet", samples)


def test_training_images_are_told_from_others_and_the_limit_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[np.ndarray] = []
    monkeypatch.setattr(xreal.bulk.copies, "FEWEST_HELD_OUT", 1)
    monkeypatch.setattr(xreal.bulk.copies, "threshold", lambda held_out: limits.append(held_out) or held_out.max())
    data, cache = tmp_path / "data", tmp_path / "cache"
    data.mkdir()
    write_phantoms(data, "train", range(3, 5))
    write_phantoms(data, "val", range(20, 21))
    check = prepare_copy_check((str(data),), cache)
    assert len(limits[0]) == 1
    own, other = (check.similarity(phantom(seed, 64).image[None]) for seed in (3, 30))
    assert own[0] > 0.95 > other[0]
    assert own[0] > check.limit
    # Once more: nothing is computed, also where the data have moved.
    data.rename(tmp_path / "moved")
    again = prepare_copy_check((str(tmp_path / "moved"),), cache)
    assert (again.thumbnails, again.limit, len(limits)) == (check.thumbnails, check.limit, 1)
    assert again.similarity(phantom(3, 64).image[None]) == own
    write_phantoms(tmp_path / "moved", "train", range(3, 6))
    assert prepare_copy_check((str(tmp_path / "moved"),), cache).thumbnails != check.thumbnails
    assert len(limits) == 2


def test_a_search_of_many_is_that_of_few_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    train = np.stack([phantom(seed, 64).image for seed in range(7)])
    images = train[[5, 2]] * 0.9
    at_once = nearest_training_images(images, train)
    monkeypatch.setattr(xreal.evaluation.privacy, "_ROWS", 3)
    read: list[int] = []

    def pictures(indices: np.ndarray) -> np.ndarray:
        read.extend(indices.tolist())
        return np.asarray(train[indices])

    in_parts = nearest_training_images(images, TrainingImages(thumbnails(train), pictures, 64), candidates=2)
    assert in_parts.index.tolist() == at_once.index.tolist() == [5, 2]
    np.testing.assert_allclose(in_parts.similarity, at_once.similarity, atol=1e-5)
    assert len(read) == 4  # only those that come into question


def test_too_few_held_out_images_are_refused(tmp_path: Path) -> None:
    write_phantoms(tmp_path, "train", range(1))
    write_phantoms(tmp_path, "val", range(20, 21))
    with pytest.raises(InputError, match=r"1 X-rays in `val` cannot set a threshold.*with 99 or more"):
        prepare_copy_check((str(tmp_path),), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_takes_no_files_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xreal.bulk.copies, "FEWEST_HELD_OUT", 1)
    monkeypatch.setenv("XREAL_CACHE", str(tmp_path / "file"))
    (tmp_path / "file").touch()
    for split, seeds in (("train", range(1)), ("val", range(2, 3))):
        write_phantoms(tmp_path, split, seeds)
    with pytest.raises(OutputError, match="environment variable XREAL_CACHE"):
        prepare_copy_check((str(tmp_path),), cache_folder())


def test_a_copy_fails(tiny_pipeline: XRealPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = parse_plan({"images": [{"n": 2}], "draw": {"steps": 1}, "checks": {"min_dice": 0, "retries": 0}})
    items = [sample_item(plan, index, 64, [], {}) for index in range(2)]

    def similarity(self: Any, images: np.ndarray) -> np.ndarray:
        return np.array([0.95, 0.5])

    monkeypatch.setattr(CopyCheck, "similarity", similarity)
    copied, fresh = draw_items(tiny_pipeline, plan, items, CopyCheck((), Path("none.npy"), 0.9))
    assert (copied.reasons, copied.similarity) == (("near-copy of a training image",), 0.95)
    assert (fresh.reasons, fresh.similarity) == ((), 0.5)
