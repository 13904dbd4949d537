"""What a stage needs is said before anything runs, and it is what the stage then needs."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from xreal.config import PRESETS
from xreal.errors import DataError, InputError
from xreal.training.forecast import _STEPS, forecast
from xreal.training.stages import STAGES, build_stage
from xreal.training.texture import TextureStage

TINY = PRESETS["tiny"]
NEEDS_MORE = ("autoguidance", "adversarial")  # a model with an adapter: their own tests


@pytest.mark.parametrize("name", [name for name in STAGES if name not in NEEDS_MORE])
def test_parameters_are_those_of_the_stage(
    name: str, phantom_data: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    said = forecast(name, TINY, [phantom_data])
    start = tiny_model_folder if name in ("adapter", "joint", "controlnet") else None
    stage = build_stage(name, TINY, [phantom_data], tmp_path, tiny_model_folder, start)
    own = list(stage.network.parameters())
    if name != "encoder":  # it learns as many findings as the data have
        assert said.trained == sum(p.numel() for p in own if p.requires_grad)
        beside = list(stage.autoencoder.parameters()) if isinstance(stage, TextureStage) else []
        assert said.frozen == sum(p.numel() for p in [*own, *beside] if not p.requires_grad)
    assert said.images == len(stage.sampling_weights) == 9
    assert said.flops > said.trained  # every weight is used more than once
    assert said.weight_bytes == 20 * said.trained + 4 * said.frozen
    assert said.activation_bytes > 0


def test_flops_and_memory_are_those_of_a_layer_that_can_be_counted_by_hand(
    phantom_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = torch.nn.Conv2d(1, 8, 3, padding=1, bias=False)
    step = ([layer], lambda count: layer(torch.randn(count, 1, 64, 64)))
    monkeypatch.setitem(_STEPS, "backbone", lambda _: step)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xreal.training.forecast.FakeTensorMode", nullcontext)
        said = forecast("backbone", TINY, [phantom_data], mixed_precision="no")
    assert said.flops == 2 * (2 * 64 * 64 * 8 * 9)  # forward, and the gradient of the weight; the image needs none
    assert said.activation_bytes == 2 * 64 * 64 * 4  # a batch of two images


def test_smaller_parts_and_recomputing_take_less_memory(phantom_data: Path) -> None:
    preset = TINY.with_stage("backbone", batch_size=16)
    whole = forecast("backbone", preset, [phantom_data])
    parts = forecast("backbone", preset, [phantom_data], processes=2, micro_batch_size=4)
    assert (parts.parts, parts.processes) == (4, 2)
    assert parts.activation_bytes == pytest.approx(whole.activation_bytes / 4, rel=0.01)
    assert parts.flops == whole.flops
    again = forecast("backbone", preset, [phantom_data], recompute=True)
    assert again.activation_bytes < 0.7 * whole.activation_bytes
    assert again.flops > whole.flops
    assert forecast("backbone", preset, [phantom_data], mixed_precision="no").activation_bytes > whole.activation_bytes


def test_the_papers_autoencoder_has_its_size(phantom_data: Path) -> None:
    paper = replace(PRESETS["paper"], image_size=64)  # the number of weights does not depend on the image
    assert forecast("anatomy", paper, [phantom_data]).trained == 55_312_063


def test_images_without_organ_mask_do_not_count_where_one_is_needed(phantom_folder: Path, tmp_path: Path) -> None:
    from xreal.data.prepare import prepare

    prepare("folder", phantom_folder, tmp_path / "bare", 64)
    assert forecast("anatomy", TINY, [tmp_path / "bare"]).images == 0
    assert forecast("backbone", TINY, [tmp_path / "bare"]).images == 9


def test_command_line_says_it_and_leaves_nothing(
    phantom_data: Path, tmp_path: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--data", phantom_data, "--preset", "tiny", "--out", tmp_path / "out", "--steps", 90]
    assert run("train", "anatomy", *arguments, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "43,936 trained, 0 frozen" in said
    assert "9 images per epoch; 90 steps draw 180 images, 20.0 epochs" in said
    assert not (tmp_path / "out").exists()


def test_what_cannot_run_is_refused(phantom_data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown stage 'lora'; expected one of segmenter"):
        forecast("lora", TINY, [phantom_data])
    with pytest.raises(InputError, match="0 processes cannot train"):
        forecast("backbone", TINY, [phantom_data], processes=0)
    with pytest.raises(InputError, match="cannot recompute activations"):
        forecast("segmenter", TINY, [phantom_data], recompute=True)
    with pytest.raises(DataError, match="holds no train-"):
        forecast("backbone", TINY, [tmp_path])
