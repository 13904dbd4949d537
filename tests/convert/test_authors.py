"""Checkpoints in the authors' layout: the same numbers come out, nothing is dropped unnamed, wrong files are named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from xreal.control.anatomy import draw_prior
from xreal.convert import convert_authors, plan_authors
from xreal.errors import ModelError, OutputError
from xreal.masks.lesions import Lesion
from xreal.models.autoencoder import encode_image, pixel_range
from xreal.models.text_encoder import encode_prompts, tokenize
from xreal.pipeline import XRealPipeline

Release = Any  # the files, and the networks that they were made of: see conftest
Edit = Callable[[dict[str, Any]], object]
SIZE = 64
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def release(make_release: Callable[..., Release], tmp_path_factory: pytest.TempPathFactory) -> Release:
    return make_release(tmp_path_factory.mktemp("release"))


@pytest.fixture(scope="module")
def folder(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("converted") / "model"
    convert_authors(*release.files, out, image_size=SIZE)
    return out


@pytest.fixture
def broken(release: Release, tmp_path: Path) -> Callable[[str, Edit], Release]:
    """Return a function that copies the release with one file's tensors changed."""

    def change(name: str, edit: Edit) -> Release:
        copy = release.copy(tmp_path)
        content = torch.load(tmp_path / name, weights_only=True)
        edit(content["state_dict"])
        torch.save(content, tmp_path / name)
        return copy

    return change


def assert_close(given: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-5)


def assert_same_networks(pipeline: XRealPipeline, release: Release) -> None:
    """Compare all networks by what they compute."""
    torch.manual_seed(1)
    image, latents = torch.rand(1, 3, SIZE, SIZE), torch.randn(2, 3, 16, 16)
    input_ids = torch.randint(0, release.vocabulary, (2, release.length))
    with torch.inference_mode():
        posterior, expected = (network.encode(image).latent_dist for network in (pipeline.vae, release.vae))
        assert_close(posterior.mean, expected.mean)
        assert_close(posterior.logvar, expected.logvar)
        assert_close(pipeline.vae.decode(latents).sample, release.vae.decode(latents).sample)
        organ_mask = torch.randint(0, 5, (1, SIZE, SIZE), dtype=torch.uint8)
        eaten = (organ_mask[:, None] / 4).expand(-1, 3, -1, -1)
        mode = release.controller.encode(eaten).latent_dist.mode()
        prior = release.controller.decode(mode).sample.clamp(0, 1)
        assert_close(draw_prior(pipeline.anatomy_controller, organ_mask), prior)
        embeds = release.encode_text(input_ids)
        assert_close(pipeline.text_encoder(input_ids)[0], embeds)
        for timestep in (1, 500, 991):
            given, wanted = (
                network(latents, torch.tensor(timestep), embeds).sample for network in (pipeline.unet, release.unet)
            )
            assert_close(given, wanted)


def test_networks_compute_the_same(release: Release, folder: Path) -> None:
    assert_same_networks(XRealPipeline.from_pretrained(folder), release)


def test_other_sizes_are_read_off_the_tensors(make_release: Callable[..., Release], tmp_path: Path) -> None:
    """Two levels, two blocks a level, without the buffers, in half precision, and not of Lightning."""
    release = make_release(tmp_path / "release", seed=9, levels=(32, 64), layers=2)
    for path in release.files[:3]:
        state = torch.load(path, weights_only=True)["state_dict"]
        kept = {key: value for key, value in state.items() if "." in key and "model_ema" not in key}
        torch.save({key: value.half() for key, value in kept.items()}, path)
    for network in (release.vae, release.controller, release.unet):
        network.half().float()
    convert_authors(*release.files, tmp_path / "model", image_size=SIZE)
    pipeline = XRealPipeline.from_pretrained(tmp_path / "model")
    assert pipeline.image_size == SIZE
    torch.manual_seed(1)
    image, latents = torch.rand(1, 3, SIZE, SIZE), torch.randn(1, 3, 32, 32)
    embeds = torch.randn(1, release.length, release.width)
    with torch.inference_mode():
        posterior, expected = (network.encode(image).latent_dist for network in (pipeline.vae, release.vae))
        assert_close(posterior.mean, expected.mean)
        given, wanted = (network(latents, 500, embeds).sample for network in (pipeline.unet, release.unet))
        assert_close(given, wanted)


def test_configuration_carries_the_authors_conventions(release: Release, folder: Path) -> None:
    pipeline = XRealPipeline.from_pretrained(folder)
    assert pixel_range(pipeline.vae) == pixel_range(pipeline.anatomy_controller) == (0, 1)
    assert pipeline.vae.config.scaling_factor == 0.18215
    schedule = pipeline.scheduler
    schedule.set_timesteps(100)
    assert schedule.timesteps.tolist() == list(range(991, 0, -10))
    betas = torch.linspace(0.0015**0.5, 0.0295**0.5, 1000, dtype=torch.float64) ** 2
    torch.testing.assert_close(schedule.alphas_cumprod.double(), (1 - betas).cumprod(0), rtol=1e-4, atol=0)
    assert schedule.final_alpha_cumprod == schedule.alphas_cumprod[0]
    assert schedule.config.prediction_type == "epsilon"
    ids = tokenize(pipeline.tokenizer, ["Pneumonias edema xyz", ""])
    words = [2, *(release.tokens.index(token) for token in ("pneu", "##monia", "##s", "edema", "[UNK]")), 3]
    assert ids.tolist() == [words + [0] * (release.length - len(words)), [2, 3] + [0] * (release.length - 2)]
    with torch.inference_mode():  # padding is attended to
        embeds = encode_prompts(pipeline.tokenizer, pipeline.text_encoder, ["edema"], CPU)
        assert_close(embeds, release.encode_text(tokenize(pipeline.tokenizer, ["edema"])))
        grey = torch.rand(1, 1, SIZE, SIZE)
        mean = release.vae.encode(grey.expand(-1, 3, -1, -1)).latent_dist.mean
        assert_close(encode_image(pipeline.vae, grey), 0.18215 * mean)


def test_all_channels_reach_the_autoencoder(release: Release, folder: Path) -> None:
    """The original hands the controller's three channels on as they are; they are made grey in what is handed out."""
    pipeline = XRealPipeline.from_pretrained(folder)
    colours = torch.rand(1, 3, SIZE, SIZE)
    with torch.inference_mode():
        assert_close(encode_image(pipeline.vae, colours), 0.18215 * release.vae.encode(colours).latent_dist.mean)


def test_stored_scale_factor_wins(
    broken: Callable[[str, Edit], Release],
) -> None:
    changed = broken("backbone.pth", lambda state: state.update(scale_factor=torch.tensor(0.25)))
    plan = plan_authors(*changed.files, image_size=SIZE)
    assert [part.network.config.scaling_factor for part in plan.components[:2]] == [0.25, 0.25]


def test_every_tensor_is_used_or_named(release: Release) -> None:
    plan = plan_authors(*release.files, image_size=SIZE)
    used = [f"{c.weights.path.name}: {c.weights.prefix}{key}" for c in plan.components for key in c.keys.values()]
    stored = {
        f"{path.name}: {key}" for path in release.files[:3] for key in torch.load(path, weights_only=True)["state_dict"]
    }
    assert len(used) == len(set(used))
    assert set(used) | plan.unused.keys() == stored
    assert not set(used) & plan.unused.keys()
    text = "\n".join(plan.lines())
    assert all(key in text for key in stored)


@pytest.mark.parametrize(
    ("file", "edit", "said"),
    [
        (
            "ldm_ae.pth",
            lambda s: s.pop("decoder.conv_in.bias"),
            "lacks weights of vae: decoder.conv_in.bias",
        ),
        ("ldm_ae.pth", lambda s: s.pop("encoder.conv_in.weight"), r"ldm_ae.pth lacks encoder.conv_in.weight"),
        (
            "anatomy_controller.pth",
            lambda s: s.update({"encoder.extra": torch.zeros(1)}),
            "anatomy_controller.pth holds tensors that anatomy_controller has no place for: encoder.extra",
        ),
        ("ldm_ae.pth", lambda s: s.update(other=torch.zeros(1)), "not of the authors' layout: other"),
        (
            "backbone.pth",
            lambda s: s.update({"model.diffusion_model.out.2.bias": torch.zeros(5)}),
            r"model.diffusion_model.out.2.bias is \(5,\), expected \(3,\)",
        ),
        (
            "backbone.pth",
            lambda s: s.update({"model.diffusion_model.label_emb.weight": torch.zeros(5, 5)}),
            "no place for: model.diffusion_model.label_emb.weight",
        ),
        (
            "backbone.pth",
            lambda s: s.pop("cond_stage_model.transformer.norm.bias"),
            "backbone.pth lacks weights of text_encoder: model.layer_norm.bias",
        ),
        ("backbone.pth", lambda s: s["betas"][400:].mul_(2), "not linear in √β"),
        ("backbone.pth", lambda s: s.update(hyper=3), "hyper are something else"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_tensors_that_do_not_fit_are_named(
    broken: Callable[[str, Edit], Release],
    file: str,
    edit: Edit,
    said: str,
) -> None:
    with pytest.raises(ModelError, match=said):
        plan_authors(*broken(file, edit).files, image_size=SIZE)


def test_wrong_and_damaged_files_are_named(release: Release, tmp_path: Path) -> None:
    half = tmp_path / "half.pth"
    half.write_bytes(release.autoencoder.read_bytes()[: release.autoencoder.stat().st_size // 2])
    text = tmp_path / "text.pth"
    text.write_text("weights")
    empty = tmp_path / "empty.pth"
    torch.save({"state_dict": {}}, empty)
    backbone, autoencoder, controller, vocab = release.files
    for files, said in [
        ((backbone, half, controller, vocab), "half.pth is truncated or no PyTorch checkpoint"),
        ((text, autoencoder, controller, vocab), "text.pth is no PyTorch checkpoint"),
        ((empty, autoencoder, controller, vocab), "empty.pth holds no state_dict"),
        ((tmp_path / "none.pth", autoencoder, controller, vocab), "none.pth is no file"),
        ((autoencoder, autoencoder, controller, vocab), "ldm_ae.pth holds nothing of the backbone"),
        ((backbone, backbone, controller, vocab), "backbone.pth holds nothing of an autoencoder"),
        ((backbone, autoencoder, controller, backbone), "cannot be read as a vocabulary"),
    ]:
        with pytest.raises(ModelError, match=said):
            plan_authors(*files, image_size=SIZE)
    with pytest.raises(ModelError, match="image size 60 is no multiple of 16"):
        plan_authors(*release.files, image_size=60)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_changed_byte_is_noticed(share: float, release: Release, tmp_path: Path) -> None:
    copy = release.copy(tmp_path)
    content = bytearray(copy.anatomy_controller.read_bytes())
    content[int(share * len(content))] ^= 0xFF
    copy.anatomy_controller.write_bytes(content)
    with pytest.raises(ModelError, match=r"anatomy_controller.pth is (damaged|truncated)"):
        plan_authors(*copy.files, image_size=SIZE)


def test_numbers_that_are_none_are_named(broken: Callable[[str, Edit], Release]) -> None:
    def spoil(tensors: dict[str, Any]) -> None:
        tensors["decoder.conv_in.bias"][0] = float("nan")

    with pytest.raises(ModelError, match=r"ldm_ae.pth holds NaN or infinity in decoder.conv_in.bias"):
        plan_authors(*broken("ldm_ae.pth", spoil).files, image_size=SIZE)


class Intruder:
    """What a pickle may hold that runs code when it is opened."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("raise SystemExit('opened')",)


def test_pickles_run_no_code(release: Release, tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.zeros(1)}, "hook": Intruder()}, tmp_path / "evil.pth")
    with pytest.raises(ModelError, match=r"evil.pth .* holds Python objects"):
        plan_authors(tmp_path / "evil.pth", *release.files[1:], image_size=SIZE)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda tokens: tokens[1:], r"lacks \[PAD\]"),
        (lambda tokens: [tokens[1], tokens[0], *tokens[2:]], r"begins with '\[UNK\]'"),
        (lambda tokens: [*tokens, "edema"], "names tokens twice: edema"),
        (lambda tokens: [*tokens, *(f"t{i}" for i in range(40))], "48 tokens, the text encoder has embeddings of 40"),
    ],
    ids=["no padding", "padding not 0", "twice", "too many"],
)
def test_vocabulary_is_checked(
    release: Release, tmp_path: Path, edit: Callable[[list[str]], list[str]], said: str
) -> None:
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(edit(release.tokens)) + "\n", encoding="utf-8")
    with pytest.raises(ModelError, match=said):
        plan_authors(*release.files[:3], path, image_size=SIZE)


def test_folder_appears_whole_or_not_at_all(release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "model"

    def killed(folder: Path) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("xreal.convert.authors.write_index", killed)
        with pytest.raises(KeyboardInterrupt):
            convert_authors(*release.files, out, image_size=SIZE)
    assert not out.exists()
    convert_authors(*release.files, out, image_size=SIZE)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    with pytest.raises(OutputError, match="already holds files"):
        convert_authors(*release.files, out, image_size=SIZE)


def options(release: Release) -> list[object]:
    names = ("--backbone", "--autoencoder", "--anatomy-controller", "--vocab")
    pairs = zip(names, release.files, strict=True)
    return ["convert", "authors", *(value for pair in pairs for value in pair), "--image-size", SIZE]


def test_command_line_prints_the_map_or_converts(
    release: Release, tmp_path: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model"
    assert run(*options(release), "--out", out, "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "model.diffusion_model.out.2.bias (3) -> unet/conv_out.bias" in shown
    assert "backbone.pth: model_ema.decay -> not used: moving average" in shown
    assert not out.exists()
    assert run(*options(release), "--out", out) == 0
    assert "is a complete model" in capsys.readouterr().out
    assert run("generate", "--model", out, "--steps", 2, "--out", tmp_path / "drawn") == 0
    assert (tmp_path / "drawn" / "0000.png").exists()


def test_both_passes_run(folder: Path, organ_mask: np.ndarray, lesion_in: Callable[..., Lesion]) -> None:
    pipeline = XRealPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    output = pipeline(organ_mask, [lesion_in()], [1], mode="two-pass", steps=2)
    assert output.healthy is not None
    assert np.isfinite(output.images).all()
    assert np.abs(output.images - output.healthy).max() > 1e-3
