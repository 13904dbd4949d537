"""The callback after each step: what it is told, what it may change, and that it can stop the drawing."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from xreal.masks.lesions import Lesion
from xreal.pipeline import XRealPipeline

MakeLesion = Callable[..., Lesion]


class Seen(list[tuple[int, int, tuple[int, ...]]]):
    """Notes number, timestep and shape of the latents of each step."""

    def __call__(self, pipeline: Any, step: int, timestep: torch.Tensor, kwargs: dict[str, Any]) -> None:
        assert isinstance(pipeline, XRealPipeline)
        self.append((step, int(timestep), tuple(kwargs["latents"].shape)))


@pytest.mark.parametrize(("mode", "tracks", "steps"), [("regional", 2, 4), ("two-pass", 1, 8)])
def test_every_step_is_told_and_nothing_changes(
    tiny_pipeline: XRealPipeline, organ_mask: np.ndarray, lesion_in: MakeLesion, mode: Any, tracks: int, steps: int
) -> None:
    seen = Seen()
    settings = {"mode": mode, "steps": 4}
    watched = tiny_pipeline(organ_mask, [lesion_in()], [5, 6], **settings, callback_on_step_end=seen)
    assert [step for step, _, _ in seen] == list(range(steps))
    assert seen[0][1] > seen[3][1]  # from noise to image
    assert {shape[0] for _, _, shape in seen} == {2 * tracks}
    alone = tiny_pipeline(organ_mask, [lesion_in()], [5, 6], **settings)
    np.testing.assert_array_equal(watched.images, alone.images)
    assert watched.settings == alone.settings


def test_returned_latents_are_taken(tiny_pipeline: XRealPipeline, organ_mask: np.ndarray) -> None:
    def blank(pipeline: Any, step: int, timestep: torch.Tensor, kwargs: dict[str, Any]) -> dict[str, Any]:
        return {"latents": torch.zeros_like(kwargs["latents"])} if step == 3 else kwargs

    images = [tiny_pipeline(None, [], [seed], steps=4, callback_on_step_end=blank).images for seed in (1, 2)]
    np.testing.assert_array_equal(*images)


@pytest.mark.parametrize("mode", ["regional", "two-pass"])
def test_a_raising_callback_stops(
    tiny_pipeline: XRealPipeline, organ_mask: np.ndarray, lesion_in: MakeLesion, mode: Any
) -> None:
    told: list[int] = []

    def stop(pipeline: Any, step: int, timestep: torch.Tensor, kwargs: dict[str, Any]) -> None:
        told.append(step)
        if step == 1:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        tiny_pipeline(organ_mask, [lesion_in()], mode=mode, steps=4, callback_on_step_end=stop)
    told.clear()
    with pytest.raises(InterruptedError):
        tiny_pipeline.edit(np.full((64, 64), 0.5, np.float32), [lesion_in()], steps=4, callback_on_step_end=stop)
    assert told == [0, 1]
    assert np.isfinite(tiny_pipeline(organ_mask, steps=2).images).all()  # and the pipeline is as before
