"""A prepared data set: a folder of Parquet shards, one row per X-ray, written once and read by every stage.

Shards are named ``train-00000.parquet``, ``val-00000.parquet``, … so that Hugging Face ``datasets`` finds the splits;
pictures are PNG bytes in the struct of its ``Image`` feature, which the schema's metadata name. Ray Data, Spark and
pyarrow read them as a struct of bytes and path.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from xreal.data.contract import Box, Sample
from xreal.errors import DataError
from xreal.images import fit_square, fit_square_mask
from xreal.sheets import colour_labels, write_sheet
from xreal.vocabulary import Finding, prompt_from_findings

__all__ = [
    "CACHED_BYTES",
    "SCHEMA",
    "SHARD_ROWS",
    "PreparedDataset",
    "fingerprint",
    "write_contact_sheet",
    "write_shard",
]

_PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_BOX = pa.struct(
    [("finding", pa.string())] + [(name, pa.float32()) for name in ("x", "y", "width", "height")],
)
_SHEET_COLUMNS, _SHEET_ROWS, _SHEET_TILE = 8, 3, 160
_LESION_COLOUR = (0.95, 0.2, 0.95)  # no organ's
_COLUMNS = pa.schema(
    [
        ("image", _PICTURE),
        ("organ_mask", _PICTURE),
        ("lesion_mask", _PICTURE),
        ("image_id", pa.string()),
        ("patient_id", pa.string()),
        ("source", pa.string()),
        ("findings", pa.list_(pa.string())),
        ("view_position", pa.string()),
        ("sex", pa.string()),
        ("age", pa.int16()),
        ("boxes", pa.list_(_BOX)),
        ("jpeg_steps", pa.list_(pa.int16())),
    ]
)


def _feature(kind: pa.DataType) -> Any:
    """Describe a column in the words of Hugging Face ``datasets``."""
    if kind == _PICTURE:
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        return [_feature(kind.value_type)]
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    return {"_type": "Value", "dtype": {"float": "float32"}.get(str(kind), str(kind))}


_FEATURES = {field.name: _feature(field.type) for field in _COLUMNS}
SCHEMA = _COLUMNS.with_metadata({"huggingface": json.dumps({"info": {"features": _FEATURES}})})


_NO_PICTURES: dict[str, Any] = {field.name: None for field in _COLUMNS if field.type == _PICTURE}
_INDEX = [name for name in _COLUMNS.names if name not in _NO_PICTURES]
SHARD_ROWS = 256
"""X-rays of one file."""
_GROUP_ROWS = 32  # what is read to see one X-ray, about a megabyte
CACHED_BYTES = 512_000_000
"""Pictures that one data set keeps in memory, as they lie in the shards."""


def _to_png(array: np.ndarray, name: str) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": name}


def _mask_to_png(mask: np.ndarray | None, name: str) -> dict[str, Any] | None:
    return None if mask is None else _to_png(mask, name)


def _from_png(picture: dict[str, Any]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture["bytes"])))


def _mask_from_png(picture: dict[str, Any] | None) -> np.ndarray | None:
    return None if picture is None else _from_png(picture)


def _to_row(sample: Sample) -> dict[str, Any]:
    return {
        "image": _to_png(sample.image, f"{sample.image_id}.png"),
        "organ_mask": _mask_to_png(sample.organ_mask, f"{sample.image_id}-organs.png"),
        "lesion_mask": _mask_to_png(sample.lesion_mask, f"{sample.image_id}-lesions.png"),
        "image_id": sample.image_id,
        "patient_id": sample.patient_id,
        "source": sample.source,
        "findings": [finding.value for finding in sample.findings],
        "view_position": sample.view_position,
        "sex": sample.sex,
        "age": sample.age,
        "boxes": [vars(box) | {"finding": box.finding.value} for box in sample.boxes],
        "jpeg_steps": sample.jpeg_steps,
    }


def _from_row(row: dict[str, Any]) -> Sample:
    return Sample(
        image=_from_png(row["image"]),
        organ_mask=_mask_from_png(row["organ_mask"]),
        lesion_mask=_mask_from_png(row["lesion_mask"]),
        findings=tuple(Finding(name) for name in row["findings"]),
        boxes=tuple(Box(**(box | {"finding": Finding(box["finding"])})) for box in row["boxes"]),
        jpeg_steps=tuple(row["jpeg_steps"] or ()),  # shards of an earlier version have none
        **{key: row[key] for key in ("image_id", "patient_id", "source", "view_position", "sex", "age")},
    )


def write_shard(path: Path, samples: Sequence[Sample]) -> None:
    """Write samples as one Parquet file, through a temporary file so that a shard is whole or absent."""
    temporary = path.with_suffix(".tmp")
    table = pa.Table.from_pylist([_to_row(sample) for sample in samples], schema=SCHEMA)
    pq.write_table(table, temporary, row_group_size=_GROUP_ROWS)
    os.replace(temporary, path)


def write_contact_sheet(folder: Path) -> None:
    """Write ``sheet.png``: up to 24 X-rays from all over a prepared folder, below each its organs and its lesions."""
    shards = sorted(folder.glob("*-[0-9]*.parquet"))
    ends = np.cumsum([pq.read_metadata(shard).num_rows for shard in shards])
    if not shards or ends[-1] == 0:
        return
    pictures: list[tuple[np.ndarray, np.ndarray]] = []
    for index in np.unique(np.linspace(0, ends[-1] - 1, _SHEET_COLUMNS * _SHEET_ROWS).round().astype(int)):
        shard = int(np.searchsorted(ends, index, side="right"))
        row = int(index - (ends[shard] - pq.read_metadata(shards[shard]).num_rows))
        sample = _from_row(pq.read_table(shards[shard], schema=SCHEMA).slice(row, 1).to_pylist()[0])
        pictures.append(_with_overlay(sample))
    lines = [pictures[i : i + _SHEET_COLUMNS] for i in range(0, len(pictures), _SHEET_COLUMNS)]
    write_sheet(folder / "sheet.png", [[pair[k] for pair in line] for line in lines for k in range(2)])


def _with_overlay(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    image = fit_square(sample.image.astype(np.float32) / 255, _SHEET_TILE)
    lesions = fit_square_mask(sample.box_mask, _SHEET_TILE)
    marked: np.ndarray = np.repeat(image[..., None], 3, axis=2)
    if sample.organ_mask is not None:
        marked = 0.7 * marked + 0.3 * colour_labels(fit_square_mask(sample.organ_mask, _SHEET_TILE))
    marked[lesions > 0] = 0.6 * marked[lesions > 0] + 0.4 * np.array(_LESION_COLOUR, np.float32)
    return image, marked


class PreparedDataset(Sequence[Sample]):
    """All samples of one split of one or more prepared folders.

    What is known of the samples is kept in memory, about 0.2 kB each; their pictures are read from the shards and
    decoded on access, and no more than ``CACHED_BYTES`` of them are kept, still as PNG. So a set of any size can be
    opened, and a small one is read from disk once.

    Attributes:
        folders: prepared folders, in the order of their samples.
        split: "train", "val" or "test".
    """

    def __init__(self, folders: Sequence[Path | str], split: str) -> None:
        """Read what the shards say of their samples.

        Raises:
            DataError: a folder is missing or holds no shards, or none of them has that split.
        """
        self.folders, self.split = tuple(map(Path, folders)), split
        known, masked, groups, ends = [], [], [], [0]
        for folder in self.folders:
            if not folder.is_dir():
                raise DataError(f"{folder} is no folder; expected a data set written by `xreal prepare`")
            if not any(folder.glob("*.parquet")):
                raise DataError(f"{folder} holds no prepared data; run `xreal prepare` on the source first")
            for shard in sorted(folder.glob(f"{split}-*.parquet")):
                with _readable(shard), pq.ParquetFile(shard) as file:
                    known.append(pq.read_table(shard, schema=SCHEMA, columns=_INDEX))
                    masked.append(file.read(columns=["organ_mask.path"]).column(0).is_valid().to_numpy())
                    for group in range(file.num_row_groups):
                        groups.append((shard, group))
                        ends.append(ends[-1] + file.metadata.row_group(group).num_rows)
        if not known:
            raise DataError(f"no {split}-*.parquet in {', '.join(map(str, folders))}; add a source with that split")
        self._known = pa.concat_tables(known)
        self._masked = np.concatenate(masked)
        self._groups, self._starts = groups, np.array(ends)
        self._forget()

    def _forget(self) -> None:
        self._cache: OrderedDict[int, pa.Table] = OrderedDict()
        self._one_at_a_time = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what another process has of its own: pictures kept in memory, and who may look at them."""
        return {name: value for name, value in vars(self).items() if name not in ("_cache", "_one_at_a_time")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    def __len__(self) -> int:
        """Count the samples."""
        return int(self._known.num_rows)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]
        """Read and decode one sample.

        Raises:
            DataError: its shard can no longer be read.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        group = int(np.searchsorted(self._starts, index, side="right")) - 1
        row = self._pictures(group).slice(index - int(self._starts[group]), 1).to_pylist()[0]
        return _from_row(self._known.slice(index, 1).to_pylist()[0] | _NO_PICTURES | row)

    def __iter__(self) -> Iterator[Sample]:
        """Decode the samples in order."""
        return (self[index] for index in range(len(self)))

    def take(self, indices: Sequence[int]) -> Sequence[Sample]:
        """Return those samples, each read when it is asked for."""
        return _Taken(self, indices)

    def _pictures(self, number: int) -> pa.Table:
        """Return the pictures of one row group, of all that were looked at lately; any thread may ask."""
        with self._one_at_a_time:
            if number in self._cache:
                self._cache.move_to_end(number)
                return self._cache[number]
            shard, group = self._groups[number]
            with _readable(shard), pq.ParquetFile(shard) as file:
                # Shards of an earlier version may lack the lesion masks.
                columns = [name for name in _NO_PICTURES if name in file.schema_arrow.names]
                table = file.read_row_group(group, columns=columns, use_threads=False)
            self._cache[number] = table
            while len(self._cache) > 1 and sum(kept.nbytes for kept in self._cache.values()) > CACHED_BYTES:
                self._cache.popitem(last=False)
            return table

    @property
    def prompts(self) -> list[str]:
        """Prompt of every sample, without decoding pictures."""
        columns = self._known.select(["findings", "view_position", "sex"]).to_pylist()
        return [prompt_from_findings(row["findings"], row["view_position"], row["sex"]) for row in columns]

    @property
    def findings(self) -> list[tuple[Finding, ...]]:
        """Findings of every sample, without decoding pictures."""
        return [tuple(Finding(name) for name in names) for names in self._known["findings"].to_pylist()]

    @property
    def sources(self) -> list[str]:
        """Source of every sample, without decoding pictures."""
        names: list[str] = self._known["source"].to_pylist()
        return names

    @property
    def demographics(self) -> list[tuple[str, str, int | None]]:
        """View position, sex and age of every sample, without decoding pictures."""
        columns = self._known.select(["view_position", "sex", "age"]).to_pylist()
        return [(row["view_position"], row["sex"], row["age"]) for row in columns]

    @property
    def box_findings(self) -> list[tuple[Finding, ...]]:
        """Findings that have a box, of every sample, without decoding pictures."""
        return [tuple(Finding(box["finding"]) for box in boxes) for boxes in self._known["boxes"].to_pylist()]

    def with_organ_mask(self) -> list[int]:
        """Return the indices of samples that have an organ mask."""
        return [int(index) for index in np.flatnonzero(self._masked)]


class _Taken(Sequence[Sample]):
    def __init__(self, data: PreparedDataset, indices: Sequence[int]) -> None:
        self._data, self._indices = data, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]
        return self._data[self._indices[index]]


def fingerprint(folders: Sequence[Path | str], split: str) -> str:
    """Tell the content of a split, wherever it lies: a hash of its shards' names and bytes, a second per gigabyte.

    Raises:
        DataError: a shard cannot be read.
    """
    digest = hashlib.sha256()
    for folder in map(Path, folders):
        for shard in sorted(folder.glob(f"{split}-*.parquet")):
            with _readable(shard), shard.open("rb") as file:
                digest.update(shard.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


@contextmanager
def _readable(shard: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{shard} cannot be read ({error}); delete it and run `xreal prepare` again") from error
