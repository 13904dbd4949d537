"""Every backend agrees with eager float32, whatever the batch; converted networks are kept, and made anew if broken."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from xreal.errors import InputError, ModelError
from xreal.masks.lesions import Lesion
from xreal.models import backends, converted
from xreal.models.backends import Backend, Networks, choose_backend, choose_device
from xreal.models.organs import ADAPTER_PLANES, adapter_features, build_adapter
from xreal.models.prompts import tokenize
from xreal.pipeline import XRealPipeline

CPU = torch.device("cpu")
FAST = ("torch-bf16", "openvino")
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.02}  # mean difference, relative to the mean size


@pytest.fixture(params=FAST)
def fast(request: pytest.FixtureRequest) -> str:
    try:
        choose_backend(request.param, CPU)
    except ModelError as error:
        pytest.skip(str(error))
    return str(request.param)


@pytest.fixture
def openvino() -> None:
    pytest.importorskip("openvino")


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XREAL_CACHE", str(tmp_path))
    return tmp_path / "openvino"


@pytest.fixture
def pipeline(tiny_pipeline: XRealPipeline) -> Iterator[XRealPipeline]:
    yield tiny_pipeline
    tiny_pipeline.use_backend("torch")


def installed(monkeypatch: pytest.MonkeyPatch, openvino: bool, bfloat16: bool) -> None:
    monkeypatch.delenv("XREAL_BACKEND")
    monkeypatch.setattr(backends, "find_spec", lambda name: object() if openvino else None)
    monkeypatch.setattr(backends, "fast_dtype", lambda device: torch.bfloat16 if bfloat16 else torch.float32)


def test_a_gpu_is_taken_where_there_is_one_that_the_backend_can_use(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    monkeypatch.delenv("XREAL_BACKEND")
    assert choose_device("auto") == backends.default_device()
    monkeypatch.setattr(backends, "default_device", lambda: gpu)
    assert choose_device("auto") == choose_device("torch") == gpu
    assert choose_device("openvino") == CPU
    monkeypatch.setenv("XREAL_BACKEND", "openvino")
    assert choose_device("auto") == CPU


def test_devices_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch, tiny_model_folder: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("torch", "cpu") == CPU
    with pytest.raises(ModelError, match="device cuda:1: PyTorch sees no GPU"):
        XRealPipeline.from_pretrained(tiny_model_folder, device="cuda:1")
    with pytest.raises(InputError, match="unknown device 'gpu'"):
        XRealPipeline.from_pretrained(tiny_model_folder, device="gpu")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("backend", ["torch", "torch-bf16"])
def test_a_gpu_draws_what_the_processor_draws(
    backend: str, tiny_model_folder: Path, organ_mask: np.ndarray, lesion_in: Callable[..., Lesion]
) -> None:
    processor = XRealPipeline.from_pretrained(tiny_model_folder, "torch")
    gpu = XRealPipeline.from_pretrained(tiny_model_folder, backend, "auto")
    assert gpu.unet.device.type == "cuda"
    wanted, drawn = (one(organ_mask, [lesion_in()], [3, 4], steps=2).images for one in (processor, gpu))
    assert np.abs(drawn - wanted).mean() < 0.02


@pytest.mark.parametrize(
    ("openvino", "bfloat16", "chosen"),
    [
        (True, True, Backend("openvino", "bfloat16")),
        (True, False, Backend("openvino", "float32")),
        (False, True, Backend("torch-bf16", "bfloat16")),
        (False, False, Backend("torch", "float32")),
    ],
)
def test_auto_takes_the_fastest_that_is_there(
    monkeypatch: pytest.MonkeyPatch, openvino: bool, bfloat16: bool, chosen: Backend
) -> None:
    installed(monkeypatch, openvino, bfloat16)
    assert choose_backend("auto", CPU) == chosen
    assert choose_backend("auto", torch.device("cuda")) == Backend("torch", "float32")
    assert choose_backend("auto", CPU, "reference") == Backend("torch", "float32")
    monkeypatch.setenv("XREAL_BACKEND", "torch")
    assert choose_backend("auto", CPU) == Backend("torch", "float32")


def test_what_cannot_be_had_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, openvino=False, bfloat16=False)
    with pytest.raises(InputError, match="unknown backend 'onnx'; expected one of auto, torch, torch-bf16, openvino"):
        choose_backend("onnx", CPU)
    with pytest.raises(ModelError, match=r'pip install "xreal-cxr\[fast\]"'):
        choose_backend("openvino", CPU)
    with pytest.raises(ModelError, match="no bfloat16 instructions; take auto or torch"):
        choose_backend("torch-bf16", CPU)


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).abs().mean() / wanted.abs().mean())


@torch.inference_mode()
def test_networks_agree_with_eager_whatever_the_batch(fast: str, pipeline: XRealPipeline) -> None:
    tolerance = TOLERANCE[choose_backend(fast, CPU).precision]
    torch.manual_seed(0)
    side, width = pipeline.unet.config.sample_size, pipeline.unet.config.cross_attention_dim
    latents = torch.randn(3, pipeline.unet.config.in_channels, side, side)
    embeds, timestep = torch.randn(3, 32, width), torch.tensor(501)  # not a number of bfloat16
    images = torch.rand(3, 1, pipeline.image_size, pipeline.image_size)
    networks = Networks(fast)
    unet, vae = networks.get("unet", pipeline.unet), networks.get("vae", pipeline.vae)
    segmenter = networks.get("segmenter", pipeline.segmenter)
    masks = torch.randint(0, 4, (3, pipeline.image_size, pipeline.image_size), dtype=torch.uint8)
    adapter = build_adapter(pipeline.unet, 8)
    features = adapter_features(adapter, pipeline.unet, masks)
    planes, fast_adapter = torch.rand(3, ADAPTER_PLANES, *masks.shape[1:]), networks.get("anatomy_adapter", adapter)
    calls: dict[str, tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor], tuple[torch.Tensor, ...]]] = {
        "unet": (
            lambda x, e: unet(x, timestep, e).sample,
            lambda x, e: pipeline.unet(x, timestep, e).sample,
            (latents, embeds),
        ),
        "unet with adapter": (
            lambda x, e, *f: unet(x, timestep, e, down_intrablock_additional_residuals=list(f)).sample,
            lambda x, e, *f: pipeline.unet(x, timestep, e, down_intrablock_additional_residuals=list(f)).sample,
            (latents, embeds, *features),
        ),
        **{
            f"adapter, level {i}": (lambda p, i=i: fast_adapter(p)[i], lambda p, i=i: adapter(p)[i], (planes,))
            for i in range(len(features))
        },
        "decoder": (lambda z: vae.decode(z).sample, lambda z: pipeline.vae.decode(z).sample, (latents,)),
        "encoder": (
            lambda x: vae.encode(x).latent_dist.mean,
            lambda x: pipeline.vae.encode(x).latent_dist.mean,
            (images,),
        ),
        "segmenter": (segmenter, pipeline.segmenter, (images,)),
    }
    for name, (computed, eager, given) in calls.items():
        found = computed(*given)
        assert found.dtype == torch.float32
        assert relative(found, eager(*given)) < tolerance, name
        if name == "segmenter":
            assert relative(found, eager(*given)) < TOLERANCE["float32"]
        one_by_one = torch.cat([computed(*(one[i : i + 1] for one in given)) for i in range(3)])
        assert relative(one_by_one, found) < tolerance / 10, name


def test_images_agree_and_the_record_says_what_computed(
    fast: str, pipeline: XRealPipeline, organ_mask: np.ndarray, lesion_in: Callable[..., Lesion]
) -> None:
    call: Any = (organ_mask, [lesion_in()], [3, 4])
    eager = pipeline(*call, steps=4)
    output = pipeline.use_backend(fast)(*call, steps=4)
    bfloat16 = choose_backend(fast, CPU).precision == "bfloat16"
    assert (output.settings["backend"], output.settings["precision"]) == (fast, "bfloat16" if bfloat16 else "float32")
    assert np.abs(output.images - eager.images).mean() < (0.01 if bfloat16 else 1e-4)
    alone = pipeline(organ_mask, [lesion_in()], [4], steps=4)
    assert np.abs(alone.images[0] - output.images[1]).mean() < 0.002
    again = pipeline(*call, steps=4)
    np.testing.assert_array_equal(again.images, output.images)


def test_reference_stays_eager_unless_another_is_asked_for(fast: str, pipeline: XRealPipeline) -> None:
    pipeline.use_backend("auto")
    assert pipeline.network("unet", "reference") is pipeline.unet
    pipeline.use_backend(fast)
    assert pipeline.network("unet", "reference") is not pipeline.unet


def test_a_replaced_network_is_made_anew(fast: str, pipeline: XRealPipeline) -> None:
    networks = Networks(fast)
    first = networks.get("vae", pipeline.vae)
    assert networks.get("vae", pipeline.vae) is first
    assert networks.get("vae", pipeline.anatomy_controller) is not first
    assert networks.get("anatomy_controller", None) is None


@pytest.mark.usefixtures("openvino")
def test_what_cannot_be_converted_stays_eager_under_auto_and_is_an_error_by_name(
    monkeypatch: pytest.MonkeyPatch, pipeline: XRealPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no such operation")

    monkeypatch.delenv("XREAL_BACKEND")
    monkeypatch.setattr(converted, "convert", fail)
    image = torch.rand(1, 1, pipeline.image_size, pipeline.image_size)
    with torch.inference_mode():
        stayed = Networks("auto").get("segmenter", pipeline.segmenter)(image)
        assert torch.equal(stayed, pipeline.segmenter(image))
    assert "segmenter stays in eager float32: no such operation" in caplog.text
    with pytest.raises(ModelError, match="openvino cannot take this segmenter"):
        Networks("openvino").get("segmenter", pipeline.segmenter)


@pytest.mark.usefixtures("openvino")
def test_converted_networks_are_kept_and_made_anew_when_broken(
    monkeypatch: pytest.MonkeyPatch, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = []
    trace = converted._trace
    monkeypatch.setattr(converted, "_trace", lambda *given: made.append(1) or trace(*given))
    network = torch.nn.Conv2d(1, 2, 3, padding=1)
    image = torch.rand(2, 1, 8, 8)

    def run() -> torch.Tensor:
        return converted.convert("filter", network, (torch.rand(2, 1, 8, 8),), "float32")(image)

    with torch.inference_mode():
        wanted = network(image)
        torch.testing.assert_close(run(), wanted)
        torch.testing.assert_close(run(), wanted)
        assert len(made) == 1
        (kept,) = cache.iterdir()
        whole = (kept / "network.bin").read_bytes()
        (kept / "network.bin").write_bytes(whole[:-4])
        torch.testing.assert_close(run(), wanted)
        assert "it is made anew" in caplog.text
        assert (len(made), (kept / "network.bin").read_bytes()) == (2, whole)
        (kept / "files.json").unlink()
        torch.testing.assert_close(run(), wanted)
        assert len(made) == 3
        network.weight.data += 1
        torch.testing.assert_close(run(), network(image))
        assert (len(made), len(list(cache.iterdir()))) == (4, 2)


@pytest.mark.usefixtures("openvino")
def test_a_cache_that_takes_no_files_costs_no_result(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache.write_text("a file where the folder should be")
    network, image = torch.nn.Conv2d(1, 2, 3), torch.rand(1, 1, 8, 8)
    with torch.inference_mode():
        torch.testing.assert_close(converted.convert("filter", network, (image,), "float32")(image), network(image))
    assert "is not kept" in caplog.text


@pytest.mark.usefixtures("openvino")
def test_the_longest_unused_go_first(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image, seen = torch.rand(1, 1, 8, 8), []
    for width in (1, 2, 3):
        converted.convert("filter", torch.nn.Conv2d(1, width, 3), (image,), "float32")
        seen.append({path.name for path in cache.iterdir()})
        if width == 2:
            half = cache / ".half"
            half.mkdir()
            os.utime(half, (0, 0))
            sizes = [sum(file.stat().st_size for file in one.iterdir()) for one in cache.iterdir()]
            monkeypatch.setattr(converted, "_KEPT_BYTES", sum(sizes))
    assert [len(names) for names in seen] == [1, 2, 2]
    assert not seen[0] <= seen[2]
    assert not half.exists()


@pytest.mark.usefixtures("openvino", "cache")
@pytest.mark.parametrize("small", [True, False])
def test_a_batch_is_cut_into_sizes_that_are_compiled_when_they_come_often(
    monkeypatch: pytest.MonkeyPatch, small: bool
) -> None:
    import openvino

    monkeypatch.setattr(converted, "_SMALL", converted._SMALL if small else 0)
    monkeypatch.setattr(converted, "_RARELY", 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    compiled = []
    compile_model = openvino.Core.compile_model

    def counted(core: Any, model: Any, *given: Any) -> Any:
        compiled.append(str(model.inputs[0].partial_shape))
        return compile_model(core, model, *given)

    monkeypatch.setattr(openvino.Core, "compile_model", counted)
    network = torch.nn.Conv2d(1, 2, 3)
    run = converted.convert("filter", network, (torch.rand(2, 1, 8, 8),), "float32")
    images = torch.rand(7, 1, 8, 8)
    with torch.inference_mode():
        drawn = [run(images[:count]) for count in (1, 5, 7, 2)]
        for found in drawn:
            torch.testing.assert_close(found, network(images[: len(found)]))
            assert torch.equal(found, drawn[2][: len(found)]) or not small  # to the last bit, whatever the batch
    assert compiled == (["[1,1,8,8]", "[2,1,8,8]"] if small else ["[?,1,8,8]"])


@pytest.mark.usefixtures("openvino", "cache")
def test_parts_that_round_otherwise_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converted, "_RARELY", 0)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    run = converted.convert("filter", torch.nn.Conv2d(1, 2, 3), (torch.rand(2, 1, 8, 8),), "float32")
    computed, compute = [], run._compute

    def rounded(arrays: list[np.ndarray]) -> list[np.ndarray]:
        computed.append(len(arrays[0]))
        return [found * np.float32(1 + 1e-6 * (len(arrays[0]) - 1)) for found in compute(arrays)]

    monkeypatch.setattr(run, "_compute", rounded)
    images = torch.rand(4, 1, 8, 8)
    with torch.inference_mode():
        assert torch.equal(run(images), torch.cat([run(image) for image in images.split(1)]))
    assert computed.count(2) == 1  # tried once


@torch.inference_mode()
def test_prompts_are_encoded_once(fast: str, pipeline: XRealPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, encoded = pipeline.text_encoder, []
    forward = encoder.forward
    monkeypatch.setattr(encoder, "forward", lambda ids, **given: encoded.append(len(ids)) or forward(ids, **given))
    ids = tokenize(pipeline.tokenizer, ["", "Pneumonia", "Edema"], encoder.config.max_position_embeddings)
    wanted = forward(ids, return_dict=False)[0]
    networks = Networks(fast)
    for rows in ([0, 1], [1, 0, 1], [2, 0], [0, 1, 2]):
        found = networks.get("text_encoder", encoder)(ids[rows], return_dict=False)[0]
        torch.testing.assert_close(found, wanted[rows])
    assert encoded == [1, 1, 1]
    monkeypatch.setattr(backends, "_REMEMBERED", 2)
    networks = Networks(fast)
    for rows in ([0, 1, 2], [2]):
        torch.testing.assert_close(networks.get("text_encoder", encoder)(ids[rows])[0], wanted[rows])


@torch.inference_mode()
def test_pixels_have_no_steps_of_bfloat16(fast: str, pipeline: XRealPipeline) -> None:
    side, channels = pipeline.unet.config.sample_size, pipeline.unet.config.in_channels
    latents = torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(0))
    decoded, eager = (vae.decode(latents).sample for vae in (Networks(fast).get("vae", pipeline.vae), pipeline.vae))
    assert (decoded - eager).abs().mean() < 5e-4  # all in bfloat16: 1.3e-3, and a tenth of the values
    assert decoded.unique().numel() > 0.9 * eager.unique().numel()
