"""A network tells what differs, at the size at which it differs, and nothing else."""

from collections.abc import Callable

import numpy as np
import pytest

from xreal.errors import InputError
from xreal.evaluation import telling
from xreal.evaluation.card import network_axis
from xreal.evaluation.telling import network_tells

Textures = Callable[[int, int], np.ndarray]


def accuracy(real: np.ndarray, generated: np.ndarray, size: int) -> dict[str, float]:
    """Learn from the first 100 of each, test on the others."""
    return network_tells(real[:100], generated[:100], real[100:], generated[100:], size, steps=150)


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
    again = [network_tells(real[:100], other[:100], real[100:], other[100:], 32, seed=3, steps=5) for _ in range(2)]
    assert again[0] == again[1]


def test_a_network_that_has_not_begun_to_learn_gives_way_to_one_of_another_seed(
    textures: Textures, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, other = textures(110, 0), 0.5 * textures(110, 1) + 0.5 * np.roll(textures(110, 1), 1, axis=2)
    parts = real[:100], other[:100], real[100:], other[100:], 32
    alone = []
    for seed in (3, 4, 5):
        monkeypatch.setattr(telling, "_ATTEMPTS", 1)
        alone.append(network_tells(*parts, seed=seed, steps=10))
        assert alone[-1]["accuracy in training"] < 1
    monkeypatch.setattr(telling, "_ATTEMPTS", 3)
    monkeypatch.setattr(telling, "_BEGUN", 1.0)
    assert network_tells(*parts, seed=3, steps=10) == max(alone, key=lambda one: one["accuracy in training"])
    monkeypatch.setattr(telling, "_BEGUN", 0.0)
    assert network_tells(*parts, seed=3, steps=10) == alone[0]


@pytest.mark.parametrize(("learn", "test"), [(99, 10), (100, 0)])
def test_too_few_images_are_refused(textures: Textures, learn: int, test: int) -> None:
    images = textures(100, 0)
    with pytest.raises(InputError, match="at least 100 of each"):
        network_tells(images[:learn], images, images[:test], images, 32)


def test_the_card_has_each_size_with_what_was_told_in_training(
    textures: Textures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xreal.evaluation.card.network_tells", lambda *given: network_tells(*given, steps=3))
    images = textures(110, 0)
    axis = network_axis(images[:100], images[:100], images[100:], images[100:106])
    sizes = [images.shape[-1] // 4, images.shape[-1] // 2, images.shape[-1]]
    assert list(axis) == [f"accuracy at {size} pixels{end}" for size in sizes for end in ("", " in training")]
    assert [number["n"] for number in axis.values()] == [16, 200] * 3
    assert all(0 <= number["value"] <= 1 for number in axis.values())
