"""Several processes train as one does: the same losses and weights, for every stage, on any number of processes."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from xreal.config import PRESETS
from xreal.errors import InputError
from xreal.models.folder import load_component
from xreal.models.organs import build_adapter
from xreal.training.loop import train
from xreal.training.parallel import count_parts
from xreal.training.stages import STAGES, build_stage

STEERING = ("adapter", "joint", "autoguidance", "adversarial", "controlnet")  # stages that start from a model
TRAJECTORIES = 64

# Trains each stage named, two steps of four samples in parts of two, as `xreal train` does; prints nothing.
SCRIPT = """
import sys
from pathlib import Path
import torch
import xreal.training.adversarial
from xreal.config import PRESETS
from xreal.training.loop import train
from xreal.training.stages import build_stage
xreal.training.adversarial._TRAJECTORIES = 64
torch.set_num_threads(1)
torch.distributed.destroy_process_group = lambda *_: None  # one stage after another in the same processes
data, model, out, steps, resume, *names = sys.argv[1:]
for name in names:
    folder = Path(out) / name
    preset = PRESETS["tiny"].with_stage(name, batch_size=4, steps=4, checkpoint_every=2)
    start = Path(model) if name in ("adapter", "joint", "autoguidance", "adversarial", "controlnet") else None
    weak = Path(model) if name == "autoguidance" else None
    stage = build_stage(name, preset, [Path(data)], folder, Path(model), start, weak)
    def stop(step, total, parts):
        if step > int(steps):
            raise SystemExit(0)
    try:
        train(stage, folder, mixed_precision="no", micro_batch_size=2, resume=resume == "resume", report=stop)
    except SystemExit:
        pass
"""


def weak_of(name: str, model: Path) -> Path | None:
    return model if name == "autoguidance" else None


def launch(processes: int, *arguments: object) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command += [str(argument) for argument in arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


def log(folder: Path, name: str) -> dict[str, float]:
    last: dict[str, float] = json.loads((folder / name / "training" / name / "log.jsonl").read_text().splitlines()[-1])
    return {key: value for key, value in last.items() if key != "minutes"}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted(folder.glob("*/*.safetensors"))
    return {f"{path.parent.name}.{key}": value for path in files for key, value in load_file(path).items()}


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("script") / "stages.py"
    path.write_text(SCRIPT)
    return path


@pytest.fixture(scope="module", autouse=True)
def few_trajectories() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xreal.training.adversarial._TRAJECTORIES", TRAJECTORIES)
        yield


@pytest.fixture(scope="module")
def model(tiny_model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with an adapter beside it, untrained."""
    folder = shutil.copytree(tiny_model_folder, tmp_path_factory.mktemp("adapted") / "model")
    unet = load_component(folder, "unet", "UNet2DConditionModel")
    torch.manual_seed(0)
    build_adapter(unet, 8).save_pretrained(folder / "anatomy_adapter")
    return Path(folder)


@pytest.fixture(scope="module")
def alone(phantom_data: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every stage, trained by one process in two parts."""
    out = tmp_path_factory.mktemp("alone")
    for name in STAGES:
        preset = PRESETS["tiny"].with_stage(name, batch_size=4, steps=4, checkpoint_every=2)
        start = model if name in STEERING else None
        stage = build_stage(name, preset, [phantom_data], out / name, model, start, weak_of(name, model))
        train(stage, out / name, mixed_precision="no", micro_batch_size=2)
    return out


@pytest.mark.slow
def test_two_processes_do_what_one_does(
    script: Path, alone: Path, phantom_data: Path, model: Path, tmp_path: Path
) -> None:
    launch(2, script, phantom_data, model, tmp_path, 4, "new", *STAGES)
    for name in STAGES:
        assert log(tmp_path, name) == pytest.approx(log(alone, name), rel=1e-4, abs=1e-5, nan_ok=True), name
        ours, theirs = weights(tmp_path / name), weights(alone / name)
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            torch.testing.assert_close(ours[key], value, rtol=1e-3, atol=2e-4, msg=f"{name} {key}")


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(
    script: Path, alone: Path, phantom_data: Path, model: Path, tmp_path: Path
) -> None:
    names = ("autoencoder", "controlnet")
    launch(2, script, phantom_data, model, tmp_path, 2, "new", *names)
    assert not any((tmp_path / name / "training" / name / "log.jsonl").exists() for name in names)
    launch(1, script, phantom_data, model, tmp_path, 4, "resume", *names)
    for name in names:
        assert log(tmp_path, name) == pytest.approx(log(alone, name), rel=1e-4, abs=1e-5), name


@pytest.mark.slow
def test_the_command_line_runs_under_torchrun(phantom_data: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model_folder, model, ignore=shutil.ignore_patterns("unet", "text_encoder", "tokenizer"))
    command = ["-m", "--", "xreal.cli", "train", "backbone", "--data", phantom_data, "--preset", "tiny", "--out", model]
    launch(2, *command, "--steps", 2)
    unet = model / "unet/diffusion_pytorch_model.safetensors"
    before = load_file(unet)
    states = sorted(path.name for path in (model / "training/backbone/checkpoint").glob("random_states*"))
    assert states == ["random_states_0.pkl", "random_states_1.pkl"]
    launch(2, *command, "--steps", 4, "--resume")
    after = load_file(unet)
    assert any((before[key] != after[key]).any() for key in before)


@pytest.mark.parametrize("name", STAGES)
def test_recomputed_activations_change_nothing(
    name: str, alone: Path, phantom_data: Path, model: Path, tmp_path: Path
) -> None:
    preset = PRESETS["tiny"].with_stage(name, batch_size=4, steps=4, checkpoint_every=2)
    start = model if name in STEERING else None
    stage = build_stage(name, preset, [phantom_data], tmp_path, model, start, weak_of(name, model))
    if name in (
        "segmenter",
        "judge-segmenter",
        "encoder",
        "detail",
        "texture",
    ):  # MONAI's networks cannot, nor a small own one
        with pytest.raises(InputError, match=f"network of {name} cannot recompute activations"):
            train(stage, tmp_path, mixed_precision="no", recompute=True)
        return
    train(stage, tmp_path, mixed_precision="no", micro_batch_size=2, recompute=True)
    assert any(getattr(part, "gradient_checkpointing", False) for part in stage.network.modules())
    ours, theirs = weights(tmp_path), weights(alone / name)
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=1e-3, atol=2e-4, msg=key)


def test_batches_are_cut_into_equal_parts() -> None:
    assert count_parts(16, None, 1) == 1
    assert count_parts(16, None, 2) == 2
    assert count_parts(16, 4, 2) == 4
    for batch, micro, processes, said in (
        (16, None, 3, r"16 cannot be shared equally by 3 processes; give --batch-size 15"),
        (16, 5, 1, r"--micro-batch-size 5 does not divide the batch size, 16"),
        (16, 0, 1, r"--micro-batch-size 0 does not divide"),
        (16, 8, 4, r"makes 2 parts, which 4 processes cannot share"),
    ):
        with pytest.raises(InputError, match=said):
            count_parts(batch, micro, processes)
