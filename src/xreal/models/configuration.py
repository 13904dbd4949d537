"""A network that narrows the settings of a diffusers network saves its own settings only."""

from __future__ import annotations

import inspect
from typing import Any

__all__ = ["OwnConfigMixin"]


class OwnConfigMixin:
    """Leaves out of the saved configuration what only the parent's ``__init__`` takes; put before the parent."""

    _internal_dict: Any

    def to_json_string(self) -> str:
        """Write the configuration as JSON."""
        whole: Any = self._internal_dict
        own = inspect.signature(type(self).__init__).parameters
        self._internal_dict = type(whole)({k: v for k, v in whole.items() if k in own or k.startswith("_")})
        try:
            return super().to_json_string()  # type: ignore[misc]
        finally:
            self._internal_dict = whole
