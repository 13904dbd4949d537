"""Stages by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import PartialState

from xreal.config import Preset
from xreal.data.prepared import PreparedDataset
from xreal.errors import InputError, TrainingError
from xreal.models.folder import load_autoencoder, load_component, start_from
from xreal.models.precision import default_device
from xreal.training.stage import Stage

__all__ = ["STAGES", "build_stage"]

STAGES = (
    "segmenter",
    "autoencoder",
    "backbone",
    "anatomy",
    "adapter",
    "joint",
    "autoguidance",
    "adversarial",
    "decoder",
    "detail",
    "texture",
    "concat",
    "controlnet",
    "judge-segmenter",
    "encoder",
)


def build_stage(
    name: str,
    preset: Preset,
    data: Sequence[Path],
    out: Path,
    autoencoder: Path | None = None,
    start: Path | None = None,
    weak: Path | None = None,
) -> Stage:
    """Make a stage ready to train.

    Args:
        name: one of ``STAGES``.
        preset: sizes and lengths.
        data: prepared folders.
        out: model folder that the stage adds its component to.
        autoencoder: model folder, ours or of another latent pipeline such as Stable Diffusion, whose autoencoder the
            stage works with; default ``out``.
        start: model folder whose weights training begins with.
        weak: model folder that "autoguidance" guides away from.

    Raises:
        InputError: unknown stage, a folder that it lacks or does not take, or X-rays or an autoencoder that the preset
            does not fit.
        TrainingError: the autoencoder is needed and not there.
    """
    if (weak is not None) != (name == "autoguidance"):
        raise InputError("--weak is a weaker model, which the stage autoguidance needs and no other takes")
    _check_sizes(name, preset, data)
    PartialState(cpu=default_device().type == "cpu")  # each process takes its own device before anything is placed
    # Each stage imports what it needs: the segmenter's does not wait for diffusers, nor the others' for MONAI.
    if name == "segmenter":
        from xreal.training.segmenter import SegmenterStage

        return _started(SegmenterStage(preset, data), start, "segmenter")
    if name == "autoencoder":
        from xreal.training.autoencoder import AutoencoderStage

        return _started(AutoencoderStage(preset, data), start, "vae")
    cache = out / "training" / name / "latents"
    if name == "backbone":
        from xreal.training.backbone import BackboneStage

        vae = _autoencoder(autoencoder or out)
        _check_latents(preset, vae)
        return BackboneStage(preset, data, vae, cache, start)
    if name == "concat":
        from xreal.training.concat import ConcatStage

        _refuse_backbone(out, name)
        concat = ConcatStage(preset, data, _autoencoder(autoencoder or out), cache, start)
        if autoencoder is not None:
            known = {"detail": "DetailGenerator", "signal_leak": "SignalLeak", "texture": "Texture"}
            kept = {name: kind for name, kind in known.items() if (autoencoder / name).is_dir()}
            concat.beside = {name: load_component(autoencoder, name, kind) for name, kind in kept.items()}
        return concat
    if name in ("adapter", "joint"):
        from xreal.training.steering import AdapterStage, JointStage

        if start is not None and start != out:
            _refuse_backbone(out, name)
        kind = AdapterStage if name == "adapter" else JointStage
        return kind(preset, data, start or out, cache)
    if name in ("autoguidance", "adversarial"):
        if start is None or start == out:
            raise InputError(f"{name} changes a trained model; give --start FOLDER and another --out")
        if not (start / "anatomy_adapter").is_dir():
            raise TrainingError(f"{start} holds no anatomy_adapter/; run `xreal train adapter` or `joint` first")
        _refuse_backbone(out, name)
        if weak is not None:
            from xreal.training.autoguidance import AutoguidanceStage

            return AutoguidanceStage(preset, data, start, weak, cache)
        from xreal.training.adversarial import AdversarialStage

        return AdversarialStage(preset, data, start, cache)
    if name == "controlnet":
        from xreal.training.steering import ControlNetStage

        if start is None:
            raise InputError("a ControlNet steers a trained model; give --start FOLDER, or --start cxr-256")
        _refuse_backbone(out, name)
        return ControlNetStage(preset, data, start, cache)
    if name == "anatomy":
        from xreal.training.anatomy import AnatomyStage

        return _started(AnatomyStage(preset, data, _autoencoder(autoencoder or out)), start, "anatomy_controller")
    if name == "decoder":
        from xreal.training.decoder import DecoderStage

        return DecoderStage(preset, data, _autoencoder(autoencoder or start or out))
    if name == "detail":
        from xreal.training.detail import DetailStage

        model = autoencoder or start or out
        return _started(DetailStage(preset, data, _autoencoder(model), model, cache.parent), start, name)
    if name == "texture":
        from xreal.training.texture import TextureStage

        place = autoencoder or out
        drawn = load_component(place, "detail", "DetailGenerator") if (place / "detail").is_dir() else None
        return _started(TextureStage(preset, data, _autoencoder(place), drawn), start, "texture")
    if name == "judge-segmenter":
        from xreal.training.segmenter import JudgeSegmenterStage

        return _started(JudgeSegmenterStage(preset, data), start, "judge_segmenter")
    if name == "encoder":
        from xreal.training.encoder import EncoderStage

        return _started(EncoderStage(preset, data), start, "encoder")
    raise InputError(f"unknown stage {name!r}; expected one of {', '.join(STAGES)}")


def _check_sizes(name: str, preset: Preset, data: Sequence[Path]) -> None:
    """Refuse X-rays of another size than the networks that are begun with.

    Raises:
        InputError: as above.
    """
    if name in ("segmenter", "autoencoder", "backbone"):
        side = PreparedDataset(data, "train")[0].image.shape[0]
        if side != preset.image_size:
            raise InputError(
                f"the X-rays have {side} pixels a side, the preset {preset.name} is for {preset.image_size}; prepare "
                "them with that --image-size, or choose another --preset"
            )


def _check_latents(preset: Preset, autoencoder: Any) -> None:
    """Refuse an autoencoder of other latents than the preset's U-Net draws.

    Raises:
        InputError: as above.
    """
    theirs, ours = int(autoencoder.config.latent_channels), preset.autoencoder.latent_channels
    if theirs != ours:
        raise InputError(
            f"the autoencoder has {theirs} latent channels, the preset {preset.name} {ours}; choose another --preset, "
            "or train an autoencoder with this one"
        )


def _refuse_backbone(out: Path, name: str) -> None:
    """Keep a baseline from changing what a model of another kind draws.

    Raises:
        TrainingError: ``out`` holds a U-Net that was not written by this stage.
    """
    if (out / "unet").is_dir() and not (out / "training" / name).is_dir():
        raise TrainingError(f"{out} holds another model's unet/; give an --out of its own to {name}")


def _started(stage: Stage, start: Path | None, component: str) -> Stage:
    if start is not None:
        start_from(stage.network, start / component)
    return stage


def _autoencoder(folder: Path) -> Any:
    autoencoder = load_autoencoder(folder)
    if autoencoder is None:
        raise TrainingError(f"{folder} holds no vae/; run `xreal train autoencoder` with this --out first")
    return autoencoder
