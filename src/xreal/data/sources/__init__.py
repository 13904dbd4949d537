"""Data-set adapters: each lists the X-rays of one source in its own layout as ``Record``s.

| name | what | masks |
|---|---|---|
| ``jsrt`` | JSRT film radiographs with the SCR expert masks | lungs, heart |
| ``nih-cxr14`` | NIH ChestX-ray14 selections with ``metadata.csv`` and, if there, ``boxes.csv`` | – |
| ``folder`` | any folder of pictures, with or without ``metadata.csv`` | – |
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from xreal.data.sources import folder, jsrt, nih_cxr14
from xreal.data.sources.record import Record

__all__ = ["SOURCES", "Record"]

SOURCES: dict[str, Callable[[Path], list[Record]]] = {
    "jsrt": jsrt.records,
    "nih-cxr14": nih_cxr14.records,
    "folder": folder.records,
}
