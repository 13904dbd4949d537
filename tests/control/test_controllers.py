"""Regional guidance and the way of masks to the latent grid."""

import numpy as np
import pytest
import torch

from xreal.control.anatomy import (
    AnatomyBlend,
    anatomy_keep_mask,
    anatomy_keep_steps,
    organ_mask_to_pixels,
    start_noise_scale,
)
from xreal.control.blending import per_step_strength
from xreal.control.pathology import LatentLesions, lesions_to_latents, regional_guidance
from xreal.errors import InputError
from xreal.vocabulary import Organ


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


UNPROMPTED, PROMPTED = draw(2, 4, 6, 6), draw(3, 4, 6, 6, seed=1)
SCALES, OWNERS = torch.tensor([7.0, 3.0, 1.5]), torch.tensor([0, 0, 1])


def test_one_finding_everywhere_is_classifier_free_guidance() -> None:
    guided = regional_guidance(UNPROMPTED, PROMPTED[:2], SCALES[:2].view(-1, 1, 1, 1), torch.tensor([0, 1]))
    expected = UNPROMPTED + SCALES[:2].view(-1, 1, 1, 1) * (PROMPTED[:2] - UNPROMPTED)
    torch.testing.assert_close(guided, expected)


@pytest.mark.parametrize(("mask", "scale"), [(0.0, 7.0), (1.0, 0.0)])
def test_no_mask_or_no_guidance_is_unprompted(mask: float, scale: float) -> None:
    masks = torch.full((3, 1, 6, 6), mask)
    assert torch.equal(regional_guidance(UNPROMPTED, PROMPTED, scale * masks, OWNERS), UNPROMPTED)


def test_findings_add_up_each_in_its_own_place_and_image() -> None:
    masks = torch.zeros(3, 1, 6, 6)
    masks[0, :, :3], masks[1, :, 2:], masks[2, :, :, 0] = 1, 1, 0.5
    guided = regional_guidance(UNPROMPTED, PROMPTED, SCALES.view(-1, 1, 1, 1) * masks, OWNERS)
    pulls = [SCALES[k] * masks[k] * (PROMPTED[k] - UNPROMPTED[OWNERS[k]]) for k in range(3)]
    torch.testing.assert_close(guided[0], UNPROMPTED[0] + pulls[0] + pulls[1])
    torch.testing.assert_close(guided[1], UNPROMPTED[1] + pulls[2])
    assert torch.equal(guided[1, :, :, 1:], UNPROMPTED[1, :, :, 1:])
    order = torch.tensor([2, 1, 0])
    turned = regional_guidance(UNPROMPTED, PROMPTED[order], (SCALES.view(-1, 1, 1, 1) * masks)[order], OWNERS[order])
    torch.testing.assert_close(turned, guided)


def test_union_is_the_largest_mask_of_each_image() -> None:
    masks = torch.zeros(3, 1, 2, 2)
    masks[0, 0, 0, 0], masks[1, 0, 0, 0], masks[2, 0, 1, 1] = 0.3, 0.8, 1.0
    owners, present = torch.tensor([0, 0, 2]), torch.tensor([1.0, 1.0, 0.0])
    lesions = LatentLesions(torch.zeros(3, 1, 1), masks, masks, SCALES, owners, present)
    assert torch.equal(lesions.places[:2], masks[:2])
    assert not lesions.places[2].any()  # what is to go has no place
    assert lesions.union(3)[:, 0].tolist() == [
        [[pytest.approx(0.8), 0], [0, 0]],
        [[0, 0], [0, 0]],  # an image without lesions
        [[0, 0], [0, 1]],
    ]


def test_lesions_keep_their_share_of_each_latent_or_take_all_of_it() -> None:
    mask = torch.zeros(1, 64, 64)
    mask[0, 8:24, 8:20] = 1  # latents (1, 1), (2, 1) whole and (1, 2), (2, 2) half, at f = 8
    share, binary = (lesions_to_latents(mask, (8, 8), flag)[0, 0] for flag in (False, True))
    assert share.sum().item() * 64 == mask.sum().item()
    assert share[1:3, 1:3].tolist() == [[1, 0.5], [1, 0.5]]
    assert binary[1:3, 1:3].tolist() == [[1, 1], [1, 1]]
    assert binary.sum() == 4


def test_a_single_pixel_is_not_lost_in_binary_masks() -> None:
    mask = torch.zeros(1, 64, 64)
    mask[0, 63, 0] = 0.1
    assert lesions_to_latents(mask, (8, 8), binary=True)[0, 0, 7, 0] == 1


def test_keep_mask_has_two_levels_at_the_steps_own_strength() -> None:
    organs = torch.zeros(1, 64, 64, dtype=torch.uint8)
    organs[0, 16:32, 16:32] = int(Organ.HEART)
    keep = anatomy_keep_mask(organs, (8, 8), AnatomyBlend(0.9, 0.2, 0.5), steps=30)
    assert keep.shape == (1, 1, 8, 8)
    inside, outside = per_step_strength(0.9, 30), per_step_strength(0.2, 30)
    expected = np.full((8, 8), outside)
    expected[2:4, 2:4] = inside
    np.testing.assert_allclose(keep[0, 0].numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize(("until", "steps", "active"), [(0.5, 100, 50), (0.5, 30, 15), (0.0, 30, 0), (1.0, 7, 7)])
def test_blending_ends_at_its_share_of_the_steps(until: float, steps: int, active: int) -> None:
    organs = torch.randint(0, 4, (1, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert (anatomy_keep_steps(organs, (8, 8), AnatomyBlend(until=until), steps) == active).all()


def test_contours_are_kept_longer_on_both_sides_and_nothing_else_is() -> None:
    organs = torch.zeros(1, 128, 128, dtype=torch.uint8)
    organs[0, 32:96, 32:96] = int(Organ.HEART)  # latents 4 to 11, at f = 8
    kept = anatomy_keep_steps(organs, (16, 16), AnatomyBlend(until=0.5, contour_until=0.9), 10)[0, 0]
    assert kept.unique().tolist() == [5, 9]
    assert (kept[8] == 9).nonzero().flatten().tolist() == [3, 4, 11, 12]
    assert (kept[:3] == 5).all()
    assert (kept[5:11, 5:11] == 5).all()


def test_neighbouring_organs_have_a_contour_between_them() -> None:
    organs = torch.full((1, 128, 128), int(Organ.LEFT_LUNG), dtype=torch.uint8)
    organs[..., 64:] = int(Organ.HEART)
    kept = anatomy_keep_steps(organs, (16, 16), AnatomyBlend(until=0, contour_until=1), 10)[0, 0, 8]
    assert kept.nonzero().flatten().tolist() == [7, 8]


@pytest.mark.parametrize("name", ["inside", "outside", "until", "contour_until"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_blend_refuses(name: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{name} is {value}; expected 0 to 1"):
        AnatomyBlend(**{name: value})


def test_labels_become_quarters_in_every_channel() -> None:
    pixels = organ_mask_to_pixels(torch.arange(5, dtype=torch.uint8).view(1, 1, 5), 3)
    assert pixels.shape == (1, 3, 1, 5)
    assert (pixels == torch.tensor([0, 0.25, 0.5, 0.75, 1])).all()


def test_noise_begins_weaker_away_from_organs_alone() -> None:
    organs = torch.zeros(2, 256, 256, dtype=torch.uint8)
    organs[0, 96:160, 96:160] = Organ.HEART.value
    scale = start_noise_scale(organs, (32, 32), 0.6)
    assert scale.shape == (2, 1, 32, 32)
    assert scale[0].min() == pytest.approx(0.6)
    assert scale[0].max() == pytest.approx(1.0)
    assert (scale[0, 0, 11:21, 11:21] == 1).all()  # the organ, and a latent around it
    assert torch.equal(scale[0, 0, 0], torch.full((32,), scale[0].min().item()))
    assert (scale[1] == 1).all()  # nothing says where its organs will be


@pytest.mark.parametrize("outside", [-0.1, 1.1, float("nan")])
def test_noise_away_from_organs_out_of_range(outside: float) -> None:
    with pytest.raises(InputError, match="outside_noise"):
        AnatomyBlend(outside_noise=outside)
