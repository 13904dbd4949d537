"""What the pipeline refuses, before anything is computed."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from xreal.errors import InputError, MaskError, ModelError, XRealError
from xreal.inputs import Settings, check_settings
from xreal.masks.lesions import Lesion
from xreal.pipeline import XRealPipeline
from xreal.vocabulary import Finding

LESION = Lesion(Finding.MASS, np.ones((64, 64)))
SMALL = Lesion(Finding.CARDIOMEGALY, np.ones((32, 32)))
MASK = np.full((64, 64), 3, np.uint8)

SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"mode": "inpaint"}, "unknown mode 'inpaint'; expected one of regional, two-pass"),
    ({"solver": "heun"}, "unknown solver 'heun'; expected one of ddim, dpm"),
    ({"solver": ""}, "unknown solver ''"),
    ({"steps": 0}, "steps is 0"),
    ({"steps": -3}, "steps is -3"),
    ({"guidance": -1.0}, "guidance is -1.0; expected a number ≥ 0"),
    ({"guidance": float("nan")}, "guidance is nan"),
    ({"prompt_guidance": -1.0}, "prompt_guidance is -1.0; expected a number ≥ 0"),
    ({"guidance": float("inf")}, "guidance is inf"),
    ({"eta": 0.5}, "eta is 0.5 with solver dpm"),
    ({"eta": 1.5, "solver": "ddim"}, "eta is 1.5"),
    ({"eta": -0.1, "solver": "ddim"}, "eta is -0.1"),
    ({"seeds": []}, "no seeds"),
    ({"seeds": [3, -1]}, "seed -1 is out of range"),
    ({"seeds": [2**63]}, "out of range"),
    ({"seeds": 7}, "seeds is 7; expected a list"),
    ({"seeds": "12"}, "seeds is '12'; expected a list"),
    ({"seeds": [1.5]}, "seed 1.5 is no whole number"),
    ({"steps": 2.5}, "steps is 2.5; expected a whole number"),
    ({"lesion_start": 0.6, "lesion_until": 0.3}, "no lesion would be drawn"),
]


@pytest.mark.parametrize(("given", "said"), SETTINGS)
def test_settings_are_refused_with_and_without_a_model(
    tiny_pipeline: XRealPipeline, given: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        check_settings(**{"seeds": [0], **given})
    with pytest.raises(InputError, match=said):
        tiny_pipeline(**given)


def test_settings_are_those_of_the_quality_changed_where_the_caller_says() -> None:
    assert check_settings([0]) == Settings("regional", "dpm++", 6, 0.0)
    assert check_settings([0], "reference") == Settings("two-pass", "ddim", 100, 1.0, 7.0, 0.0, 1.0)
    assert check_settings([0], "draft", None, "unipc", 20) == Settings("regional", "unipc", 20, 0.0)
    two_pass = Settings("two-pass", "unipc", 20, 0.0, 7.0, 0.0, 1.0)
    assert check_settings([0], "default", "two-pass", "unipc", 20) == two_pass
    assert check_settings([0], mode="regional", solver="ddim") == Settings("regional", "ddim", 6, 0.0)


def test_one_lesion_seeds_in_an_array_and_masks_in_lists_are_taken(
    tiny_pipeline: XRealPipeline, organ_mask: np.ndarray, lesion_in: Callable[..., Lesion]
) -> None:
    plain = tiny_pipeline(organ_mask, [lesion_in()], [3, 4], steps=2)
    other = tiny_pipeline(organ_mask.tolist(), lesion_in(), np.array([3, 4]), steps=2)
    np.testing.assert_array_equal(other.images, plain.images)
    assert other.seeds == [3, 4]


def test_more_steps_than_the_model_has_are_refused(tiny_pipeline: XRealPipeline) -> None:
    with pytest.raises(InputError, match="steps is 1000; expected 1 to 999"):
        tiny_pipeline(steps=1000)


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"organ_mask": MASK * 3}, MaskError, "holds value 9; expected 0 to 4"),
        ({"organ_mask": MASK.astype(float)}, MaskError, "expected integers"),
        ({"organ_mask": MASK * 0}, MaskError, "all background"),
        ({"organ_mask": np.stack([MASK] * 3), "seeds": [1, 2]}, InputError, "3 organ masks for 2 seeds"),
        ({"organ_mask": MASK, "lesions": [SMALL]}, MaskError, r"lesion mask is \(32, 32\), organ mask \(64, 64\)"),
        ({"lesions": [[LESION]], "seeds": [1, 2]}, InputError, "one list of Lesion for each of the 2 seeds"),
        ({"lesions": [LESION, [LESION]], "seeds": [1, 2]}, InputError, "expected a list of Lesion"),
        ({"lesions": ["Pneumonia"]}, InputError, "expected a list of Lesion"),
        ({"lesions": [[LESION, "Pneumonia"]]}, InputError, "expected a list of Lesion"),
        ({"prompt": None}, InputError, "expected text"),
        ({"prompt": "{finding}, AP view"}, InputError, "braces stand for nothing but {findings}"),
    ],
)
def test_masks_and_lesions_are_refused(
    tiny_pipeline: XRealPipeline, given: dict[str, Any], error: type[XRealError], said: str
) -> None:
    with pytest.raises(error, match=said):
        tiny_pipeline(**given)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of diffusers, which pytest.warns passes on as our own
def test_lesion_outside_the_lungs_is_warned_about(
    tiny_pipeline: XRealPipeline, organ_mask: np.ndarray, lesion_in: Callable[..., Lesion]
) -> None:
    corner = np.zeros((64, 64), np.float32)
    corner[:6, :6] = 1
    with pytest.warns(UserWarning, match="100% of the lesion 'Mass' lies outside"):
        tiny_pipeline(organ_mask, [Lesion(Finding.MASS, corner)], steps=2)
    tiny_pipeline(organ_mask, [lesion_in()], steps=2)  # warnings are errors here


def test_model_without_controller_draws_but_takes_no_organ_mask(
    tiny_pipeline: XRealPipeline, organ_mask: np.ndarray
) -> None:
    parts = {k: v for k, v in tiny_pipeline.components.items() if k not in ("anatomy_controller", "segmenter")}
    bare = XRealPipeline(**parts)
    bare.set_progress_bar_config(disable=True)
    np.testing.assert_array_equal(bare(steps=2).images, tiny_pipeline(steps=2).images)
    with pytest.raises(ModelError, match="no anatomy_controller; train one"):
        bare(organ_mask, steps=2)
