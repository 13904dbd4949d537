"""Networks tell what differs, at the size at which it differs, and nothing else; so does who sees features."""

from collections.abc import Callable

import numpy as np
import pytest
from torch import Tensor, nn

from xreal.errors import InputError
from xreal.evaluation import telling
from xreal.evaluation.card import ManyReference
from xreal.evaluation.telling import linear_tells, networks_tell

Textures = Callable[[int, int], np.ndarray]


class Brightness(nn.Module):
    """Calls bright pictures generated, as surely as its slope is steep; dark ones below no slope."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, images: Tensor) -> Tensor:
        return self.slope * images.mean((2, 3))


def accuracy(real: np.ndarray, generated: np.ndarray, size: int) -> dict[str, float]:
    """Learn from the first 100 of each, test on the others."""
    return networks_tell(real[:100], generated[:100], real[100:], generated[100:], size, steps=150)


def test_noise_of_single_pixels_is_told_at_the_whole_size_and_hardly_at_a_quarter(textures: Textures) -> None:
    real, other = textures(160, 0), textures(160, 1)
    noisy = np.clip(other + np.random.default_rng(2).normal(0, 0.08, other.shape), 0, 1).astype(np.float32)
    told, hardly = accuracy(real, noisy, 64), accuracy(real, noisy, 16)
    assert min(told["accuracy"], told["accuracy in training"]) > 0.9
    assert hardly["accuracy low"] < 0.6
    assert hardly["accuracy in training"] < told["accuracy in training"]


def test_nothing_is_told_where_nothing_differs_and_the_interval_says_so(textures: Textures) -> None:
    scores = accuracy(textures(160, 0), textures(160, 1), 64)
    assert scores["accuracy low"] < 0.5 < scores["accuracy high"]
    assert scores["accuracy low"] <= scores["accuracy"] <= scores["accuracy high"]


def test_values_between_the_steps_of_8_bits_do_not_count(textures: Textures) -> None:
    real, other = textures(160, 0), textures(160, 1)
    stored = np.rint(real * 255).astype(np.float32) / 255
    scores = accuracy(stored, other, 64)
    assert scores == accuracy(stored, np.rint(other * 255).astype(np.float32) / 255, 64)


def test_a_seed_always_learns_the_same(textures: Textures) -> None:
    real, other = textures(110, 0), textures(110, 1)
    again = [networks_tell(real[:100], other[:100], real[100:], other[100:], 32, seed=3, steps=5) for _ in range(2)]
    assert again[0] == again[1]


def test_networks_are_asked_together_and_each_alone(textures: Textures, monkeypatch: pytest.MonkeyPatch) -> None:
    real, other = textures(110, 0), 0.5 * textures(110, 1) + 0.5 * np.roll(textures(110, 1), 1, axis=2)
    parts = real[:100], other[:100], real[100:], other[100:], 32
    together = networks_tell(*parts, seed=3, steps=10)
    monkeypatch.setattr(telling, "NETWORKS", 1)
    each = [networks_tell(*parts, seed=seed, steps=10) for seed in (3, 4, 5)]
    alone = [one["accuracy"] for one in each]
    assert together["accuracy alone"] == pytest.approx(np.mean(alone))
    assert (together["accuracy alone low"], together["accuracy alone high"]) == (min(alone), max(alone))
    assert together["accuracy in training"] == pytest.approx(np.mean([one["accuracy in training"] for one in each]))


def test_a_network_that_knows_outweighs_two_that_guess(monkeypatch: pytest.MonkeyPatch) -> None:
    def taught(pools: object, seed: int, steps: int) -> tuple[nn.Module, float]:
        return (Brightness(40.0) if seed == 1 else Brightness(-0.1)), 0.5

    monkeypatch.setattr(telling, "_taught", taught)
    dark, bright = np.full((100, 8, 8), 0.4, np.float32), np.full((100, 8, 8), 0.6, np.float32)
    told = networks_tell(dark, bright, dark, bright, 8)
    assert told["accuracy"] == 1
    assert told["accuracy alone"] == pytest.approx(1 / 3)


def test_features_of_others_are_told_where_they_differ_and_not_where_they_do_not() -> None:
    rng = np.random.default_rng(0)
    sets = [rng.normal(0, 1, (120, 5)) for _ in range(4)]
    nothing = linear_tells(*sets)
    assert nothing["accuracy low"] < 0.5 < nothing["accuracy high"]
    moved = np.array([0, 0, 3.0, 0, 0])
    told = linear_tells(sets[0], sets[1][:100] + moved, sets[2], sets[3] + moved)
    assert told["accuracy"] > 0.9
    with pytest.raises(InputError, match="at least 100 of each"):
        linear_tells(sets[0], sets[1][:99], sets[2], sets[3])


@pytest.mark.parametrize(("learn", "test"), [(99, 10), (100, 0)])
def test_too_few_images_are_refused(textures: Textures, learn: int, test: int) -> None:
    images = textures(100, 0)
    with pytest.raises(InputError, match="at least 100 of each"):
        networks_tell(images[:learn], images, images[:test], images, 32)


def test_the_card_has_each_size_with_what_was_told_in_training(
    textures: Textures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xreal.evaluation.card.networks_tell", lambda *given: networks_tell(*given, steps=3))
    images = textures(110, 0)
    against = ManyReference(images[:100], images[100:])
    axes = against.compare(images[:100], images[100:106])
    sizes = [images.shape[-1] // 4, images.shape[-1] // 2, images.shape[-1]]
    names = [f"accuracy at {size} pixels{end}" for size in sizes for end in ("", " alone", " in training")]
    told = axes["real or generated, many"]
    assert list(told) == ["accuracy, linear", *names]
    assert [told[name]["n"] for name in names[:3]] == [16, 3, 200]
    assert axes["radiomics, many"]["radiomics distance"]["value"] == pytest.approx(0, abs=1e-6)
    assert list(against.compare(images[:100], images[100:106], networks=False)["real or generated, many"]) == [
        "accuracy, linear"
    ]
