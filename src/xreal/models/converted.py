"""Networks converted for OpenVINO, kept in the user's cache folder: the second process reads what the first has made.

A folder there is named by a hash of the weights, of what the network computes and of the versions that converted it. It
is renamed into place when it is whole, and thrown away and made anew when it is not what was written.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from torch import Tensor, nn

from xreal.files import cache_folder

__all__ = ["convert"]

_KEPT_BYTES = 8 << 30  # of all converted networks; the longest unused go first. A bundled model takes 0.15 GB
_SMALL = 256 << 20  # bytes of weights, up to which compiling for several sizes, and keeping what is compiled, is cheap
_SINCE = "0.1.0"  # version of xreal that last changed what is converted: the code here, or a network's
_RARELY = 32  # times; compiling for two rows takes as long as it spares in 60 calls
_NETWORK, _WEIGHTS, _RECORD = "network.xml", "network.bin", "files.json"


def convert(name: str, module: nn.Module, example: tuple[Tensor, ...], precision: str) -> Callable[..., Any]:
    """Return a function that computes what ``module`` does, by OpenVINO; any batch, threads as PyTorch has them now.

    Args:
        name: for messages.
        module: tensors in, one tensor out, or a tuple of them.
        example: its inputs: images (B, c, h, w), prompts (B, L, d), a timestep (1, w). B and L may change.
        precision: "float32" or "bfloat16".
    """
    import openvino

    place = cache_folder() / "openvino" / _key(module, example)
    core = openvino.Core()
    model = _read(core, place)
    if model is None:
        logging.getLogger(__name__).warning("converting the %s for OpenVINO, once for these weights", name)
        model = _trace(module, example)
        _keep(model, place)
        model = _read(core, place) or model  # OpenVINO knows again what it compiles from the file, not from the tracer
    threads = torch.get_num_threads()
    settings = {
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    small = sum(one.numel() * one.element_size() for one in module.parameters()) < _SMALL
    if small and place.is_dir():
        settings["CACHE_DIR"] = str(place)  # OpenVINO's own: what it has compiled for this processor
    computed = _Compiled(lambda model: core.compile_model(model, "CPU", settings), model, threads if small else None)
    computed.prepare(example)
    return computed


class _Compiled:
    """A converted network, compiled for 1, 2, 4, … rows at once.

    Kernels for a known number of rows are faster by a fourth than those for any. So a batch is cut into such parts:
    single rows until larger parts have been asked for often enough to be worth compiling, and for good where a larger
    part, when it is first tried, does not give the same as its rows alone to the last bit. What comes out depends
    neither on the batch nor on what was computed before.

    Args:
        compiled: model -> compiled model.
        model: of OpenVINO.
        most: rows at once; None compiles once, for any batch.
    """

    def __init__(self, compiled: Callable[[Any], Any], model: Any, most: int | None) -> None:
        self._compiled, self._model, self._most = compiled, model, most
        self._requests: dict[tuple[tuple[int, ...], ...], Any] = {}  # by the shapes of the inputs
        self._asked: Counter[int] = Counter()
        self._exact: dict[int, bool] = {}
        self._lock = threading.Lock()  # a request holds one set of buffers

    def prepare(self, example: tuple[Tensor, ...]) -> None:
        """Compile what any batch needs, so that what cannot be compiled is known."""
        self._request([_rows(one.numpy(), 0, 1) for one in example])

    def __call__(self, *inputs: Tensor) -> Any:
        arrays = [np.ascontiguousarray(one.detach().numpy()) for one in inputs]
        with self._lock:
            parts = [self._compute(part) for part in self._cut(arrays)]
        found = [torch.from_numpy(np.concatenate(of)) for of in zip(*parts, strict=True)]
        return found[0] if len(found) == 1 else tuple(found)

    def _cut(self, arrays: list[np.ndarray]) -> Iterator[list[np.ndarray]]:
        start, left = 0, max(len(one) for one in arrays)
        while left:
            count = left
            if self._most is not None:
                count = 1 << (min(left, self._most).bit_length() - 1)
                if count > 1 and not self._worthwhile([_rows(one, start, count) for one in arrays], count):
                    count = 1
            yield [_rows(one, start, count) for one in arrays]
            start, left = start + count, left - count

    def _worthwhile(self, part: list[np.ndarray], count: int) -> bool:
        self._asked[count] += 1
        if self._asked[count] > _RARELY and count not in self._exact:
            together = self._compute(part)
            alone = [self._compute([_rows(one, i, 1) for one in part]) for i in range(count)]
            self._exact[count] = all(map(np.array_equal, together, map(np.concatenate, zip(*alone, strict=True))))
        return self._exact.get(count, False)

    def _request(self, arrays: list[np.ndarray]) -> Any:
        shapes = () if self._most is None else tuple(one.shape for one in arrays)
        if shapes not in self._requests:
            fixed = self._model
            if shapes:
                fixed = self._model.clone()
                fixed.reshape({i: list(shape) for i, shape in enumerate(shapes)})
            self._requests[shapes] = self._compiled(fixed).create_infer_request()
        return self._requests[shapes]

    def _compute(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        request = self._request(arrays)
        request.infer(dict(enumerate(arrays)), share_inputs=True)
        return [np.array(request.get_output_tensor(i).data) for i in range(len(self._model.outputs))]


def _rows(of: np.ndarray, start: int, count: int) -> np.ndarray:
    """Take rows of an input; a timestep is one for all."""
    return of if of.ndim == 2 else of[start : start + count]


def _key(module: nn.Module, example: tuple[Tensor, ...]) -> str:
    import openvino

    versions = [_SINCE, torch.__version__, diffusers.__version__, openvino.__version__]
    shapes = [list(one.shape[1:]) for one in example]
    digest = hashlib.sha256(json.dumps([versions, shapes]).encode())
    digest.update(str(module).encode())  # layers and their settings
    for part in module.modules():
        if config := getattr(part, "config", None):  # heads, scales and whatever else no layer shows
            settings = {key: value for key, value in dict(config).items() if key[0] != "_"}  # "_": of the opening
            digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    for key, value in module.state_dict().items():
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def _trace(module: nn.Module, example: tuple[Tensor, ...]) -> Any:
    """Convert by the front end itself: `openvino.convert_model` around it reports its use over the network."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # diffusers' checks of sizes that are fixed here; tracing itself is deprecated
        traced = torch.jit.trace(module.eval(), example, check_trace=False)
        decoder = TorchScriptPythonDecoder(traced, example_input=example)  # must live until all is converted
    front_end = FrontEndManager().load_by_framework("pytorch")
    model = front_end.convert(front_end.load(decoder))
    model.reshape({i: _shape(one) for i, one in enumerate(example)})
    return model


def _shape(example: Tensor) -> list[int]:
    """Leave open (−1) how many images there are, and how long a prompt is; a timestep is one for all."""
    if example.ndim == 2:
        return list(example.shape)
    return [-1, -1, int(example.shape[2])] if example.ndim == 3 else [-1, *example.shape[1:]]


def _read(core: Any, place: Path) -> Any:
    """Read a converted network, or remove what is there and is not whole."""
    if not place.is_dir():
        return None
    try:
        if json.loads((place / _RECORD).read_text(encoding="utf-8")) != _record(place):
            raise ValueError("files differ from what was written")
        model = core.read_model(place / _NETWORK)
        os.utime(place)
        return model
    except Exception as error:  # OpenVINO's own, too
        logging.getLogger(__name__).warning("%s cannot be used (%s); it is made anew", place, error)
        shutil.rmtree(place, ignore_errors=True)
        return None


def _keep(model: Any, place: Path) -> None:
    """Write a converted network whole or not at all; a cache that takes no files costs time, not the result."""
    import openvino

    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".", dir=place.parent))
        try:
            openvino.save_model(model, temporary / _NETWORK, compress_to_fp16=False)
            (temporary / _RECORD).write_text(json.dumps(_record(temporary)), encoding="utf-8")
            os.rename(temporary, place)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        _forget(place)
    except (OSError, RuntimeError) as error:
        if not place.is_dir():  # else another process was first
            logging.getLogger(__name__).warning("the converted network is not kept: %s", error)


def _forget(newest: Path) -> None:
    """Remove the longest unused networks beyond ``_KEPT_BYTES``, and what killed processes have left half written."""
    total = 0
    for one in sorted(newest.parent.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True):
        total += sum(file.stat().st_size for file in one.iterdir())
        half = one.name.startswith(".") and time.time() - one.stat().st_mtime > 3600
        if half or (total > _KEPT_BYTES and one != newest and not one.name.startswith(".")):
            shutil.rmtree(one, ignore_errors=True)


def _record(place: Path) -> dict[str, str]:
    return {name: _hash(place / name) for name in (_NETWORK, _WEIGHTS)}


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
