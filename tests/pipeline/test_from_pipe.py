"""Other people's pipelines: drawn as they draw themselves, steered, saved, opened from their own folders."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    LDMTextToImagePipeline,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
from transformers import CLIPTextConfig, CLIPTextModel

from xreal.config import PRESETS
from xreal.control.blending import StepNoise
from xreal.errors import ModelError
from xreal.masks.lesions import Lesion
from xreal.models.adopt import noise_schedule
from xreal.models.autoencoder import decode_latents, encode_image, pixel_range
from xreal.models.text_encoder import wordpiece_tokenizer
from xreal.pipeline import XRealPipeline
from xreal.vocabulary import Finding

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "edema", "pneumonia", *(f"[unused{i}]" for i in range(90))]
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
CPU = torch.device("cpu")


def networks(width: int, **unet: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    autoencoder = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=4,
        sample_size=128,  # what Stable Diffusion's say is not always the model's size
    )
    settings = {"attention_head_dim": 2} | unet
    return {
        "autoencoder": autoencoder,
        "unet": UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=width,
            norm_num_groups=4,
            **settings,
        ),
    }


def clip_pipeline(scheduler: Any, **unet: Any) -> StableDiffusionPipeline:
    config = CLIPTextConfig(
        vocab_size=len(TOKENS), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    parts = networks(16, **unet)
    return StableDiffusionPipeline(
        vae=parts["autoencoder"].eval(),
        text_encoder=CLIPTextModel(config).eval(),
        tokenizer=wordpiece_tokenizer(TOKENS, 77),
        unet=parts["unet"].eval(),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_1() -> StableDiffusionPipeline:
    return clip_pipeline(PNDMScheduler(**BETAS, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1))


def stable_diffusion_2() -> StableDiffusionPipeline:
    scheduler = DDIMScheduler(
        **BETAS, prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=False, steps_offset=1
    )
    return clip_pipeline(scheduler, attention_head_dim=(2, 4), use_linear_projection=True)


def latent_diffusion() -> LDMTextToImagePipeline:
    config = LDMBertConfig(
        vocab_size=len(TOKENS), encoder_layers=1, encoder_ffn_dim=16, encoder_attention_heads=2, head_dim=8, d_model=16
    )
    parts = networks(16)
    return LDMTextToImagePipeline(
        vqvae=parts["autoencoder"].eval(),
        bert=LDMBertModel(config).eval(),
        tokenizer=wordpiece_tokenizer(TOKENS, 512),
        unet=parts["unet"].eval(),
        scheduler=DDIMScheduler(**BETAS, clip_sample=False, set_alpha_to_one=False),
    )


PIPELINES = {"1.x": stable_diffusion_1, "2.x": stable_diffusion_2, "LDM": latent_diffusion}
every_pipeline = pytest.mark.parametrize("make", PIPELINES.values(), ids=PIPELINES)


def quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def controller() -> AutoencoderKL:
    network = networks(16)["autoencoder"]
    for weight in network.decoder.conv_out.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    return network.eval()


@every_pipeline
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_plain_text_to_image_is_the_pipelines_own(make: Callable[[], Any], scale: float) -> None:
    """Same prompt, noise, guidance, DDIM steps: tokens, padding, U-Net, schedule, pixel range and grey all agree."""
    pipe = quiet(make())
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)
    steered = quiet(XRealPipeline.from_pipe(pipe))
    noise = StepNoise([5], (4, 8, 8), CPU, fixed=True).start
    own = pipe(["Edema"], num_inference_steps=5, guidance_scale=scale, latents=noise, output_type="np").images
    drawn = steered(prompt="Edema", seeds=[5], solver="ddim", steps=5, prompt_guidance=scale).images
    assert own.std() > 0.005
    np.testing.assert_allclose(drawn, own.mean(-1), atol=2e-5)
    assert steered.image_size == 64


@every_pipeline
def test_steered_saved_and_opened_draws_the_same(
    make: Callable[[], Any],
    controller: AutoencoderKL,
    organ_mask: np.ndarray,
    lesion_in: Callable[..., Lesion],
    tmp_path: Path,
) -> None:
    """Saved by us, and saved by its own class with an ``anatomy_controller/`` laid beside."""
    pipe = make()
    steered = quiet(XRealPipeline.from_pipe(pipe, controller))
    call = (organ_mask, [lesion_in()], [1])
    drawn = steered(*call, steps=3)
    assert np.abs(drawn.images - steered(None, [lesion_in()], [1], steps=3).images).max() > 1e-3  # the mask matters
    steered.save_pretrained(tmp_path / "ours")
    pipe.save_pretrained(tmp_path / "theirs")
    controller.save_pretrained(tmp_path / "theirs" / "anatomy_controller")
    for folder in (tmp_path / "ours", tmp_path / "theirs"):
        again = quiet(XRealPipeline.from_pretrained(folder))(*call, steps=3)
        np.testing.assert_allclose(drawn.images, again.images, atol=1e-4, err_msg=folder.name)
        np.testing.assert_allclose(drawn.priors, again.priors, atol=1e-4, err_msg=folder.name)


def test_two_passes_run(controller: AutoencoderKL, organ_mask: np.ndarray, lesion_in: Callable[..., Lesion]) -> None:
    steered = quiet(XRealPipeline.from_pipe(stable_diffusion_2(), controller))
    output = steered(organ_mask, [lesion_in()], [1], mode="two-pass", steps=3)
    assert output.healthy is not None
    assert np.abs(output.images - output.healthy).max() > 1e-3
    with pytest.raises(ModelError, match="no anatomy_controller"):
        XRealPipeline.from_pipe(stable_diffusion_2())(organ_mask)


def test_pixels_have_the_range_that_the_configuration_says(tmp_path: Path) -> None:
    """The same network, its range told once as diffusers' and once as [0, 1]: x is seen as 2x − 1, or as x."""
    network = networks(16)["autoencoder"].eval()
    image = torch.rand(1, 1, 64, 64)
    with torch.inference_mode():
        assert pixel_range(network) == (-1, 1)
        signed = encode_image(network, image)
        latents = torch.randn(1, 4, 8, 8)
        raw = network.decode(latents / network.config.scaling_factor).sample
        expected = (raw / 2 + 0.5).clamp(0, 1).mean(1, keepdim=True)
        torch.testing.assert_close(decode_latents(network, latents), expected, atol=1e-6, rtol=0)
        network.register_to_config(_pixel_range=(0.0, 1.0))
        network.save_pretrained(tmp_path)
        opened = AutoencoderKL.from_pretrained(tmp_path)
        assert pixel_range(opened) == (0, 1)
        torch.testing.assert_close(signed, encode_image(opened, 2 * image - 1))
        torch.testing.assert_close(decode_latents(opened, latents), raw.clamp(0, 1).mean(1, keepdim=True))


@pytest.mark.parametrize(
    "scheduler",
    [
        PNDMScheduler(**BETAS),
        DDPMScheduler(**BETAS, prediction_type="v_prediction"),  # clips by default
        DDIMScheduler(**BETAS),  # clips by default
        EulerDiscreteScheduler(**BETAS),
        DPMSolverMultistepScheduler(**BETAS, prediction_type="v_prediction"),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_schedule_keeps_noise_levels_and_target_and_clips_nothing(scheduler: Any) -> None:
    schedule = noise_schedule(scheduler)
    torch.testing.assert_close(schedule.alphas_cumprod, scheduler.alphas_cumprod)
    assert schedule.config.prediction_type == scheduler.config.prediction_type
    assert not schedule.config.clip_sample
    opened = DDIMScheduler.from_config(json.loads(schedule.to_json_string()))
    for make in (EulerDiscreteScheduler, DPMSolverMultistepScheduler):  # saved or not, solvers are made alike
        made = [make.from_config(noise_schedule(each).config) for each in (schedule, opened)]
        for solver in made:
            solver.set_timesteps(7)
        assert torch.equal(made[0].timesteps, made[1].timesteps)


def test_half_precision_is_brought_to_float32() -> None:
    pipe = stable_diffusion_1()
    pipe.unet.half()
    assert XRealPipeline.from_pipe(pipe).unet.dtype == torch.float32


class Foreign(DiffusionPipeline):
    """A pipeline of any components."""

    def __init__(self, **parts: Any) -> None:
        super().__init__()
        self.register_modules(**parts)
        self.parts = parts

    @property
    def components(self) -> dict[str, Any]:
        return self.parts


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"vae": None}, "no vae among"),
        ({"tokenizer": None, "scheduler": None}, "no scheduler, tokenizer among"),
        ({"vae": torch.nn.Linear(1, 1)}, "vae is a Linear; expected AutoencoderKL"),
        ({"unet": torch.nn.Linear(1, 1)}, "unet is a Linear; expected UNet2DConditionModel"),
        ({"unet": networks(16, in_channels=9)["unet"]}, "takes 9 latent channels and returns 4"),
        ({"unet": networks(24)["unet"]}, "embeddings of width 24, the text encoder gives 16"),
        ({"unet": networks(16, num_class_embeds=3)["unet"]}, "class labels"),
        ({"text_encoder_2": torch.nn.Linear(1, 1)}, "second text encoder"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_pipelines_of_another_kind_are_refused(change: dict[str, Any], said: str) -> None:
    parts = stable_diffusion_1().components | change
    with pytest.raises(ModelError, match=said):
        XRealPipeline.from_pipe(Foreign(**parts))


def test_what_is_no_pipeline_is_refused() -> None:
    with pytest.raises(ModelError, match="expected a latent text-to-image pipeline"):
        XRealPipeline.from_pipe("stable-diffusion")


def test_command_line_draws_with_a_stable_diffusion_folder(
    controller: AutoencoderKL, tmp_path: Path, run: Callable[..., int]
) -> None:
    model = tmp_path / "model"
    stable_diffusion_1().save_pretrained(model)
    assert run("generate", "--model", model, "--prompt", "Edema", "--steps", 2, "--out", tmp_path / "out") == 0
    assert (tmp_path / "out" / "0000.png").exists()


def test_anatomy_controller_is_trained_for_a_stable_diffusion_autoencoder(
    phantom_data: Path, tmp_path: Path, organ_mask: np.ndarray, run: Callable[..., int]
) -> None:
    """Into its folder, which stays one of Stable Diffusion and now draws from organ masks."""
    model = tmp_path / "model"
    stable_diffusion_1().save_pretrained(model)
    index = (model / "model_index.json").read_text()
    arguments = ("--data", phantom_data, "--preset", "tiny", "--autoencoder", model, "--out", model)
    assert run("train", "anatomy", *arguments) == 0
    assert (model / "model_index.json").read_text() == index
    config = json.loads((model / "anatomy_controller" / "config.json").read_text())
    assert config["in_channels"] == 3
    steered = quiet(XRealPipeline.from_pretrained(model))
    priors = steered(organ_mask, seeds=[1], steps=2).priors
    assert priors.shape == (1, 64, 64)
    assert type(quiet(DiffusionPipeline.from_pretrained(model))) is StableDiffusionPipeline
    assert PRESETS["tiny"].image_size == steered.image_size
    assert Finding.PNEUMONIA.value.lower() in TOKENS
