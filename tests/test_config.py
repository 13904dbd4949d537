"""Presets: sizes fit each other, and the paper's are the paper's."""

import dataclasses
import json

import pytest

from xreal.config import PRESETS, Preset, get_preset
from xreal.errors import InputError
from xreal.training.stages import STAGES

every_preset = pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)


@every_preset
def test_sizes_fit_each_other(preset: Preset) -> None:
    latents, rest = divmod(preset.image_size, preset.autoencoder.downsampling)
    assert rest == 0
    backbone = preset.backbone
    assert latents % (backbone.patch_size * 2 ** (len(backbone.block_out_channels) - 1)) == 0
    assert len(backbone.attention) == len(backbone.block_out_channels)
    assert all(channels % backbone.norm_num_groups == 0 for channels in backbone.block_out_channels)
    assert all(channels % preset.autoencoder.norm_num_groups == 0 for channels in preset.autoencoder.block_out_channels)
    assert preset.text_encoder.width % preset.text_encoder.heads == 0
    assert preset.image_size % 2 ** (len(preset.segmenter.channels) - 1) == 0


@every_preset
def test_every_stage_is_set_and_the_whole_is_json(preset: Preset) -> None:
    assert set(preset.stages) == set(STAGES)
    for stage in preset.stages.values():
        assert stage.steps % stage.checkpoint_every == 0 or stage.steps > stage.checkpoint_every
        assert stage.crop % preset.autoencoder.downsampling == 0
        assert stage.adversarial_from < stage.steps
    assert json.loads(json.dumps(preset.to_dict()))["name"] == preset.name


def test_the_papers_sizes() -> None:
    paper = get_preset("paper")
    assert (paper.image_size, paper.autoencoder.downsampling, paper.autoencoder.latent_channels) == (256, 4, 3)
    text = paper.text_encoder
    assert (text.layers, text.width, text.vocab_size, text.max_length) == (32, 1280, 30522, 150)
    assert paper.backbone.block_out_channels == (224, 448, 896, 896)
    assert (paper.backbone.prediction_type, paper.backbone.heads) == ("epsilon", 8)
    for preset in PRESETS.values():
        assert (preset.backbone.beta_start, preset.backbone.beta_end) == (0.0015, 0.0295)


def test_presets_do_not_change_but_copies_may() -> None:
    tiny = get_preset("tiny")
    changed = tiny.with_stage("backbone", steps=9)
    assert (changed.stages["backbone"].steps, tiny.stages["backbone"].steps) == (9, 4)
    assert changed.stages["segmenter"] == tiny.stages["segmenter"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        tiny.image_size = 1  # type: ignore[misc]


def test_unknown_preset_lists_the_known() -> None:
    with pytest.raises(InputError, match="unknown preset 'cxr-512'; expected one of cxr-256, paper, tiny"):
        get_preset("cxr-512")
