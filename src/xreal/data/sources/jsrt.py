"""JSRT: 247 film chest radiographs (Shiraishi et al., AJR 2000) with the SCR masks (van Ginneken et al., 2006).

Layout: ``images/*.png``, ``masks/*.png`` (0 background, 150 right lung, 200 left lung, 250 heart, drawn by experts),
``metadata.csv`` with columns image, split, age, sex. All are PA views. Terms: research use, cite both.
"""

from __future__ import annotations

from pathlib import Path

from xreal.data.sources.record import Listing, Record, read_table
from xreal.vocabulary import Organ

__all__ = ["records"]

_LEVELS = ((150, Organ.RIGHT_LUNG.value), (200, Organ.LEFT_LUNG.value), (250, Organ.HEART.value))


def records(raw: Path) -> Listing:
    """List the radiographs. Findings stay empty: nodules are too small for the prompts at this resolution."""
    listed = [
        Record(
            image_path=raw / "images" / row["image"],
            image_id=f"jsrt-{Path(row['image']).stem}",
            patient_id=f"jsrt-{Path(row['image']).stem}",
            split=row["split"],
            source="jsrt",
            view_position="PA",
            sex=row["sex"][:1].upper(),
            age=int(row["age"]) if row["age"].isdigit() else None,
            organ_mask_path=raw / "masks" / row["image"],
            organ_levels=_LEVELS,
        )
        for row in read_table(raw / "metadata.csv", ("image", "split", "age", "sex"))
    ]
    return Listing(listed)
