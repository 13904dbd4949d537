"""Drawing to a standard: what falls below it is redrawn, the best try is kept, the record says what happened."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

import xreal.synthesis
from xreal.errors import InputError
from xreal.masks.lesions import Lesion
from xreal.pipeline import XRealPipeline
from xreal.synthesis import conformance, draw
from xreal.vocabulary import Organ

Scores = dict[int, float]


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch, tiny_pipeline: XRealPipeline) -> Callable[[Scores], list[list[int]]]:
    """Return a function that fixes the Dice of each seed; it returns the list in which the drawn seeds are noted."""

    def fix(scores: Scores) -> list[list[int]]:
        drawn: list[list[int]] = []

        def call(self: Any, organ_mask: Any, lesions: Any, seeds: Sequence[int], **settings: Any) -> Any:
            drawn.append(list(seeds))
            return original(self, organ_mask, lesions, seeds, **settings)

        def measure(pipeline: Any, images: np.ndarray, organ_masks: np.ndarray) -> list[dict[str, float]]:
            return [{"heart": scores[seed], "left lung": 1.0} for seed in drawn[-1]]

        original = XRealPipeline.__call__
        monkeypatch.setattr(XRealPipeline, "__call__", call)
        monkeypatch.setattr(xreal.synthesis, "conformance", measure)
        return drawn

    return fix


def test_only_what_falls_below_is_redrawn_and_the_best_kept(
    scored: Callable[[Scores], list[list[int]]], tiny_pipeline: XRealPipeline, organ_mask: np.ndarray
) -> None:
    # Seed 1 is good at once, 2 at its second try; 0 never is, its best is its second.
    tried = scored({0: 0.1, 1: 0.95, 2: 0.5, 3: 0.6, 5: 0.9, 6: 0.3})
    drawn = draw(tiny_pipeline, organ_mask, (), [0, 1, 2], min_dice=0.9, retries=2, steps=2)
    assert tried == [[0, 1, 2], [3, 5], [6]]
    assert [one.record["seed"] for one in drawn] == [3, 1, 5]
    assert [one.record["accepted"] for one in drawn] == [False, True, True]
    assert [one.record["attempts"] for one in drawn] == [2, 1, 2]
    again = tiny_pipeline(organ_mask, (), [3], steps=2)
    np.testing.assert_allclose(drawn[0].image, again.images[0], atol=1e-5)


def test_retries_of_a_batch_keep_clear_of_the_other_batches(
    scored: Callable[[Scores], list[list[int]]], tiny_pipeline: XRealPipeline, organ_mask: np.ndarray
) -> None:
    tried = scored(dict.fromkeys(range(100), 0.0))
    for first in (0, 2, 4):  # six images, two at a time
        draw(tiny_pipeline, organ_mask, (), [first, first + 1], 0.9, 2, retry_stride=6, steps=2)
    seeds = [seed for batch in tried for seed in batch]
    assert sorted(seeds) == list(range(18))


def test_without_a_limit_nothing_is_redrawn(
    scored: Callable[[Scores], list[list[int]]], tiny_pipeline: XRealPipeline, organ_mask: np.ndarray
) -> None:
    tried = scored({4: 0.0})
    (drawn,) = draw(tiny_pipeline, organ_mask, (), [4], retries=3, steps=2)
    assert tried == [[4]]
    assert drawn.record["accepted"] is True


def test_limit_that_cannot_be_measured_is_refused(tiny_pipeline: XRealPipeline, organ_mask: np.ndarray) -> None:
    parts = {name: part for name, part in tiny_pipeline.components.items() if name != "segmenter"}
    for pipeline, mask in ((XRealPipeline(**parts), organ_mask), (tiny_pipeline, None)):
        with pytest.raises(InputError, match="min_dice needs an organ mask and a model with a segmenter"):
            draw(pipeline, mask, (), [0], min_dice=0.5)


def test_conformance_is_one_where_the_segmenter_finds_what_was_asked(
    tiny_pipeline: XRealPipeline, organ_mask: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    shifted = np.roll(organ_mask, 3, axis=1)
    monkeypatch.setattr(xreal.synthesis, "segment", lambda *_: np.stack([organ_mask, shifted]))
    same, moved = conformance(tiny_pipeline, np.zeros((2, 64, 64), np.float32), np.stack([organ_mask] * 2))
    assert same == {"left lung": 1.0, "right lung": 1.0, "heart": 1.0}
    assert all(0.3 < value < 1 for value in moved.values())


def test_an_organ_that_the_segmenter_does_not_know_is_not_held_against_an_image(
    tiny_pipeline: XRealPipeline, organ_mask: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_aorta = organ_mask.copy()
    with_aorta[:6, 30:34] = Organ.AORTA
    monkeypatch.setattr(xreal.synthesis, "segment", lambda *_: organ_mask[None])
    (dice,) = conformance(tiny_pipeline, np.zeros((1, 64, 64), np.float32), with_aorta[None])
    assert dice == {"left lung": 1.0, "right lung": 1.0, "heart": 1.0}


def test_record_holds_each_lesion(
    tiny_pipeline: XRealPipeline, organ_mask: np.ndarray, lesion_in: Callable[..., Lesion]
) -> None:
    first, second = draw(tiny_pipeline, organ_mask, [lesion_in(strength=2)], [1, 2], steps=2, guidance=3.0)
    assert first.record["lesions"] == [{"finding": "Pneumonia", "strength": 2.0}]
    assert (first.record["seed"], second.record["seed"], first.record["guidance"]) == (1, 2, 3.0)
    assert first.healthy is not None
    assert first.lesion_masks.shape == (1, 64, 64)
