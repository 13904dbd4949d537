"""A model of our own classes is opened and drawn without transformers, and draws the same."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from xreal.models.narrow import import_narrowly, light_class
from xreal.models.prompts import LightTextEncoder, LightTokenizer, encode_prompts, tokenize
from xreal.pipeline import XRealPipeline

PROMPTS = ["", "Edema, AP view, male", "Pleural Effusion", " ".join(["Pneumonia"] * 40), "zebra"]

SCRIPT = """
import sys
import numpy as np
from xreal.models.narrow import import_narrowly
assert import_narrowly(sys.argv[1])
import torch
torch.set_num_threads(1)
from xreal.pipeline import XRealPipeline
from xreal.synthesis import conformance
pipeline = XRealPipeline.from_pretrained(sys.argv[1])
mask = np.load(sys.argv[2])
images = pipeline(mask, seeds=[5], steps=2, prompt="Edema, AP view").images
conformance(pipeline, images, mask[None])
pipeline.to("meta")  # as onto a GPU
assert {part.device.type for part in pipeline.text_encoder.parameters()} == {"meta"}
heavy = [name for name in ("transformers", "monai", "scipy.stats", "torch._dynamo") if name in sys.modules]
assert not heavy, heavy
import scipy.stats, transformers, torch._dynamo
np.save(sys.argv[3], images)
"""


def test_a_process_that_imports_narrowly_draws_the_same(
    tiny_model_folder: Path, organ_mask: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "mask.npy", organ_mask)
    given = [str(tiny_model_folder), str(tmp_path / "mask.npy"), str(tmp_path / "images.npy")]
    done = subprocess.run([sys.executable, "-c", SCRIPT, *given], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pipeline = XRealPipeline.from_pretrained(tiny_model_folder)
    wanted = pipeline(organ_mask, seeds=[5], steps=2, prompt="Edema, AP view").images
    np.testing.assert_allclose(np.load(tmp_path / "images.npy"), wanted, atol=1e-4)


@pytest.mark.parametrize(("package", "narrow"), [("peft", True), ("kernels", False)])
def test_packages_that_import_transformers_are_in_nobodys_way(
    package: str, narrow: bool, tiny_model_folder: Path, tmp_path: Path
) -> None:
    # What diffusers takes for installed, of any version that it wants.
    module, about = tmp_path / package / "__init__.py", tmp_path / f"{package}-99.0.dist-info" / "METADATA"
    for path, text in ((module, "import transformers\n"), (about, f"Name: {package}\nVersion: 99.0\n")):
        path.parent.mkdir()
        path.write_text(text)
    script = (
        "import sys; from xreal.models import narrow; narrow._NEEDED = (sys.argv[2], *narrow._NEEDED)\n"
        "print(narrow.import_narrowly(sys.argv[1]))\n"
        "from xreal.pipeline import XRealPipeline; print(XRealPipeline.from_pretrained(sys.argv[1]).image_size)"
    )
    needed = "diffusers.utils.import_utils" if narrow else package
    done = subprocess.run(
        [sys.executable, "-c", script, str(tiny_model_folder), needed],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] == str(narrow)


@torch.inference_mode()
def test_light_classes_read_the_same_prompts(tiny_pipeline: XRealPipeline, tiny_model_folder: Path) -> None:
    tokenizer = LightTokenizer(tiny_model_folder / "tokenizer")
    text_encoder = LightTextEncoder(tiny_model_folder / "text_encoder").eval()
    for length in (None, 7):
        assert torch.equal(tokenize(tokenizer, PROMPTS, length), tokenize(tiny_pipeline.tokenizer, PROMPTS, length))
    for prompt in (*PROMPTS, "Pnuemonia"):
        assert tokenizer.tokenize(prompt) == tiny_pipeline.tokenizer.tokenize(prompt)
    assert tokenize(tokenizer, PROMPTS, 7).shape == (len(PROMPTS), 7)  # cut and padded again after that
    cpu = torch.device("cpu")
    wanted = encode_prompts(tiny_pipeline.tokenizer, tiny_pipeline.text_encoder, PROMPTS, cpu)
    torch.testing.assert_close(encode_prompts(tokenizer, text_encoder, PROMPTS, cpu), wanted, atol=1e-5, rtol=1e-4)


def test_other_models_and_processes_are_left_alone(tiny_model_folder: Path, tmp_path: Path) -> None:
    assert not import_narrowly(str(tiny_model_folder))  # this process has imported diffusers
    assert light_class("LDMBertModel") is None
    foreign = tmp_path / "foreign"
    shutil.copytree(tiny_model_folder, foreign)
    index = json.loads((foreign / "model_index.json").read_text())
    index["text_encoder"] = ["transformers", "CLIPTextModel"]
    (foreign / "model_index.json").write_text(json.dumps(index))
    script = (
        "import sys; from xreal.models.narrow import import_narrowly; print([import_narrowly(f) for f in sys.argv[1:]])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(foreign), str(tmp_path / "nowhere")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[False, False]"


def test_an_activation_of_another_kind_is_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "text_encoder"
    shutil.copytree(tiny_model_folder / "text_encoder", folder)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"activation_function": "relu"}))
    with pytest.raises(ValueError, match="activation relu; expected gelu"):
        LightTextEncoder(folder)
