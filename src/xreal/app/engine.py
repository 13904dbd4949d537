"""The model behind the page: loaded once, in the background, and used by one drawing at a time."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from xreal.errors import ModelError

if TYPE_CHECKING:
    from xreal.masks.organs import OrganMask
    from xreal.pipeline import XRealPipeline

__all__ = ["Engine"]


class Engine:
    """A model that is loaded when it is first needed, or before.

    Args:
        model: bundled model or model folder.

    Attributes:
        model: as given.
        drawing: held while the model draws.
    """

    def __init__(self, model: str) -> None:
        self.model = model
        self.drawing = threading.Lock()
        self._loading = threading.Lock()
        self._pipeline: XRealPipeline | None = None
        self._weights = ""

    @property
    def title(self) -> str:
        """The model's name without its place on this disk."""
        return Path(self.model).name

    @property
    def ready(self) -> bool:
        """Whether the model is loaded."""
        return self._pipeline is not None

    @property
    def weights(self) -> str:
        """SHA-256 of the weights."""
        self.pipeline()
        return self._weights

    def load_in_background(self) -> None:
        """Begin to load; whoever needs the model waits for it, and gets the error if there is one."""
        threading.Thread(target=self._try, name="model", daemon=True).start()

    def _try(self) -> None:
        try:
            self.pipeline()
        except ModelError as error:
            print(f"xreal: {error}", flush=True)  # the page says so too, when somebody draws

    def pipeline(self) -> XRealPipeline:
        """Return the model, loaded.

        Raises:
            ModelError: it cannot be.
        """
        with self._loading:
            if self._pipeline is None:
                from transformers.utils import logging

                from xreal.models.folder import resolve_folder, weights_hash
                from xreal.pipeline import XRealPipeline

                logging.disable_progress_bar()
                pipeline = XRealPipeline.from_pretrained(self.model, device="auto")
                pipeline.set_progress_bar_config(disable=True)
                self._weights = weights_hash(resolve_folder(self.model))
                self._pipeline = pipeline
            return self._pipeline

    def find_organs(self, picture: npt.NDArray[np.float32]) -> OrganMask:
        """Segment an X-ray (S, S) in [0, 1] at the size that the segmenter was trained for.

        Raises:
            ModelError: the model has no segmenter.
        """
        import torch

        from xreal.images import fit_square, fit_square_mask
        from xreal.masks.segmenter import segment

        pipeline = self.pipeline()
        if pipeline.segmenter is None:
            raise ModelError(f"{self.title} holds no segmenter/; give an organ mask instead of an X-ray")
        image = fit_square(picture, pipeline.image_size)
        with self.drawing:
            found = segment(pipeline.network("segmenter"), torch.from_numpy(image)[None, None])[0]
        return fit_square_mask(found, len(picture))
