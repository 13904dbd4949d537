"""How fast, at the bundled size and at the paper's: a table and one JSON line.

    python benchmarks/speed.py [--parts latency,batches,cold,paper] [--backends torch,torch-bf16,openvino]
        [--model cxr-256] [--device cpu] [--threads 2] [--repeats 3]

``reference`` runs as the authors' code does: eager float32, the U-Net once per prompt, one image at a time. All others
are what a user gets. "s" is the clock on the wall, "cpu" the processor's seconds of all threads, which a busy machine
distorts less. One image with one lesion, warm (the median of ``--repeats`` after one more), unless said otherwise.

- latency: each quality and backend; the share of the pipeline beside its networks.
- batches: seconds per image of batches of 1 to 8 (of 1 to 256 on a GPU), default quality, "auto".
- cold: a fresh `xreal generate` to the picture on disk, and its peak memory; at last with four images in one batch.
- paper: networks of the paper's shapes with random weights. Each is timed a few times, and an image is extrapolated
  from the exact number of its calls.

``--device cuda``: the same on a GPU, without cold starts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import xreal
from xreal import Finding, Lesion, XRealPipeline, pipeline_base
from xreal import pipeline as pipeline_module
from xreal.config import PRESETS
from xreal.control.denoiser import BoundDenoiser
from xreal.errors import ModelError
from xreal.inputs import check_settings
from xreal.masks import ellipse, read_organ_mask
from xreal.models.autoencoder import build_autoencoder
from xreal.models.backbone import build_unet
from xreal.models.backends import Networks, choose_backend
from xreal.models.text_encoder import build_text_encoder
from xreal.models.texture import Texture

ORGANS = Path(xreal.__file__).parent / "examples" / "organs.png"
LESION_START = 0.1  # the pipeline's default
LESION = "Pneumonia=ellipse:75,150,26,34"
Row = dict[str, Any]


def finish() -> None:
    """Wait until the GPU has done what it was given."""
    if DEVICE[0].type == "cuda":
        torch.cuda.synchronize()


def timed(call: Callable[[], object], repeats: int) -> Row:
    """Median seconds of ``repeats`` calls after one that is not counted."""
    call()
    finish()
    walls, processors = [], []
    for _ in range(repeats):
        wall, processor = time.perf_counter(), time.process_time()
        call()
        finish()
        walls.append(time.perf_counter() - wall)
        processors.append(time.process_time() - processor)
    return {"s": statistics.median(walls), "cpu": statistics.median(processors)}


WANTED = ["torch", "torch-bf16", "openvino"]
DEVICE = [torch.device("cpu")]


def backends() -> Iterator[str]:
    """Those wanted that this machine has."""
    for name in WANTED:
        try:
            choose_backend(name, DEVICE[0])
        except ModelError:
            continue
        yield name


@contextmanager
def as_the_authors() -> Iterator[None]:
    """Call the U-Net once per prompt."""

    def one_by_one(self: BoundDenoiser, latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        assert not self.known  # the authors' U-Net knows of no organs
        parts = zip(latents.split(1), self.embeds.split(1), strict=True)
        return torch.cat([self.network(one, timestep, embed).sample for one, embed in parts])

    with mock.patch.object(BoundDenoiser, "_predict", one_by_one):
        yield


@contextmanager
def networks_timed(total: list[float], texture: bool) -> Iterator[None]:
    """Add the seconds that are spent in the networks to ``total[0]``; ``texture``: those of that network as well."""

    def clocked(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*given, **named)
            finally:
                total[0] += time.perf_counter() - began

        return call

    in_texture = {name: getattr(Texture, name) for name in ("film", "forward")}
    if texture:
        in_texture = {name: clocked(function) for name, function in in_texture.items()}
    called = {
        BoundDenoiser: ("_predict",),
        pipeline_module: ("decode_pixels", "encode_image", "draw_prior"),
        pipeline_base: ("adapter_features", "encode_prompts", "with_lines"),
    }
    with ExitStack() as patched:
        patched.enter_context(mock.patch.multiple(Texture, **in_texture))
        for home, names in called.items():
            functions = {name: clocked(getattr(home, name)) for name in names}
            patched.enter_context(mock.patch.multiple(home, **functions))
        yield


def drawer(pipeline: XRealPipeline, batch: int = 1, **settings: Any) -> Callable[[], object]:
    organs = read_organ_mask(ORGANS)
    lesion = Lesion(Finding.PNEUMONIA, ellipse(75, 150, 26, 34, height=256, width=256))
    return lambda: pipeline(organs, [lesion], list(range(batch)), **settings)


def open_pipeline(model: str, backend: str) -> XRealPipeline:
    pipeline = XRealPipeline.from_pretrained(model, backend, str(DEVICE[0]))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def latency(model: str, repeats: int) -> Iterator[Row]:
    pipeline = open_pipeline(model, "torch")
    drawer(pipeline)()
    with as_the_authors():
        began, processor = time.perf_counter(), time.process_time()
        drawer(pipeline, quality="reference")()
        reference = {"s": time.perf_counter() - began, "cpu": time.process_time() - processor}
    yield {"what": "reference, as the authors", **reference}
    for backend in backends():
        pipeline.use_backend(backend)
        for quality in ("default", "draft"):
            row = timed(drawer(pipeline, quality=quality), repeats)
            row |= {name: reference[of] / row[of] for name, of in (("x", "s"), ("cpu x", "cpu"))}
            yield {"what": f"{quality}, {backend}", **row}
        for texture, what in ((False, "beside the networks"), (True, "beside networks and texture")):
            draw, total = drawer(pipeline), [0.0]
            began = time.perf_counter()
            with networks_timed(total, texture):
                for _ in range(repeats):
                    draw()
            yield {"what": f"{what}, {backend}, %", "s": 100 * (1 - total[0] / (time.perf_counter() - began))}


def batches(model: str, repeats: int) -> Iterator[Row]:
    pipeline = open_pipeline(model, "auto")
    for batch in (1, 2, 4, 8) if DEVICE[0].type == "cpu" else (1, 16, 64, 256):
        row = timed(drawer(pipeline, batch), max(1, repeats // 2))
        yield {"what": f"per image, batch {batch}", **{key: value / batch for key, value in row.items()}}


def cold(model: str, repeats: int) -> Iterator[Row]:
    command = [sys.executable, "-m", "xreal.cli", "generate", "--model", model, "--organs", str(ORGANS)]
    runs = [(backend, 1) for backend in backends()] + [("auto", 4)]
    for backend, count in runs:
        with tempfile.TemporaryDirectory() as folder:
            given = ["--lesion", LESION, "--backend", backend, "-n", str(count), "--batch-size", str(count)]
            for run in range(2):  # the first converts networks, and warms the disk
                began = time.perf_counter()
                process = subprocess.Popen(
                    [*command, *given, "--out", f"{folder}/{run}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
                _, status, used = os.wait4(process.pid, 0)
                wall = time.perf_counter() - began
                if status:
                    raise SystemExit(f"{command} failed")
        seconds = {"s": wall, "cpu": used.ru_utime + used.ru_stime, "GB": used.ru_maxrss / 1e6}
        yield {"what": f"cold, {backend}, {count} image{'s' * (count > 1)}", **seconds}


def paper(model: str, repeats: int) -> Iterator[Row]:
    preset = PRESETS["paper"]
    torch.manual_seed(0)
    unet = build_unet(preset).eval().to(DEVICE[0])
    vae = build_autoencoder(preset.autoencoder, preset.image_size).eval().to(DEVICE[0])
    length, width = preset.text_encoder.max_length, preset.text_encoder.width
    seconds: dict[str, dict[str, Row]] = {}
    with torch.inference_mode():
        for backend in (name for name in backends() if name != "torch-bf16" or DEVICE[0].type == "cuda"):
            networks = Networks(backend)
            calls = _paper_calls(networks.get("unet", unet), networks.get("vae", vae), length, width)
            if backend == "torch":
                calls.pop("U-Net, batch 3")
            seconds[backend] = {}
            for name, call in calls.items():
                seconds[backend][name] = timed(call, 1)
                yield {"what": f"paper: {name}, {backend}", **seconds[backend][name]}
        del unet, vae
        text_encoder = build_text_encoder(preset.text_encoder).eval().to(DEVICE[0])
        text = timed(lambda: text_encoder(torch.zeros(1, length, dtype=torch.long, device=DEVICE[0])), 1)
        yield {"what": "paper: text encoder, torch", **text}
    for of in ("s", "cpu") if len(seconds) == 2 else ():
        eager, fast = ({name: row[of] for name, row in seconds[b].items()} for b in ("torch", list(seconds)[-1]))
        reference = 300 * eager["U-Net, batch 1"] + 3 * (eager["encoder"] + eager["decoder"]) + 2 * text[of]
        for quality in ("default", "draft"):
            steps = check_settings([0], quality, None, None, None, None, None, LESION_START, 1.0).steps
            alone = round(LESION_START * steps)  # image and healthy twin are one until the lesion begins
            together = steps - alone
            image_seconds = alone * fast["U-Net, batch 1"] + together * fast["U-Net, batch 3"]
            image_seconds += 2 * fast["encoder"] + 3 * fast["decoder"] + 2 * text[of]
            yield {"what": f"paper, extrapolated, {quality}", of: image_seconds, f"{of} x": reference / image_seconds}
        yield {"what": "paper, extrapolated, reference", of: reference}


def _paper_calls(unet: Any, vae: Any, length: int, width: int) -> dict[str, Callable[[], object]]:
    image = torch.rand(1, vae.config.in_channels, *2 * [vae.config.sample_size], device=DEVICE[0])
    latents = torch.randn(3, unet.config.in_channels, *2 * [unet.config.sample_size], device=DEVICE[0])
    embeds, timestep = torch.randn(3, length, width, device=DEVICE[0]), torch.tensor(501)
    return {
        "U-Net, batch 1": lambda: unet(latents[:1], timestep, embeds[:1]),
        "U-Net, batch 3": lambda: unet(latents, timestep, embeds),
        "encoder": lambda: vae.encode(image),
        "decoder": lambda: vae.decode(latents[:1]),
    }


PARTS = {"latency": latency, "batches": batches, "cold": cold, "paper": paper}


def machine(threads: int) -> Row:
    name = platform.processor() or platform.machine()
    if (path := Path("/proc/cpuinfo")).exists():
        fields = dict(line.split(":", 1) for line in path.read_text(encoding="utf-8").splitlines() if ":" in line)
        name = {key.strip(): value.strip() for key, value in fields.items()}.get("model name", name)
    if DEVICE[0].type == "cuda":
        name = torch.cuda.get_device_name()
    formats = choose_backend("auto", DEVICE[0]).precision
    packages = ["torch", "diffusers", "openvino"] if "openvino" in list(backends()) else ["torch", "diffusers"]
    versions = {package: version(package) for package in packages}
    return {"processor": name, "cores": os.cpu_count(), "threads": threads, "auto computes in": formats, **versions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cxr-256")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--backends", default=",".join(WANTED))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    WANTED[:] = options.backends.split(",")
    DEVICE[:] = [torch.device(options.device)]
    rows = []
    # Cold starts first: a child's peak memory is at least what this process held when it began.
    parts = [part for part in options.parts.split(",") if part != "cold" or options.device == "cpu"]
    for part in sorted(parts, key=lambda part: part != "cold"):
        for row in PARTS[part](options.model, options.repeats):
            numbers = "  ".join(f"{key} {value:.3g}" for key, value in row.items() if key != "what")
            print(f"{row['what']:42s} {numbers}", flush=True)
            rows.append(row)
    print(json.dumps({"machine": machine(options.threads), "rows": rows}))


if __name__ == "__main__":
    main()
