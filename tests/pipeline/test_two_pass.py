"""How the second pass ends: a known deviation from the authors, held so that nobody changes it unawares."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from xreal.control.blending import Keep
from xreal.masks.lesions import Lesion
from xreal.pipeline import XRealPipeline


def test_the_second_pass_ends_on_the_clean_reference(
    tiny_pipeline: XRealPipeline,
    organ_mask: np.ndarray,
    lesion_in: Callable[..., Lesion],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The authors blend before each step only, and decode what the last step made of a reference noised once more."""
    ends: list[tuple[Keep, torch.Tensor, torch.Tensor]] = []
    original = Keep.finish

    def finish(self: Keep, latents: torch.Tensor, steps: int) -> Any:
        finished = original(self, latents, steps)
        ends.append((self, latents, finished))
        return finished

    monkeypatch.setattr(Keep, "finish", finish)
    tiny_pipeline(organ_mask, [lesion_in()], [1], mode="two-pass", steps=4)
    first, second = ends
    # Pass 1: its blend ends halfway, so nothing of its reference is taken at the end.
    assert torch.equal(first[2], first[1])
    keep, last_step, finished = second
    kept, lesion = (keep.mask == share for share in (1, 0))
    assert kept.any()
    assert lesion.any()
    kept, lesion = (where.expand_as(finished) for where in (kept, lesion))
    assert torch.equal(finished[kept], keep.reference[kept])
    assert not torch.allclose(last_step[kept], keep.reference[kept], atol=1e-3)  # what the authors would decode
    assert torch.equal(finished[lesion], last_step[lesion])
