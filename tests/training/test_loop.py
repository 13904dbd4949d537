"""Training: every stage runs and exports, a killed run goes on as if nothing had happened, nothing is lost silently."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from xreal.config import PRESETS, Preset
from xreal.errors import DataError, InputError, TrainingError
from xreal.masks.lesions import Lesion
from xreal.models.folder import read_index
from xreal.pipeline import XRealPipeline
from xreal.training.loop import _generator, draw_indices, learning_rate_factor, train
from xreal.training.stage import Loss
from xreal.training.stages import build_stage

TINY = PRESETS["tiny"]
EXPORTS = {
    "segmenter": ["segmenter"],
    "autoencoder": ["vae"],
    "backbone": ["unet", "text_encoder", "tokenizer", "scheduler"],
    "anatomy": ["anatomy_controller"],
    "decoder": ["vae"],
    "judge-segmenter": ["judge_segmenter"],
    "encoder": ["encoder"],
}


class Killed(Exception):
    """Stands for a kill in the middle of a run."""


def run(stage: str, data: Path, out: Path, preset: Preset = TINY, vae: Path | None = None, **options: Any) -> Any:
    """Train as `xreal train` does; weights may not depend on what the process drew before."""
    torch.manual_seed(int.from_bytes(str(out).encode()[-2:]))
    return train(build_stage(stage, preset, [data], out, vae), out, mixed_precision="no", **options)


def kill_at(wanted: int) -> Callable[[int, int, dict[str, float]], None]:
    def report(step: int, total: int, parts: dict[str, float]) -> None:
        if step == wanted:
            raise Killed

    return report


def exported(out: Path) -> dict[str, torch.Tensor]:
    return {
        f"{path.parent.name}.{name}": tensor
        for path in sorted(out.glob("*/*.safetensors"))
        for name, tensor in load_file(path).items()
    }


@pytest.fixture(scope="module")
def trained(phantom_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hold a model made by all stages, one after another, without interruption; ``before/``: its first ``vae/``."""
    out = tmp_path_factory.mktemp("trained")
    for name in EXPORTS:
        if name == "decoder":
            shutil.copytree(out / "vae", out / "before" / "vae")
        metrics = run(name, phantom_data, out)
        assert metrics
        assert all(np.isfinite(value) for value in metrics.values())
        assert [part for part in EXPORTS[name] if not (out / part).is_dir()] == []
    return out


def test_stages_leave_their_records(trained: Path) -> None:
    for name in EXPORTS:
        folder = trained / "training" / name
        config = json.loads((folder / "config.json").read_text())
        assert config["preset"]["name"] == "tiny"
        assert config["stage"]["steps"] == 4
        assert [json.loads(line)["step"] for line in (folder / "log.jsonl").read_text().splitlines()] == [4]
        assert (folder / "step-0000004.png").stat().st_size > 1000
        assert list(folder.rglob("events.out.tfevents.*"))
        assert {path.name for path in folder.glob("checkpoint*")} == {"checkpoint"}


def test_decoder_is_sharpened_and_latents_stay(trained: Path) -> None:
    old, new = (exported(folder) for folder in (trained / "before", trained))
    changed = {key.split(".")[1] for key in old if not torch.equal(old[key], new[key])}
    assert changed == {"decoder", "patch_decoder", "post_quant_conv"}


def test_trained_model_draws(trained: Path, organ_mask: np.ndarray, lesion_in: Callable[..., Lesion]) -> None:
    from xreal.models.folder import write_index

    assert write_index(trained)
    judges = {"judge_segmenter", "encoder"}  # lie beside the model, not in it
    assert read_index(trained).keys() == {name for names in EXPORTS.values() for name in names} - judges
    pipeline = XRealPipeline.from_pretrained(trained)
    pipeline.set_progress_bar_config(disable=True)
    output = pipeline(organ_mask, [lesion_in()], [1, 2], steps=3)
    assert output.images.std() > 0.01
    assert pipeline.vae.config.scaling_factor != 1.0


@pytest.mark.parametrize("name", EXPORTS)
def test_killed_run_goes_on_to_the_same_weights(name: str, trained: Path, phantom_data: Path, tmp_path: Path) -> None:
    vae = trained / "before" if name in ("backbone", "anatomy", "decoder") else None
    with pytest.raises(Killed):
        run(name, phantom_data, tmp_path, vae=vae, report=kill_at(3))
    assert not any((tmp_path / part).exists() for part in EXPORTS[name])
    steps: list[int] = []
    run(name, phantom_data, tmp_path, vae=vae, resume=True, report=lambda step, *_: steps.append(step))
    assert steps == [3, 4]  # the checkpoint after step 2 is the last one
    ours = exported(tmp_path)
    final = trained / "before" if name == "autoencoder" else trained
    theirs = {key: value for key, value in exported(final).items() if key.split(".")[0] in EXPORTS[name]}
    assert ours.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert torch.equal(ours[key], tensor), key
    for part in EXPORTS[name]:
        for path in (final / part).glob("*.json"):
            assert (tmp_path / part / path.name).read_text() == path.read_text()
            assert str(trained) not in path.read_text()


def test_run_out_of_time_stops_with_a_checkpoint_and_goes_on(trained: Path, phantom_data: Path, tmp_path: Path) -> None:
    for expected in (1, 2):
        metrics = run("segmenter", phantom_data, tmp_path, resume=expected > 1, max_minutes=0)
        assert metrics.keys() == {"dice left lung", "dice right lung", "dice heart"}
        log = (tmp_path / "training/segmenter/log.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in log] == list(range(1, expected + 1))
        assert (tmp_path / "segmenter").is_dir()
    run("segmenter", phantom_data, tmp_path, resume=True)
    ours, theirs = exported(tmp_path), exported(trained)
    for key, tensor in ours.items():
        assert torch.equal(theirs[key], tensor), key


def test_a_run_killed_in_its_last_validation_is_exported_when_it_goes_on(
    phantom_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run("segmenter", phantom_data, tmp_path / "whole")

    def killed(self: object) -> dict[str, float]:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("xreal.training.segmenter.SegmenterStage.validate", killed)
        with pytest.raises(Killed):
            run("segmenter", phantom_data, tmp_path / "run")
    assert not (tmp_path / "run/segmenter").exists()
    assert run("segmenter", phantom_data, tmp_path / "run", resume=True) == pytest.approx(whole)
    for name, tensor in exported(tmp_path / "whole").items():
        assert torch.equal(exported(tmp_path / "run")[name], tensor), name


def test_samples_and_noise_of_no_two_parts_come_from_one_seed() -> None:
    streams = {(step, stream) for step in range(4) for stream in range(300)}
    seeds = {_generator(0, *one).initial_seed() for one in streams}
    assert len(seeds) == len(streams)


def test_kill_while_a_checkpoint_is_replaced_loses_nothing(phantom_data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "training/segmenter"
    with pytest.raises(Killed):
        run("segmenter", phantom_data, tmp_path, report=kill_at(3))
    (folder / "checkpoint").rename(folder / "checkpoint.old")  # after the first rename of a save, before the second
    (folder / "checkpoint.new").mkdir()
    (folder / "checkpoint.new" / "half").touch()
    steps: list[int] = []
    run("segmenter", phantom_data, tmp_path, resume=True, report=lambda step, *_: steps.append(step))
    assert steps == [3, 4]
    assert {path.name for path in folder.glob("checkpoint*")} == {"checkpoint"}
    assert not (folder / "checkpoint" / "half").exists()


def test_existing_run_is_not_overwritten(trained: Path, phantom_data: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.is_file()}
    with pytest.raises(TrainingError, match=r"already holds a run; give --resume"):
        run("segmenter", phantom_data, trained)
    assert before == {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.is_file()}


def test_nothing_to_resume(phantom_data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="holds no checkpoint to resume from"):
        run("segmenter", phantom_data, tmp_path, resume=True)


def test_runs_of_one_process_may_differ_in_precision(phantom_data: Path, tmp_path: Path) -> None:
    for precision in ("bf16", "no"):
        out = tmp_path / precision
        train(build_stage("segmenter", TINY, [phantom_data], out), out, mixed_precision=precision)
        about = json.loads((out / "training" / "segmenter" / "config.json").read_text())["run"]
        assert about["mixed_precision"] == precision


@pytest.mark.parametrize("name", ["autoencoder", "anatomy", "decoder"])
def test_autoencoders_compute_in_the_precision_asked_for(
    name: str, phantom_data: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    """They are called by ``encode`` and ``decode``, which accelerate does not see."""
    stage = build_stage(name, TINY, [phantom_data], tmp_path, tiny_model_folder)
    kinds = set()
    convolution = next(part for part in stage.network.decoder.modules() if isinstance(part, torch.nn.Conv2d))
    convolution.register_forward_hook(lambda module, inputs, output: kinds.add((module.training, output.dtype)))
    train(stage, tmp_path, mixed_precision="bf16")
    assert (True, torch.bfloat16) in kinds
    assert (True, torch.float32) not in kinds


def test_loss_that_is_not_finite_stops_the_run(phantom_data: Path, tmp_path: Path) -> None:
    stage = build_stage("segmenter", TINY, [phantom_data], tmp_path)
    losses = stage.losses

    def diverge(batch: Any, step: int, generator: torch.Generator) -> Iterator[Loss]:
        for loss in losses(batch, step, generator):
            yield replace(loss, value=loss.value * float("nan")) if step == 2 else loss

    stage.losses = diverge  # type: ignore[method-assign]
    with pytest.raises(TrainingError, match="segmenter: the loss is nan at step 2; resume with a lower"):
        train(stage, tmp_path, mixed_precision="no")
    assert (tmp_path / "training/segmenter/checkpoint").is_dir()


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("lora", InputError, "unknown stage 'lora'; expected one of segmenter, autoencoder, backbone"),
        ("backbone", TrainingError, "holds no vae/; run `xreal train autoencoder`"),
        ("anatomy", TrainingError, "holds no vae/"),
        ("decoder", TrainingError, "holds no vae/"),
    ],
)
def test_stage_is_refused(name: str, error: type[Exception], said: str, phantom_data: Path, tmp_path: Path) -> None:
    with pytest.raises(error, match=said):
        build_stage(name, TINY, [phantom_data], tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["segmenter", "anatomy"])
def test_stages_on_masks_need_masks(name: str, phantom_folder: Path, trained: Path, tmp_path: Path) -> None:
    from xreal.data.prepare import prepare

    prepare("folder", phantom_folder, tmp_path / "bare", 64)
    with pytest.raises(DataError, match="organ mask"):
        build_stage(name, TINY, [tmp_path / "bare"], trained)


def test_learning_rate_rises_stays_and_falls() -> None:
    factors = [learning_rate_factor(step, 100, 10) for step in range(100)]
    np.testing.assert_allclose(factors[:10], np.arange(1, 11) / 10)
    assert set(factors[9:71]) == {1.0}
    np.testing.assert_allclose(factors[70:], np.arange(30, 0, -1) / 30)
    assert learning_rate_factor(0, 100, 0) == 1
    assert learning_rate_factor(100, 100, 10) == 0
    assert all(0 < learning_rate_factor(step, 4, 1) <= 1 for step in range(4))


def test_samples_are_drawn_by_weight_step_and_seed() -> None:
    weights = torch.tensor([0.0, 1.0, 3.0])
    drawn = [index for step in range(500) for index in draw_indices(weights, 8, step, seed=0)]
    counts = np.bincount(drawn, minlength=3) / len(drawn)
    np.testing.assert_allclose(counts, [0, 0.25, 0.75], atol=0.03)
    even = torch.ones(1000)
    assert draw_indices(even, 8, 5, 0) == draw_indices(even, 8, 5, 0)
    assert len({tuple(draw_indices(even, 8, step, seed)) for step in range(5) for seed in range(5)}) == 25


def test_only_the_network_of_the_stage_is_compiled(
    phantom_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, **how: compiled.append((module, how)))
    stage = build_stage("autoencoder", TINY, [phantom_data], tmp_path)
    train(stage, tmp_path, mixed_precision="no", compiled=True)
    assert len(stage.networks) == 2  # the discriminator stays as it is
    assert compiled == [(stage.network, {"dynamic": False})]
