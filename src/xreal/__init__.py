"""XReal: chest X-rays drawn under control of anatomy (organ mask) and pathology (finding and lesion mask).

    from xreal import Finding, Lesion, XRealPipeline

    pipeline = XRealPipeline.from_pretrained("cxr-256")

Names are imported when first used, so that ``import xreal`` does not load torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xreal.masks.lesions import Lesion
    from xreal.pipeline import XRealPipeline
    from xreal.pipeline_output import XRealPipelineOutput
    from xreal.vocabulary import Finding, Organ

__all__ = ["Finding", "Lesion", "Organ", "XRealPipeline", "XRealPipelineOutput", "__version__"]

__version__ = "0.1.0"

_HOMES = {
    "Finding": "xreal.vocabulary",
    "Lesion": "xreal.masks.lesions",
    "Organ": "xreal.vocabulary",
    "XRealPipeline": "xreal.pipeline",
    "XRealPipelineOutput": "xreal.pipeline_output",
}


def __getattr__(name: str) -> Any:
    """Import a public name from its module on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'xreal' has no attribute {name!r}; it offers {', '.join(__all__)}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, whether loaded yet or not."""
    return sorted({*globals(), *__all__})
