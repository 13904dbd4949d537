"""A cold start that imports little, for a process that does nothing but draw with a model of our own classes.

Importing diffusers pulls in transformers, SciPy's statistics and PyTorch's compiler, which take longer than drawing an
image; our own models need none of them. The command line hides them while diffusers is imported, so diffusers takes
them for not installed as long as the process lives. A library must not do that to its user, so nothing else does.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = ["import_narrowly", "light_class"]

_HIDDEN = ("transformers", "peft", "scipy", "torch._dynamo")  # peft, where it is installed, imports transformers
_NEEDED = (
    "diffusers.models.adapter",
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.models.controlnets.controlnet",
    "diffusers.models.unets.unet_2d_condition",
    "diffusers.pipelines.pipeline_utils",
    "diffusers.schedulers.scheduling_ddim",
    "diffusers.schedulers.scheduling_dpmsolver_multistep",
    "diffusers.schedulers.scheduling_euler_discrete",
    "diffusers.schedulers.scheduling_unipc_multistep",
)
_LIGHT = {
    "LDMBertModel": "LightTextEncoder",
    "PreTrainedTokenizerFast": "LightTokenizer",
    "TokenizersBackend": "LightTokenizer",
}
# And all of xreal's.
_PLAIN = {"AutoencoderKL", "ControlNetModel", "DDIMScheduler", "T2IAdapter", "UNet2DConditionModel", *_LIGHT}

_narrow = False


def import_narrowly(model: str) -> bool:
    """Import diffusers without what the model's folder does not need.

    Args:
        model: name of a bundled model, or folder. One that is not of our own classes, or cannot be read, changes
            nothing; nor does a process that has imported diffusers before, nor one in which a package that diffusers
            looks for cannot do without what is hidden.

    Returns:
        Whether it was done.
    """
    global _narrow
    if "diffusers" in sys.modules or not _is_own(model):
        return False
    import torch  # noqa: F401  before its compiler is hidden

    try:
        with _hidden():
            for name in _NEEDED:
                importlib.import_module(name)
    except (ImportError, RuntimeError):  # diffusers raises the latter
        for name in [name for name in sys.modules if name.partition(".")[0] == "diffusers"]:
            del sys.modules[name]
        return False
    for name, module in list(sys.modules.items()):
        if name.startswith("diffusers.") and "is_compiled_module" in vars(module):
            vars(module)["is_compiled_module"] = _is_compiled  # diffusers' own imports the compiler to ask
    _narrow = True
    return True


def light_class(class_name: str) -> Callable[[Path], Any] | None:
    """Return what reads such a component's folder without transformers, in a process that has imported narrowly."""
    if not _narrow or class_name not in _LIGHT:
        return None
    found: Callable[[Path], Any] = getattr(importlib.import_module("xreal.models.prompts"), _LIGHT[class_name])
    return found


def _is_compiled(module: Any) -> bool:
    """Return what diffusers asks of each component: nothing is compiled in this process."""
    return False


def _is_own(model: str) -> bool:
    bundled = Path(__file__).resolve().parents[1] / "weights" / model
    folder = bundled if bundled.is_dir() else Path(model)
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        settings = json.loads((folder / "text_encoder" / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False  # opening the folder says what is wrong
    parts = [value for value in index.values() if isinstance(value, list) and value[1] is not None]
    own = all(package == "xreal" or class_name in _PLAIN for package, class_name in parts)
    plain = settings.get("activation_function") == "gelu" and not settings.get("use_attention_mask")
    return own and plain and (folder / "tokenizer" / "tokenizer.json").is_file()


@contextmanager
def _hidden() -> Iterator[None]:
    """Let modules look as if they were not installed."""
    before = {name: sys.modules.get(name) for name in _HIDDEN}
    sys.modules.update(dict.fromkeys(_HIDDEN))  # type: ignore[arg-type]
    sys.modules["torch._dynamo"] = _NoCompiler("torch._dynamo")
    try:
        yield
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
        vars(sys.modules["torch"]).pop("_dynamo", None)


class _NoCompiler(ModuleType):
    """What diffusers' decorators ask of the compiler while it is imported."""

    @staticmethod
    def allow_in_graph(function: Any) -> Any:
        return function

    @staticmethod
    def disable(function: Any = None, *_: Any, **__: Any) -> Any:
        return function if function is not None else lambda decorated: decorated
