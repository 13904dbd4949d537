"""The anatomy adapter: trained beside a frozen model, called once an image, and off wherever it is not asked for."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import T2IAdapter
from safetensors.torch import load_file

from xreal.config import PRESETS
from xreal.control.anatomy import AnatomyBlend
from xreal.control.pathology import lesions_to_latents
from xreal.data.phantom import Phantom
from xreal.errors import InputError, ModelError, TrainingError
from xreal.inputs import PLACED_GUIDANCE, default_blend
from xreal.masks.lesions import Lesion
from xreal.masks.organs import write_organ_mask
from xreal.models.folder import read_index, write_index
from xreal.models.organs import ADAPTER_PLANES, adapter_features
from xreal.pipeline import XRealPipeline
from xreal.training.loop import train
from xreal.training.stages import build_stage

TINY = PRESETS["tiny"].with_stage("adapter", learning_rate=0.01)


def make(data: Path, model: Path, out: Path, **options: object) -> Path:
    stage = build_stage("adapter", TINY, [data], out, start=model)
    assert np.isfinite(train(stage, out, mixed_precision="no", **options)["validation_loss"])
    return out


@pytest.fixture(scope="module")
def model(phantom_data: Path, tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = make(phantom_data, tiny_model_folder, tmp_path_factory.mktemp("adapter") / "model")
    assert write_index(out)
    return out


@pytest.fixture(scope="module")
def pipeline(model: Path) -> XRealPipeline:
    opened = XRealPipeline.from_pretrained(model)
    opened.set_progress_bar_config(disable=True)
    return opened


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {
        f"{path.parent.name}.{key}": value
        for path in folder.glob("*/*.safetensors")
        for key, value in load_file(path).items()
    }


def test_folder_is_the_whole_model_and_nothing_else_of_it_has_changed(model: Path, tiny_model_folder: Path) -> None:
    index = read_index(model)
    assert index["anatomy_adapter"] == "T2IAdapter"
    assert index.keys() == read_index(tiny_model_folder).keys() | {"anatomy_adapter"}
    before, after = weights(tiny_model_folder), weights(model)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert before.keys() == {key for key in after if not key.startswith("anatomy_adapter.")}


def test_it_learns(phantom_data: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    stage = build_stage("adapter", TINY, [phantom_data], tmp_path, start=tiny_model_folder)
    before = [parameter.clone() for parameter in stage.steering.parameters()]
    train(stage, tmp_path, mixed_precision="no")
    assert all(not torch.equal(old, new) for old, new in zip(before, stage.steering.parameters(), strict=True))
    frozen = (stage.network.unet.unet, stage.network.text_encoder)
    assert not any(parameter.requires_grad for network in frozen for parameter in network.parameters())


@pytest.mark.parametrize("mode", ["regional", "two-pass"])
def test_each_image_is_drawn_from_its_own_mask_in_any_batch(
    mode: str, pipeline: XRealPipeline, organ_mask: np.ndarray, lesion_in: Callable[..., Lesion]
) -> None:
    blend = AnatomyBlend(inside=0, outside=0, adapter=1)  # the adapter alone
    mirrored = np.ascontiguousarray(organ_mask[::-1])
    asked = {"steps": 4, "mode": mode, "anatomy": blend}
    output = pipeline(np.stack([organ_mask, mirrored]), [[lesion_in()], []], [1, 1], **asked)
    assert output.healthy is not None
    assert np.abs(output.healthy[0] - output.healthy[1]).max() > 1e-4  # one seed, two masks
    alone = pipeline(mirrored, [], [1], **asked)
    np.testing.assert_allclose(alone.images[0], output.healthy[1], atol=2e-5)


def test_strength_zero_is_the_model_without_it(
    pipeline: XRealPipeline, tiny_pipeline: XRealPipeline, organ_mask: np.ndarray
) -> None:
    blend = AnatomyBlend(adapter=0)
    without = tiny_pipeline(organ_mask, [], [3], steps=3, anatomy=AnatomyBlend(adapter=1))  # it has none
    np.testing.assert_array_equal(pipeline(organ_mask, [], [3], steps=3, anatomy=blend).images, without.images)
    assert without.settings["anatomy"]["adapter"] == 0
    pictures = [
        pipeline(organ_mask, [], [3], steps=3, anatomy=AnatomyBlend(adapter=strength)).images
        for strength in (0, 0.5, 1)
    ]
    distances = [np.abs(picture - pictures[0]).mean() for picture in pictures]
    assert 0 < distances[1] < distances[2]


def test_paper_and_free_anatomy_leave_it_out(pipeline: XRealPipeline, organ_mask: np.ndarray) -> None:
    assert default_blend("two-pass", adapted=True) == AnatomyBlend()
    assert default_blend("regional").adapter == 0
    drawn = pipeline(organ_mask, [], [0], steps=2)
    assert drawn.settings["anatomy"]["adapter"] == default_blend("regional", adapted=True).adapter > 0
    assert drawn.priors is None  # nor is the prior drawn that it takes the place of
    assert pipeline(None, [], [0], steps=2).settings["anatomy"]["adapter"] == 0


@pytest.fixture
def placing(pipeline: XRealPipeline) -> Iterator[XRealPipeline]:
    """The pipeline with an adapter that has something to say about lesions."""
    first = pipeline.anatomy_adapter.adapter.conv_in
    planes = first.weight.shape[1] // ADAPTER_PLANES
    kept = first.weight.detach().clone()
    assert (kept[:, -planes:] == 0).all()  # the data that taught it had no boxes
    with torch.no_grad():
        first.weight[:, -planes:] = torch.randn(kept[:, -planes:].shape, generator=torch.Generator().manual_seed(0))
    yield pipeline
    with torch.no_grad():
        first.weight.copy_(kept)


def features_told(pipeline: XRealPipeline, draw: Callable[[], object]) -> torch.Tensor:
    """Return what the first level of the U-Net was told in its last call."""
    told: list[torch.Tensor] = []

    def note(module: torch.nn.Module, args: tuple[object, ...], kwargs: dict[str, list[torch.Tensor]]) -> None:
        told.append(kwargs["down_intrablock_additional_residuals"][0].clone())

    handle = pipeline.unet.register_forward_pre_hook(note, with_kwargs=True)
    try:
        draw()
    finally:
        handle.remove()
    return told[-1]


def test_every_step_is_told(placing: XRealPipeline, organ_mask: np.ndarray) -> None:
    """diffusers empties the list of features that it is given, so one list does not last for two steps."""
    told: list[int] = []
    handle = placing.unet.register_forward_pre_hook(
        lambda module, args, kwargs: told.append(len(kwargs["down_intrablock_additional_residuals"])), with_kwargs=True
    )
    placing(organ_mask, (), [0], steps=4)
    handle.remove()
    assert told == [2] * 4


def test_each_finding_is_told_its_own_place(
    placing: XRealPipeline, organ_mask: np.ndarray, lesion_in: Callable[..., Lesion]
) -> None:
    lesion = lesion_in()
    elsewhere = replace(lesion, mask=np.roll(lesion.mask, 16, axis=0))
    blend = AnatomyBlend(until=0, adapter=0.5)
    told = features_told(
        placing, lambda: placing(organ_mask, [lesion, elsewhere], [0], steps=2, anatomy=blend, lesion_start=0)
    )
    masks = torch.from_numpy(np.stack([lesion.mask, elsewhere.mask]))
    places = lesions_to_latents(masks, (8, 8))
    organs = torch.from_numpy(organ_mask)[None].repeat(2, 1, 1)
    with torch.inference_mode():
        (without, *_), (wanted, *_) = (
            adapter_features(placing.anatomy_adapter, placing.unet, organs, one) for one in (None, places)
        )
    twin, track, *findings = told / 0.5
    torch.testing.assert_close(twin, without[0])
    torch.testing.assert_close(track, without[0])
    torch.testing.assert_close(torch.stack(findings), wanted)
    assert not torch.allclose(wanted[0], without[0])
    assert not torch.allclose(wanted[0], wanted[1])


def test_lesions_are_placed_without_organs_too(
    placing: XRealPipeline, tiny_pipeline: XRealPipeline, lesion_in: Callable[..., Lesion]
) -> None:
    lesion = lesion_in()
    twin, track, finding = features_told(placing, lambda: placing(None, [lesion], [0], steps=2, lesion_start=0))
    assert (twin == 0).all()
    assert (track == 0).all()
    assert finding.any()
    output = placing(None, [lesion], [0], steps=2, lesion_start=0)
    without = tiny_pipeline(None, [lesion], [0], steps=2, lesion_start=0)
    np.testing.assert_allclose(output.healthy, without.healthy, atol=1e-5)  # the healthy twin hears nothing of it
    assert np.abs(output.images - without.images).max() > 1e-4


def test_findings_are_guided_less_where_their_place_is_told(
    placing: XRealPipeline, tiny_pipeline: XRealPipeline, organ_mask: np.ndarray, lesion_in: Callable[..., Lesion]
) -> None:
    def guidance(pipeline: XRealPipeline, **settings: object) -> float:
        return pipeline(organ_mask, [lesion_in()], [0], steps=2, **settings).settings["guidance"]

    edited = placing.edit(np.zeros((64, 64)), [lesion_in()], steps=2).settings["guidance"]
    assert guidance(placing) == edited == PLACED_GUIDANCE < guidance(tiny_pipeline)
    assert guidance(placing, guidance=5.0) == 5
    assert guidance(placing, anatomy=AnatomyBlend(adapter=0)) == 9
    assert guidance(placing, quality="reference", eta=0.0) == 7
    assert guidance(tiny_pipeline) == 9


def test_an_adapter_that_knows_no_places_says_nothing_without_organs(
    pipeline: XRealPipeline, tiny_pipeline: XRealPipeline, lesion_in: Callable[..., Lesion]
) -> None:
    outputs = [one(None, [lesion_in()], [0], steps=2) for one in (pipeline, tiny_pipeline)]
    np.testing.assert_array_equal(outputs[0].images, outputs[1].images)
    assert [one.settings["anatomy"]["adapter"] for one in outputs] == [0, 0]


def test_removals_have_no_place(
    placing: XRealPipeline, phantoms: list[Phantom], lesion_in: Callable[..., Lesion]
) -> None:
    area = lesion_in().mask
    _, track, removal = features_told(placing, lambda: placing.edit(phantoms[0].image, remove=area, steps=3))
    assert torch.equal(track, removal)
    _, track, lesion = features_told(placing, lambda: placing.edit(phantoms[0].image, [lesion_in()], steps=3))
    assert not torch.allclose(track, lesion)


def test_an_adapter_of_other_planes_is_refused(pipeline: XRealPipeline, organ_mask: np.ndarray) -> None:
    other = T2IAdapter(in_channels=ADAPTER_PLANES - 1, channels=[8, 16], num_res_blocks=1, downscale_factor=8)
    with pytest.raises(ModelError, match="takes 4 planes, expected 5: one per organ and one for lesions"):
        XRealPipeline(**{**pipeline.components, "anatomy_adapter": other})(organ_mask, [], [0])


def test_it_is_called_once_for_a_batch(
    pipeline: XRealPipeline, organ_mask: np.ndarray, lesion_in: Callable[..., Lesion], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def counted(
        adapter: torch.nn.Module, unet: torch.nn.Module, masks: torch.Tensor, lesions: torch.Tensor
    ) -> list[torch.Tensor]:
        calls.append((len(masks), len(lesions)))
        return adapter_features(adapter, unet, masks, lesions)

    monkeypatch.setattr("xreal.pipeline_base.adapter_features", counted)
    pipeline(organ_mask, [lesion_in()], [0, 1, 2], steps=4)
    assert calls == [(6, 6)]  # three images and their three lesions


def test_a_model_that_has_nothing_else_takes_organ_masks(pipeline: XRealPipeline, organ_mask: np.ndarray) -> None:
    parts = {**pipeline.components, "anatomy_controller": None}
    alone = XRealPipeline(**parts)
    alone.set_progress_bar_config(disable=True)
    output = alone(organ_mask, [], [0], steps=2)
    assert output.priors is None
    assert output.settings["anatomy"]["adapter"] > 0
    assert alone(organ_mask, [], [0], steps=2, mode="two-pass").settings["anatomy"]["adapter"] > 0
    with pytest.raises(ModelError, match="has no anatomy_controller"):
        XRealPipeline(**{**parts, "anatomy_adapter": None})(organ_mask, [], [0])


def test_edits_are_told_of_the_organs_that_are_found(
    pipeline: XRealPipeline, tiny_pipeline: XRealPipeline, phantoms: list[Phantom], lesion_in: Callable[..., Lesion]
) -> None:
    asked = {"lesions": [lesion_in()], "seeds": [0, 1], "steps": 3}
    drawn = [one.edit(phantoms[0].image, **asked).images for one in (pipeline, tiny_pipeline)]
    assert np.abs(drawn[0] - drawn[1]).max() > 1e-4
    blind = XRealPipeline(**{**pipeline.components, "segmenter": None})  # nor does its adapter know places
    blind.set_progress_bar_config(disable=True)
    np.testing.assert_array_equal(blind.edit(phantoms[0].image, **asked).images, drawn[1])


def test_command_line_draws(
    model: Path, organ_mask: np.ndarray, tmp_path: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    write_organ_mask(tmp_path / "organs.png", organ_mask)
    arguments = ["generate", "--model", model, "--organs", tmp_path / "organs.png", "--steps", 2]
    pictures = []
    for strength in (0, 1):
        assert run(*arguments, "--anatomy-adapter", strength, "--out", tmp_path / str(strength)) == 0
        pictures.append((tmp_path / str(strength) / "0000.png").read_bytes())
    assert pictures[0] != pictures[1]
    assert run(*arguments, "--anatomy-adapter", 3, "--out", tmp_path / "none") == 2
    assert "anatomy blend adapter is 3" in capsys.readouterr().err


def test_resumed_run_ends_with_the_same_weights(
    model: Path, phantom_data: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    def stop(step: int, total: int, parts: dict[str, float]) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make(phantom_data, tiny_model_folder, tmp_path, report=stop)
    make(phantom_data, tiny_model_folder, tmp_path, resume=True)
    ours, theirs = weights(tmp_path), weights(model)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_what_cannot_be_trained_is_refused(
    phantom_data: Path, tiny_model_folder: Path, model: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"model_index\.json cannot be read"):
        build_stage("adapter", TINY, [phantom_data], tmp_path)
    (tmp_path / "unet").mkdir()
    with pytest.raises(TrainingError, match="holds another model's unet/; give an --out of its own to adapter"):
        build_stage("adapter", TINY, [phantom_data], tmp_path, start=tiny_model_folder)
    with pytest.raises(InputError, match=r"anatomy blend adapter is 2\.5; expected 0 to 2"):
        AnatomyBlend(adapter=2.5)
