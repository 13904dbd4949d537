"""Laws of the whole pipeline, on untrained networks: what must hold whatever the networks have learnt."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import xreal.pipeline
from xreal.config import PRESETS
from xreal.control.anatomy import AnatomyBlend, start_noise_scale
from xreal.control.blending import StepNoise
from xreal.control.denoiser import Denoiser
from xreal.control.pathology import LatentLesions
from xreal.control.solvers import SOLVERS, build_solver
from xreal.errors import InputError, ModelError
from xreal.masks.areas import fade, feather
from xreal.masks.lesions import Lesion
from xreal.models.autoencoder import decode_latents, decode_pixels, encode_image
from xreal.models.text_encoder import encode_prompts
from xreal.pipeline import FEATHER_PIXELS, XRealPipeline
from xreal.vocabulary import Finding, Organ

MakeLesion = Callable[..., Lesion]
FAST: dict[str, dict[str, Any]] = {"regional": {"steps": 4}, "two-pass": {"steps": 4, "mode": "two-pass"}}
every_mode = pytest.mark.parametrize("settings", FAST.values(), ids=FAST)
CHANNELS = PRESETS["tiny"].autoencoder.latent_channels
CPU = torch.device("cpu")


def test_a_prompt_that_is_not_read_as_meant_is_warned_of(tiny_pipeline: XRealPipeline) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "prompt ", UserWarning)
        with pytest.raises(UserWarning, match="the model knows no word 'pnuemonia' and reads its letters"):
            tiny_pipeline(seeds=[3], steps=1, prompt="Pnuemonia, AP view")
        tiny_pipeline(seeds=[3], steps=1, prompt="Pneumonia, AP view")


@every_mode
def test_output_keeps_the_contract(
    tiny_pipeline: XRealPipeline, organ_mask: np.ndarray, lesion_in: MakeLesion, settings: dict[str, Any]
) -> None:
    lesions = [lesion_in(), lesion_in(Organ.LEFT_LUNG, Finding.MASS)]
    output = tiny_pipeline(organ_mask, lesions, [5, 6], **settings)
    assert output.healthy is not None
    assert output.priors is not None
    assert output.organ_masks is not None
    for pictures in (output.images, output.healthy, output.priors):
        assert (pictures.shape, pictures.dtype) == ((2, 64, 64), np.float32)
        assert pictures.min() >= 0
        assert pictures.max() <= 1
        assert pictures.std() > 0.01
    np.testing.assert_array_equal(output.organ_masks, [organ_mask, organ_mask])
    assert [masks.shape for masks in output.lesion_masks] == [(2, 64, 64)] * 2
    assert output.seeds == [5, 6]
    assert np.abs(output.images[0] - output.images[1]).max() > 0.01


@pytest.mark.parametrize(
    ("asked", "mode", "solver", "steps", "eta"),
    [
        ({}, "regional", "dpm++", 6, 0.0),
        ({"mode": "regional"}, "regional", "dpm++", 6, 0.0),
        ({"quality": "draft"}, "regional", "dpm++", 4, 0.0),
        ({"quality": "draft", "mode": "regional"}, "regional", "dpm++", 4, 0.0),
        ({"quality": "reference"}, "two-pass", "ddim", 100, 1.0),
        ({"mode": "two-pass"}, "two-pass", "ddim", 100, 1.0),
        ({"quality": "reference", "mode": "regional"}, "regional", "dpm++", 6, 0.0),
        ({"quality": "draft", "steps": 3, "solver": "ddim"}, "regional", "ddim", 3, 0.0),
    ],
)
def test_qualities_and_modes_set_what_is_not_given(
    tiny_pipeline: XRealPipeline, asked: dict[str, Any], mode: str, solver: str, steps: int, eta: float
) -> None:
    output = tiny_pipeline(**asked)
    assert output.settings == {
        "mode": mode,
        "solver": solver,
        "steps": steps,
        "guidance": 9.0 if mode == "regional" else 7.0,
        "eta": eta,
        "prompt": "",
        "prompt_guidance": 3.0 if mode == "regional" else 1.0,
        "lesion_start": 0.1,
        "lesion_until": 1.0,
        "exact": False,
        "texture": 0.0,  # nor the texture that its decoder leaves out
        "anatomy": {
            "inside": 1.0,
            "outside": 0.2,
            "until": 0.5,
            "contour_until": 0.9 if mode == "regional" else 0.0,
            "variety": 0.0,  # the tiny model has not learnt how X-rays of one mask differ
            "adapter": 0.0,  # nor has it an adapter
            "outside_noise": 1.0,
        },
        "backend": "torch",
        "precision": "float32",
    }
    assert output.healthy is None
    assert output.priors is None
    assert output.organ_masks is None


def test_recorded_settings_draw_the_same_again(
    tiny_pipeline: XRealPipeline, organ_mask: np.ndarray, lesion_in: MakeLesion
) -> None:
    given = {"solver": "ddim", "steps": 3, "guidance": 2.0, "eta": 0.5, "prompt": "PA view", "exact": True}
    given["prompt_guidance"] = 1.5
    first = tiny_pipeline(organ_mask, [lesion_in()], [9], anatomy=AnatomyBlend(0.9, 0.1, 0.4, 0.7), **given)
    recorded = first.settings | {"anatomy": AnatomyBlend(**first.settings["anatomy"])}
    assert (recorded.pop("backend"), recorded.pop("precision")) == ("torch", "float32")  # of the pipeline, not a call
    again = tiny_pipeline(first.organ_masks, [lesion_in()], first.seeds, **recorded)
    np.testing.assert_array_equal(first.images, again.images)


def test_plain_text_to_image_is_the_solvers_own_loop(tiny_pipeline: XRealPipeline) -> None:
    pipeline = tiny_pipeline
    drawn = pipeline(seeds=[3], solver="ddim", steps=5, prompt="Edema, AP view", prompt_guidance=1.0).images
    solver = build_solver("ddim", pipeline.scheduler, 5)
    with torch.inference_mode():
        embeds = encode_prompts(pipeline.tokenizer, pipeline.text_encoder, ["Edema, AP view"], CPU)
        latents = StepNoise([3], (CHANNELS, 8, 8), CPU, fixed=True).start
        for timestep in solver.timesteps:
            prediction = pipeline.unet(latents, timestep, embeds).sample
            latents = solver.step(prediction, timestep, latents).prev_sample
        expected = decode_latents(pipeline.vae, latents)[:, 0].numpy()
    np.testing.assert_allclose(drawn, expected, atol=1e-6)
    assert np.abs(pipeline(seeds=[3], solver="ddim", steps=5).images - drawn).max() > 1e-4  # the prompt matters


def test_away_from_organs_a_trajectory_begins_with_less_noise(
    tiny_pipeline: XRealPipeline, organ_mask: np.ndarray
) -> None:
    pipeline, nothing_kept = tiny_pipeline, AnatomyBlend(inside=0.0, outside=0.0, outside_noise=0.5)
    drawn = pipeline(organ_mask, seeds=[3], solver="ddim", steps=5, anatomy=nothing_kept).images
    solver = build_solver("ddim", pipeline.scheduler, 5)
    with torch.inference_mode():
        embeds = encode_prompts(pipeline.tokenizer, pipeline.text_encoder, [""], CPU)
        latents = StepNoise([3], (CHANNELS, 8, 8), CPU, fixed=True).start
        latents = latents * start_noise_scale(torch.from_numpy(organ_mask)[None], (8, 8), 0.5)
        for timestep in solver.timesteps:
            prediction = pipeline.unet(latents, timestep, embeds).sample
            latents = solver.step(prediction, timestep, latents).prev_sample
        expected = decode_latents(pipeline.vae, latents)[:, 0].numpy()
    np.testing.assert_allclose(drawn, expected, atol=1e-6)


@every_mode
def test_each_image_is_prompted_with_its_own_findings(
    tiny_pipeline: XRealPipeline, organ_mask: np.ndarray, lesion_in: MakeLesion, settings: dict[str, Any]
) -> None:
    lesions = [[lesion_in(finding=Finding.EDEMA)], []]
    both = tiny_pipeline(organ_mask, lesions, [1, 2], prompt="{findings}, AP view", **settings)
    assert both.settings["prompt"] == "{findings}, AP view"
    for i, prompt in enumerate(("Edema, AP view", "No Finding, AP view")):
        alone = tiny_pipeline(organ_mask, lesions[i], [1 + i], prompt=prompt, **settings)
        np.testing.assert_allclose(both.images[i], alone.images[0], atol=1e-5)
    swapped = tiny_pipeline(organ_mask, lesions[0], [1], prompt="No Finding, AP view", **settings)
    assert np.abs(swapped.images - both.images[:1]).max() > 1e-4


def test_each_image_may_have_a_prompt_of_its_own(
    tiny_pipeline: XRealPipeline, organ_mask: np.ndarray, lesion_in: MakeLesion
) -> None:
    prompts, lesions = ["Edema, AP view", "", "{findings}"], [[], [], [lesion_in()]]
    drawn = tiny_pipeline(organ_mask, lesions, [1, 2, 3], prompt=prompts, steps=2)
    assert drawn.settings["prompt"] == prompts
    for i, prompt in enumerate(("Edema, AP view", "", "Pneumonia")):
        alone = tiny_pipeline(organ_mask, lesions[i], [1 + i], prompt=prompt, steps=2)
        np.testing.assert_allclose(drawn.images[i], alone.images[0], atol=1e-5)
    with pytest.raises(InputError, match="3 prompts for 2 images"):
        tiny_pipeline(organ_mask, [], [1, 2], prompt=prompts, steps=2)


@every_mode
def test_the_prompts_guidance_leads_away_from_no_prompt(
    tiny_pipeline: XRealPipeline, organ_mask: np.ndarray, lesion_in: MakeLesion, settings: dict[str, Any]
) -> None:
    """In the X-ray and its twin alike; the lesion's own guidance stays."""

    def draw(prompt: str, scale: float) -> np.ndarray:
        output = tiny_pipeline(organ_mask, [lesion_in()], [1], prompt=prompt, prompt_guidance=scale, **settings)
        both: np.ndarray = np.concatenate([output.healthy, output.images])
        return both

    nothing, prompted, more = draw("", 1.0), draw("Edema", 1.0), draw("Edema", 3.0)
    np.testing.assert_allclose(draw("Edema", 0.0)[0], nothing[0], atol=1e-5)
    moved, further = prompted - nothing, more - nothing
    assert (further[0] * moved[0]).sum() > 1.5 * (moved[0] ** 2).sum() > 0
    assert (further[1] * moved[1]).sum() > 0
    assert np.abs(more[1] - prompted[1]).max() > 1e-4


@pytest.mark.parametrize(
    "settings", [*FAST.values(), {"solver": "ddim", "steps": 4, "eta": 1.0}], ids=[*FAST, "regional, renewed noise"]
)
@pytest.mark.parametrize("blend", [AnatomyBlend(inside=0, outside=0), AnatomyBlend(until=0)], ids=["mask", "steps"])
def test_zero_keep_mask_is_plain_text_to_image(
    tiny_pipeline: XRealPipeline,
    organ_mask: np.ndarray,
    lesion_in: MakeLesion,
    settings: dict[str, Any],
    blend: AnatomyBlend,
) -> None:
    lesions = [lesion_in()]
    free = tiny_pipeline(None, lesions, [1, 2], **settings)
    blended = tiny_pipeline(organ_mask, lesions, [1, 2], anatomy=blend, **settings)
    np.testing.assert_array_equal(free.healthy, blended.healthy)
    np.testing.assert_array_equal(free.images, blended.images)
    kept = tiny_pipeline(organ_mask, lesions, [1, 2], **settings)
    assert np.abs(kept.images - free.images).max() > 0.01


@pytest.mark.parametrize("solver", SOLVERS)
def test_full_keep_mask_returns_the_reference(
    tiny_pipeline: XRealPipeline, organ_mask: np.ndarray, solver: str
) -> None:
    output = tiny_pipeline(organ_mask, (), [4], solver=solver, steps=4, anatomy=AnatomyBlend(1, 1, 1))
    generator = StepNoise([4], (CHANNELS, 8, 8), CPU, fixed=True).reference_generators
    with torch.inference_mode():
        reference = encode_image(tiny_pipeline.vae, torch.from_numpy(output.priors)[:, None], generator)
        expected = decode_latents(tiny_pipeline.vae, reference)[:, 0].numpy()
    np.testing.assert_allclose(output.images, expected, atol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
def test_inpainting_nowhere_returns_the_reference(tiny_pipeline: XRealPipeline, solver: str) -> None:
    noise = StepNoise([4], (CHANNELS, 8, 8), CPU, fixed=True)
    reference = StepNoise([5], (CHANNELS, 8, 8), CPU, fixed=True).start
    base = encode_prompts(tiny_pipeline.tokenizer, tiny_pipeline.text_encoder, ["", "Mass"], CPU)
    denoise = Denoiser(tiny_pipeline.unet, base[:1])
    masks = torch.zeros(1, 1, 8, 8)
    nowhere = LatentLesions(base[1:], masks, masks, torch.tensor([7.0]), torch.tensor([0]), torch.ones(1))
    engine = build_solver(solver, tiny_pipeline.scheduler, 3)
    with torch.inference_mode():
        latents = tiny_pipeline._walk(engine, denoise, noise, eta=0.0, callback=None).inpaint(reference, nowhere)
    assert torch.equal(latents, reference)


def test_lesions_end_softly(tiny_pipeline: XRealPipeline, organ_mask: np.ndarray, lesion_in: MakeLesion) -> None:
    """At its border a lesion is the healthy twin, and beyond it; an image without lesions is all twin."""
    lesion = lesion_in()
    output = tiny_pipeline(organ_mask, [[lesion], []], [1, 2])
    assert output.healthy is not None
    change = np.abs(output.images - output.healthy)
    inner = fade(lesion.mask, 3.0) == 1  # 3 pixels from the border
    assert change[0][inner].mean() > 3 * change[0][(lesion.mask > 0) & ~inner].mean()
    assert change[0][lesion.mask == 0].max() == 0
    assert change[1].max() == 0


@every_mode
@pytest.mark.parametrize("strength", [1.0, 0.3])
def test_exact_leaves_every_pixel_beyond_the_feather(
    tiny_pipeline: XRealPipeline,
    organ_mask: np.ndarray,
    lesion_in: MakeLesion,
    settings: dict[str, Any],
    strength: float,
) -> None:
    lesion = lesion_in(strength=strength)
    output = tiny_pipeline(organ_mask, [lesion], [1, 2], exact=True, **settings)
    loose = tiny_pipeline(organ_mask, [lesion], [1, 2], **settings)
    assert output.healthy is not None
    outside = feather(lesion.mask, FEATHER_PIXELS) == 0
    assert outside.mean() > 0.5
    np.testing.assert_array_equal(output.images[:, outside], output.healthy[:, outside])
    for image, twin in zip(output.images, output.healthy, strict=True):
        assert np.abs(image - twin)[lesion.mask == 1].max() > 1e-4
    np.testing.assert_allclose(output.images[:, lesion.mask == 1], loose.images[:, lesion.mask == 1], atol=1e-6)


def test_no_guidance_is_the_healthy_twin(
    tiny_pipeline: XRealPipeline, organ_mask: np.ndarray, lesion_in: MakeLesion
) -> None:
    output = tiny_pipeline(organ_mask, [lesion_in()], [1], steps=4, guidance=0.0)
    np.testing.assert_allclose(output.images, output.healthy, atol=1e-5)
    weak, strong = (tiny_pipeline(organ_mask, [lesion_in(strength=strength)], [1], steps=4) for strength in (0.01, 1.0))
    changes = [np.abs(drawn.images - drawn.healthy).max() for drawn in (weak, strong)]
    assert 0 < 20 * changes[0] < changes[1]


@every_mode
def test_guidance_times_strength_is_what_counts(
    tiny_pipeline: XRealPipeline, organ_mask: np.ndarray, lesion_in: MakeLesion, settings: dict[str, Any]
) -> None:
    first = tiny_pipeline(organ_mask, [lesion_in(strength=0.5)], [1], guidance=8.0, **settings)
    second = tiny_pipeline(organ_mask, [lesion_in(strength=2.0)], [1], guidance=2.0, **settings)
    np.testing.assert_array_equal(first.images, second.images)


@every_mode
def test_twin_is_the_image_without_lesions(
    tiny_pipeline: XRealPipeline, organ_mask: np.ndarray, lesion_in: MakeLesion, settings: dict[str, Any]
) -> None:
    with_lesion = tiny_pipeline(organ_mask, [lesion_in()], [1, 2], **settings)
    without = tiny_pipeline(organ_mask, (), [1, 2], **settings)
    np.testing.assert_allclose(with_lesion.healthy, without.images, atol=1e-5)


@every_mode
def test_image_does_not_depend_on_its_batch(
    tiny_pipeline: XRealPipeline, organ_mask: np.ndarray, lesion_in: MakeLesion, settings: dict[str, Any]
) -> None:
    own = [[lesion_in()], [lesion_in(Organ.LEFT_LUNG, Finding.MASS), lesion_in()], [lesion_in(Organ.LEFT_LUNG)]]
    seeds = [11, 5, 8]
    together = tiny_pipeline(organ_mask, own, seeds, **settings)
    for i, seed in enumerate(seeds):
        alone = tiny_pipeline(organ_mask, own[i], [seed], **settings)
        for name in ("images", "healthy", "priors"):
            np.testing.assert_allclose(getattr(together, name)[i], getattr(alone, name)[0], atol=1e-4, err_msg=name)


@every_mode
@pytest.mark.parametrize("exact", [False, True])
def test_image_without_lesions_beside_one_with_them_is_its_twin(
    tiny_pipeline: XRealPipeline,
    organ_mask: np.ndarray,
    lesion_in: MakeLesion,
    settings: dict[str, Any],
    exact: bool,
) -> None:
    output = tiny_pipeline(organ_mask, [[lesion_in()], []], [1, 2], exact=exact, **settings)
    assert output.healthy is not None
    assert [masks.shape for masks in output.lesion_masks] == [(1, 64, 64), (0, 64, 64)]
    np.testing.assert_array_equal(output.images[1], output.healthy[1])
    assert np.abs(output.images[0] - output.healthy[0]).max() > 1e-3


@every_mode
def test_latents_beyond_the_lesion_are_the_reference(
    tiny_pipeline: XRealPipeline,
    organ_mask: np.ndarray,
    lesion_in: MakeLesion,
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Regional: the twin's latents; two-pass: those of the encoded twin. The lesion covers whole latents here."""
    seen: list[torch.Tensor] = []

    def encode(*given: Any) -> torch.Tensor:
        seen.append(encode_image(*given))
        return seen[-1]

    def decode(vae: Any, latents: torch.Tensor) -> torch.Tensor:
        seen.append(latents)
        return decode_pixels(vae, latents)

    monkeypatch.setattr(xreal.pipeline, "encode_image", encode)
    monkeypatch.setattr(xreal.pipeline, "decode_pixels", decode)
    lesion = lesion_in()
    tiny_pipeline(organ_mask, [lesion], [1], **settings)
    before, after = seen[-2:]
    outside = torch.from_numpy(lesion.mask[::8, ::8] == 0)
    assert torch.equal(before[..., outside], after[..., outside])
    assert (before[..., ~outside] - after[..., ~outside]).abs().min() > 0


def test_order_of_lesions_does_not_matter(
    tiny_pipeline: XRealPipeline, organ_mask: np.ndarray, lesion_in: MakeLesion
) -> None:
    lesions = [lesion_in(), lesion_in(Organ.LEFT_LUNG, Finding.MASS)]
    first, second = (tiny_pipeline(organ_mask, order, [1], steps=4).images for order in (lesions, lesions[::-1]))
    np.testing.assert_allclose(first, second, atol=1e-5)


def test_weights_stay_in_float32_and_nothing_is_offloaded_in_silence(tiny_pipeline: XRealPipeline) -> None:
    assert tiny_pipeline.to("cpu") is tiny_pipeline
    assert tiny_pipeline.to(torch.float32) is tiny_pipeline
    for given, named in (((torch.bfloat16,), {}), (("cpu", torch.float16), {}), ((), {"dtype": torch.float16})):
        with pytest.raises(ModelError, match="weights stay in float32, not torch"):
            tiny_pipeline.to(*given, **named)
    assert next(tiny_pipeline.unet.parameters()).dtype == torch.float32
    with pytest.raises(ValueError, match="model_cpu_offload_seq"):
        tiny_pipeline.enable_model_cpu_offload()


def test_each_image_has_its_own_organ_mask(tiny_pipeline: XRealPipeline, organ_mask: np.ndarray) -> None:
    other = np.roll(organ_mask, 4, axis=0)
    both = tiny_pipeline(np.stack([organ_mask, other]), (), [1, 1], steps=4)
    alone = tiny_pipeline(other, (), [1], steps=4)
    np.testing.assert_allclose(both.images[1], alone.images[0], atol=1e-5)
    assert np.abs(both.images[0] - both.images[1]).max() > 0.01


def test_masks_of_another_size_are_brought_to_the_models(
    tiny_pipeline: XRealPipeline, organ_mask: np.ndarray, lesion_in: MakeLesion
) -> None:
    large = Lesion(Finding.PNEUMONIA, lesion_in().mask.repeat(3, 0).repeat(3, 1))
    first = tiny_pipeline(organ_mask, [lesion_in()], [1], steps=3)
    second = tiny_pipeline(organ_mask.repeat(3, 0).repeat(3, 1), [large], [1], steps=3)
    np.testing.assert_allclose(first.images, second.images, atol=1e-5)


@every_mode
def test_saved_and_opened_draws_the_same(
    tiny_pipeline: XRealPipeline,
    tiny_model_folder: Path,
    tmp_path: Path,
    organ_mask: np.ndarray,
    lesion_in: MakeLesion,
    settings: dict[str, Any],
) -> None:
    """Both written by the stages and by ``save_pretrained``."""
    tiny_pipeline.save_pretrained(tmp_path)
    call = (organ_mask, [lesion_in()], [1])
    drawn = tiny_pipeline(*call, **settings)
    for folder in (tiny_model_folder, tmp_path):
        opened = XRealPipeline.from_pretrained(folder)
        assert opened.components.keys() == tiny_pipeline.components.keys()
        opened.set_progress_bar_config(disable=True)
        again = opened(*call, **settings)
        np.testing.assert_array_equal(drawn.images, again.images)
