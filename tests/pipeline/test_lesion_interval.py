"""When lesions begin and end: before, both trajectories are one; then the anatomy blend does not wipe them out."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from xreal.control.anatomy import AnatomyBlend
from xreal.errors import InputError
from xreal.masks.lesions import Lesion
from xreal.pipeline import XRealPipeline


def change(pipeline: XRealPipeline, organ_mask: np.ndarray, lesion: Lesion, **settings: Any) -> np.ndarray:
    output = pipeline(organ_mask, [lesion], [3], steps=8, **settings)
    assert output.healthy is not None
    difference: np.ndarray = np.abs(output.images - output.healthy)
    return difference


def test_lesions_that_start_at_the_end_are_not_drawn(
    tiny_pipeline: XRealPipeline, organ_mask: np.ndarray, lesion_in: Callable[..., Lesion]
) -> None:
    assert change(tiny_pipeline, organ_mask, lesion_in(), lesion_start=1.0).max() == 0
    assert change(tiny_pipeline, organ_mask, lesion_in(), lesion_start=0.9).max() > 0


def test_an_earlier_start_changes_more(
    tiny_pipeline: XRealPipeline, organ_mask: np.ndarray, lesion_in: Callable[..., Lesion]
) -> None:
    early, late = (change(tiny_pipeline, organ_mask, lesion_in(), lesion_start=s).sum() for s in (0.0, 0.9))
    assert early > 1.5 * late


def test_a_full_anatomy_blend_does_not_wipe_lesions_out(
    tiny_pipeline: XRealPipeline, organ_mask: np.ndarray, lesion_in: Callable[..., Lesion]
) -> None:
    blend = AnatomyBlend(inside=1, outside=1, until=1)
    assert change(tiny_pipeline, organ_mask, lesion_in(), anatomy=blend).max() > 1e-3


def test_the_healthy_twin_does_not_depend_on_the_start(
    tiny_pipeline: XRealPipeline, organ_mask: np.ndarray, lesion_in: Callable[..., Lesion]
) -> None:
    twins = [tiny_pipeline(organ_mask, [lesion_in()], [3], steps=8, lesion_start=s).healthy for s in (0.0, 0.5, 1.0)]
    np.testing.assert_allclose(twins[0], twins[2], atol=1e-5)
    np.testing.assert_allclose(twins[1], twins[2], atol=1e-5)


def test_lesions_stay_when_they_are_guided_no_more(
    tiny_pipeline: XRealPipeline, organ_mask: np.ndarray, lesion_in: Callable[..., Lesion]
) -> None:
    whole = change(tiny_pipeline, organ_mask, lesion_in())
    part = change(tiny_pipeline, organ_mask, lesion_in(), lesion_until=0.75)
    assert part.max() > 1e-3
    assert np.abs(whole - part).max() > 0
    inside = lesion_in().mask > 0
    assert part[0][inside].mean() > 2 * part[0][~inside].mean()
    assert change(tiny_pipeline, organ_mask, lesion_in(), lesion_until=0.1).max() == 0  # over before it begins


@pytest.mark.parametrize("name", ["lesion_start", "lesion_until"])
@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_share_out_of_range(tiny_pipeline: XRealPipeline, name: str, share: float) -> None:
    with pytest.raises(InputError, match=rf"{name} is .*; expected 0 to 1"):
        tiny_pipeline(**{name: share})
