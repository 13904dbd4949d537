"""A prepared data set of any size: opened by its index, read picture by picture, by other libraries too."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

import xreal.data.prepared
from xreal.data.contract import Sample
from xreal.data.prepared import PreparedDataset, fingerprint, write_shard
from xreal.errors import DataError
from xreal.vocabulary import Finding

ROWS = 96


def samples(first: int) -> list[Sample]:
    noise = np.random.default_rng(first)
    pictures = noise.integers(0, 256, (ROWS, 64, 64), np.uint8)  # 4 kB each, whatever compresses them
    masks = [np.full((64, 64), 1, np.uint8) if i % 3 == 0 else None for i in range(ROWS)]
    findings = (Finding.EDEMA,), (Finding.NO_FINDING,)
    return [
        Sample(picture, mask, f"{first + i}", f"p{first + i}", "noise", findings[i % 2], "PA", "F", 50)
        for i, (picture, mask) in enumerate(zip(pictures, masks, strict=True))
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("noise")
    for number, first in enumerate((0, ROWS)):
        write_shard(out / f"train-{number:05d}.parquet", samples(first))
    return out


def test_opening_reads_no_pictures_and_few_are_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = 2 * ROWS * 64 * 64
    before = pa.total_allocated_bytes()
    data = PreparedDataset([folder], "train")
    assert len(data) == len(data.findings) == len(data.prompts) == 2 * ROWS
    assert data.with_organ_mask() == list(range(0, 2 * ROWS, 3))
    assert pa.total_allocated_bytes() - before < pictures / 4
    monkeypatch.setattr(xreal.data.prepared, "CACHED_BYTES", pictures // 3)
    wanted = samples(0) + samples(ROWS)
    for index in (0, 191, 95, 96, 33, *range(2 * ROWS)):
        sample = data[index]
        np.testing.assert_array_equal(sample.image, wanted[index].image)
        assert (sample.organ_mask is None) == (wanted[index].organ_mask is None)
        assert (sample.image_id, sample.findings, sample.age) == (f"{index}", wanted[index].findings, 50)
        assert pa.total_allocated_bytes() - before < 0.75 * pictures
    with pytest.raises(IndexError):
        data[2 * ROWS]


def test_threads_and_other_processes_read_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xreal.data.prepared, "CACHED_BYTES", 1)  # a thread's group is thrown out while others look
    data = PreparedDataset([folder], "train")
    wanted = samples(0) + samples(ROWS)
    order = np.random.default_rng(0).permutation(2 * ROWS).tolist() * 3
    with ThreadPoolExecutor(8) as pool:
        for index, sample in zip(order, pool.map(data.__getitem__, order), strict=True):
            np.testing.assert_array_equal(sample.image, wanted[index].image)
    again = pickle.loads(pickle.dumps(data))
    np.testing.assert_array_equal(again[100].image, wanted[100].image)


def test_chosen_samples_are_read_when_they_are_asked_for(folder: Path) -> None:
    data = PreparedDataset([folder], "train")
    chosen = data.take(data.with_organ_mask())
    assert len(chosen) == 2 * ROWS // 3
    assert [chosen[i].image_id for i in (0, 1, -1)] == ["0", "3", "189"]
    assert all(sample.organ_mask is not None for sample in chosen)


def test_shards_of_an_earlier_version_open(folder: Path, tmp_path: Path) -> None:
    table = pq.read_table(folder / "train-00000.parquet").drop_columns(["lesion_mask"])
    pq.write_table(table, tmp_path / "train-00000.parquet")
    sample = PreparedDataset([tmp_path], "train")[5]
    assert (sample.image_id, sample.lesion_mask) == ("5", None)


def test_a_shard_that_goes_away_is_named(folder: Path, tmp_path: Path) -> None:
    shard = tmp_path / "train-00000.parquet"
    shard.write_bytes((folder / "train-00000.parquet").read_bytes())
    data = PreparedDataset([tmp_path], "train")
    shard.unlink()
    with pytest.raises(DataError, match=r"train-00000\.parquet cannot be read"):
        data[0]


def test_a_fingerprint_tells_content_and_not_place(folder: Path, tmp_path: Path) -> None:
    for shard in folder.iterdir():
        (tmp_path / shard.name).write_bytes(shard.read_bytes())
    assert fingerprint([folder], "train") == fingerprint([tmp_path], "train")
    changed = samples(0)
    changed[40].image[5, 5] ^= 1
    write_shard(tmp_path / "train-00000.parquet", changed)
    assert fingerprint([folder], "train") != fingerprint([tmp_path], "train")


def test_hugging_face_datasets_opens_the_shards_as_they_are(folder: Path, tmp_path: Path) -> None:
    import datasets

    files = {"train": [str(shard) for shard in sorted(folder.iterdir())]}
    for streaming in (False, True):
        rows = datasets.load_dataset(
            "parquet", data_files=files, split="train", streaming=streaming, cache_dir=str(tmp_path)
        )
        assert isinstance(rows.features["image"], datasets.Image)
        row = next(iter(rows))
        np.testing.assert_array_equal(np.asarray(row["image"]), samples(0)[0].image)
        np.testing.assert_array_equal(np.asarray(row["organ_mask"]), samples(0)[0].organ_mask)
        assert (row["findings"], row["lesion_mask"]) == (["Edema"], None)


def test_pyarrow_streams_the_shards_as_one_table(folder: Path) -> None:
    rows = pyarrow.dataset.dataset(folder, format="parquet")
    assert rows.count_rows() == 2 * ROWS
    batch = next(rows.to_batches(columns=["image_id", "image"], batch_size=8))
    assert batch.num_rows == 8
    assert batch.to_pylist()[0]["image"]["bytes"].startswith(b"\x89PNG")
