"""How often the U-Net is called: speed that does not depend on the machine."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from xreal.masks.lesions import Lesion
from xreal.pipeline import XRealPipeline

Count = Callable[..., tuple[int, int]]


@pytest.fixture
def count(tiny_pipeline: XRealPipeline) -> Count:
    """Draw, and return calls of the U-Net and images in them."""

    def draw(*given: Any, **settings: Any) -> tuple[int, int]:
        sizes: list[int] = []

        def note(network: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            sizes.append(len(inputs[0]))

        handle = tiny_pipeline.unet.register_forward_pre_hook(note)
        try:
            tiny_pipeline(*given, **settings)
        finally:
            handle.remove()
        return len(sizes), sum(sizes)

    return draw


def test_a_healthy_image_costs_one_evaluation_a_step(count: Count, organ_mask: np.ndarray) -> None:
    assert count(organ_mask, seeds=[1]) == (6, 6)
    assert count(organ_mask, seeds=[1], quality="draft") == (4, 4)
    assert count(organ_mask, seeds=[1, 2, 3], steps=5) == (5, 15)


def test_lesions_cost_twin_and_finding_from_their_first_step(
    count: Count, organ_mask: np.ndarray, lesion_in: Callable[..., Lesion]
) -> None:
    one = lesion_in()
    assert count(organ_mask, [one], [1]) == (6, 1 + 5 * 3)  # default; lesions after a tenth of the steps
    assert count(organ_mask, [one, one], [1], steps=10) == (10, 1 + 9 * 4)
    assert count(organ_mask, [one], [1, 2], steps=10, lesion_start=0.5) == (10, 5 * 2 + 5 * 6)
    assert count(organ_mask, [one], [1], steps=10, lesion_start=1.0) == (10, 10)
    assert count(organ_mask, [one], [1], steps=10, lesion_until=0.8) == (10, 1 + 7 * 3 + 2 * 2)
    assert count(organ_mask, [one], [1], steps=10, lesion_until=0.1) == (10, 10)


def test_a_guided_prompt_costs_an_evaluation_of_each_track(
    count: Count, organ_mask: np.ndarray, lesion_in: Callable[..., Lesion]
) -> None:
    assert count(organ_mask, seeds=[1, 2], prompt="AP view", steps=5) == (5, 20)
    assert count(organ_mask, [lesion_in()], [1], prompt="AP view", steps=10) == (10, 2 + 9 * 5)
    assert count(organ_mask, seeds=[1], prompt="AP view", steps=5, prompt_guidance=1.0) == (5, 5)
    assert count(organ_mask, seeds=[1], steps=5, prompt_guidance=3.0) == (5, 5)  # nothing to guide


def test_the_reference_costs_300_in_200_calls(
    count: Count, organ_mask: np.ndarray, lesion_in: Callable[..., Lesion]
) -> None:
    assert count(organ_mask, [lesion_in()], [1], quality="reference") == (200, 300)


def test_all_prompts_are_encoded_in_one_call(
    tiny_pipeline: XRealPipeline, organ_mask: np.ndarray, lesion_in: Callable[..., Lesion]
) -> None:
    calls: list[int] = []
    encoder = tiny_pipeline.text_encoder
    handle = encoder.register_forward_pre_hook(lambda network, inputs: calls.append(len(inputs[0])))
    try:
        one = lesion_in()
        tiny_pipeline(organ_mask, [[one, one], [], []], [1, 2, 3], prompt="AP view")
    finally:
        handle.remove()
    assert calls == [3]  # none, the X-ray's own, and the finding's
