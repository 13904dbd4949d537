"""Two processes train one network: as torchrun starts them, with checkpoints that are whole."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file


@pytest.mark.slow
def test_two_processes_train_and_resume(phantom_data: Path, tiny_model_folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model_folder, model, ignore=shutil.ignore_patterns("unet", "text_encoder", "tokenizer"))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "--", "xreal.cli", "train", "backbone", "--data", str(phantom_data), "--preset", "tiny"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def train(*more: str) -> None:
        done = subprocess.run(
            [*command, "--out", str(model), *more], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[2900:4600]

    train("--steps", "2")
    unet = model / "unet/diffusion_pytorch_model.safetensors"
    before = load_file(unet)
    states = sorted(path.name for path in (model / "training/backbone/checkpoint").glob("random_states*"))
    assert states == ["random_states_0.pkl", "random_states_1.pkl"]
    train("--steps", "4", "--resume")
    after = load_file(unet)
    assert any((before[key] != after[key]).any() for key in before)
