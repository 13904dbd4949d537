"""What synthetic data is worth: informative images help, shuffled labels do not, and arms are comparable."""

import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from xreal.data.phantom import phantom
from xreal.errors import InputError, OutputError
from xreal.evaluation import utility, utility_tasks
from xreal.evaluation.card import utility_axes
from xreal.evaluation.cases import Cases
from xreal.evaluation.options import Options
from xreal.evaluation.rows import redraw, with_twins
from xreal.evaluation.utility import classifier_utility, forecast_utility, segmenter_utility
from xreal.pipeline import XRealPipeline
from xreal.vocabulary import Finding

SIZE = 32
FINDING, OTHER = Finding.PNEUMONIA, Finding.EDEMA


def toy(count: int, seed: int, shuffled: bool = False, strength: float = 0.8) -> Cases:
    """Noise with a bright patch, which lies low with the finding and high without; every other image has it.

    Shuffled labels keep that balance, and three of eight are right: half of them may be learnt by chance.
    """
    rng = np.random.default_rng(seed)
    images = ndimage.gaussian_filter(rng.normal(0, 1, (count, SIZE, SIZE)), (0, 1, 1)) * 0.6
    labels = np.arange(count) % 2 == 0
    for image, label in zip(images, labels, strict=True):
        top, left = (18 if label else 4) + rng.integers(0, 4), rng.integers(4, 18)
        image[top : top + 8, left : left + 8] += strength
    shown = labels ^ (np.arange(count) // 2 % 8 < 5) if shuffled else labels
    return Cases(
        images=np.clip(0.4 + 0.4 * images, 0, 1).astype(np.float32),
        image_ids=tuple(map(str, range(count))),
        findings=tuple((FINDING, OTHER) if label else (Finding.NO_FINDING,) for label in shown),
        organ_masks=np.zeros((count, SIZE, SIZE), np.uint8),
        lesion_masks=np.zeros((count, SIZE, SIZE), np.float32),
        healthy=np.full((count, SIZE, SIZE), np.nan, np.float32),
        jpeg_steps=((),) * count,
    )


@pytest.fixture(scope="module")
def chests() -> Cases:
    drawn = [phantom(seed, SIZE) for seed in range(36)]
    blank = toy(36, seed=0)
    return Cases(
        images=np.stack([chest.image for chest in drawn]),
        image_ids=blank.image_ids,
        findings=blank.findings,
        organ_masks=np.stack([chest.organ_mask for chest in drawn]),
        lesion_masks=blank.lesion_masks,
        healthy=blank.healthy,
        jpeg_steps=blank.jpeg_steps,
    )


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return a function that fixes the number of steps, whatever the speed of the machine."""

    def fix(count: int) -> None:
        monkeypatch.setattr(utility, "_FEWEST_STEPS", count)
        monkeypatch.setattr(utility, "_MOST_STEPS", count)
        monkeypatch.setattr(utility_tasks, "BATCH", 8)

    return fix


def test_informative_synthetic_images_help_and_shuffled_labels_do_not(steps: Callable[[int], None]) -> None:
    steps(16)
    real, test = toy(4, seed=1, strength=0.1), toy(60, seed=2)  # too few and too faint to learn from
    helpful, useless = (
        classifier_utility(FINDING, real, toy(80, 3, shuffled), test, 600, ratios=ratios, image_size=SIZE)
        for shuffled, ratios in ((False, (8,)), (True, ()))
    )
    assert np.mean(helpful.scores["AUROC"]["synthetic only"]) > 0.9
    assert np.mean(helpful.differences["AUROC"]["real + 8 × synthetic"]) > 0.1
    assert np.mean(useless.scores["AUROC"]["synthetic only"]) < 0.7
    assert np.mean(useless.differences["AUROC"]["synthetic only"]) < 0.1
    assert helpful.scores["AUROC"]["real only"] == useless.scores["AUROC"]["real only"]  # same seeds, same real images
    assert helpful.train_count == {
        "real only": 4,
        "synthetic only": 80,
        "synthetic then real": 84,
        "real + 8 × synthetic": 36,
    }
    assert (helpful.steps, helpful.seeds, helpful.test_count) == (16, (0, 1, 2), 60)


def test_segmenter_learns_from_masks_that_fit(chests: Cases, steps: Callable[[int], None]) -> None:
    steps(20)
    swapped = np.array([0, 2, 1, 0], np.uint8)[chests.organ_masks]  # left is right, and there is no heart
    confused = Cases(**(vars(chests) | {"organ_masks": swapped})).take(range(4))
    synthetic, test = chests.take(range(4, 24)), chests.take(range(24, 36))
    result = segmenter_utility(confused, synthetic, test, 600, ratios=(), few_shot=2, image_size=SIZE)
    assert set(result.scores) == {"dice left lung", "dice right lung", "dice heart"}
    lung, hearts = result.scores["dice left lung"], result.scores["dice heart"]
    assert np.mean(lung["synthetic only"]) > 0.5
    assert np.mean(lung["real only"]) < 0.3
    assert result.train_count == {"real only": 2, "synthetic only": 20, "synthetic then real": 22}
    differences = np.subtract(hearts["synthetic only"], hearts["real only"])
    np.testing.assert_allclose(result.differences["dice heart"]["synthetic only"], differences)


def test_a_limit_that_is_too_short_says_what_is_needed() -> None:
    with pytest.raises(InputError, match=r"steps for each of 12 runs; expected at least 200\. Give about \d+ seconds"):
        classifier_utility(FINDING, toy(8, 1), toy(8, 2), toy(12, 3), seconds=0.1, image_size=SIZE)


def test_the_time_limit_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(utility, "_FEWEST_STEPS", 1)
    started = time.monotonic()
    result = classifier_utility(FINDING, toy(8, 1), toy(8, 2), toy(12, 3), seconds=4, ratios=(), image_size=SIZE)
    assert 1 <= result.steps < 1000
    assert time.monotonic() - started < 12  # three times the limit: other programs may slow the steps down


def test_the_forecast_says_what_the_time_is_enough_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"0.05 minutes are enough for .* at least 200 steps .* --minutes (\d+)"):
        forecast_utility(3, test_count=30, image_size=SIZE)
    monkeypatch.setattr(utility, "_seconds_per_step", lambda task, pool: (0.1, None))
    # 0.85 × 720 s, half of it for each task, 12 runs, 0.1 s each step; a test of 48 images takes as long as a step.
    steps = re.findall(r"(\d+) steps for each of 12", forecast_utility(720, test_count=48, image_size=SIZE))
    assert [int(count) for count in steps] == pytest.approx([254, 254], abs=1)
    with pytest.raises(InputError, match="--minutes 12 or more"):
        forecast_utility(120, test_count=48, image_size=SIZE)


def test_x_rays_are_drawn_again_with_their_own_organs_and_findings(
    tiny_pipeline: XRealPipeline, tiny_model_folder: Path, tmp_path: Path
) -> None:
    findings = ((FINDING, Finding.EDEMA), (Finding.NO_FINDING,), (), (Finding.EDEMA,))
    real = Cases(
        images=np.zeros((4, 64, 64), np.float32),
        image_ids=("a", "b", "c", "d"),
        findings=findings,
        organ_masks=np.stack([phantom(seed, 64).organ_mask for seed in range(4)]),
        lesion_masks=np.ones((4, 64, 64), np.float32),
        healthy=np.full((4, 64, 64), np.nan, np.float32),
        jpeg_steps=((),) * 4,
    )
    options = Options(real=(), out=tmp_path, model=str(tiny_model_folder), n=2, seed=5)
    drawn = redraw(options, tiny_pipeline, real, FINDING, lambda part, _: part)
    chosen = [0, 0, 1, 3]  # the only one with the finding twice; that of unknown findings never
    assert drawn.findings == tuple(findings[i] for i in chosen)
    assert not drawn.lesion_masks.any()
    assert np.isnan(drawn.healthy).all()
    np.testing.assert_array_equal(drawn.organ_masks, real.organ_masks[chosen])
    for row, prompt in enumerate(["Edema, Pneumonia", "Edema, Pneumonia", "No Finding", "Edema"]):
        expected = tiny_pipeline(real.organ_masks[chosen[row]], seeds=[5 + row], prompt=prompt).images[0]
        np.testing.assert_allclose(drawn.images[row], expected, atol=1 / 255)
    with pytest.raises(InputError, match="no X-ray with Fracture"):
        redraw(options, tiny_pipeline, real, Finding.FRACTURE, lambda part, _: part)
    other = real.take([0, 3, 1])
    with pytest.raises(OutputError, match=r"drawn with another .*prompt"):
        redraw(options, tiny_pipeline, other, FINDING, lambda part, _: part)


def test_twins_count_as_healthy(chests: Cases) -> None:
    twinned = Cases(**(vars(chests.take(range(3))) | {"healthy": chests.healthy[:3].copy()}))
    twinned.healthy[1] = 0.5
    both = with_twins(twinned)
    assert both.findings == (*chests.findings[:3], (Finding.NO_FINDING,))
    np.testing.assert_array_equal(both.images[3], np.full((SIZE, SIZE), 0.5, np.float32))
    np.testing.assert_array_equal(both.organ_masks[3], chests.organ_masks[1])


def test_beside_few_real_x_rays_a_segmenter_sees_all_that_were_drawn(
    chests: Cases, steps: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps(2)
    monkeypatch.setattr("xreal.evaluation.card.FEW_REAL", 4)
    axes, _ = utility_axes(chests.take(range(8)), chests.take(range(13)), chests, chests.take(range(8)), 600)
    assert "gain dice heart, real + 3 × synthetic" in axes["utility: segmenter"]


def test_a_task_that_images_do_not_suffice_for_is_noted_and_the_other_is_done(
    chests: Cases, steps: Callable[[int], None]
) -> None:
    steps(2)
    few = chests.take(range(8))
    unlabelled = Cases(**(vars(few) | {"findings": ((),) * len(few)}))
    axes, notes = utility_axes(few, few, unlabelled, few, 600)
    assert list(axes) == ["utility: segmenter"]
    assert axes["utility: segmenter"]["dice heart, real only"]["n"] == 3
    assert notes == [
        "utility of a Pneumonia classifier: synthetic has 0 images with Pneumonia and 0 without; "
        "expected at least 2 of each. Give more, or another finding."
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": (0, 1, 1)}, "at least 3 different"),
        ({"ratios": (0,)}, "whole numbers from 1 to 2"),
        ({"ratios": (1, 3)}, "there are 16 synthetic"),
        ({"few_shot": 3}, "expected 4 to 8 real images"),
        ({"few_shot": 9}, "expected 4 to 8 real images"),
        ({"finding": Finding.MASS}, "real has 0 images with Mass and 8 without; expected at least 2"),
        ({"test": toy(8, 3)}, "test has 4 images with Pneumonia and 4 without; expected at least 5"),
    ],
)
def test_unusable_requests_are_refused(changes: dict[str, object], message: str) -> None:
    arguments = {"finding": FINDING, "real": toy(8, 1), "synthetic": toy(16, 2), "test": toy(12, 3), "seconds": 60}
    with pytest.raises(InputError, match=message):
        classifier_utility(**(arguments | changes))
    with pytest.raises(InputError, match="real has 0 images with organ masks; expected at least 2"):
        segmenter_utility(toy(8, 1), toy(8, 2), toy(12, 3), seconds=60)
