"""CheXmask's tables: the right row for each picture, by any of its names, and only masks that can be trusted."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from xreal.data.contract import Sample
from xreal.data.sources import Record
from xreal.data.sources.chexmask import read_organ_row, with_organ_rows
from xreal.errors import DataError, MaskError
from xreal.vocabulary import Organ

Write = Callable[..., None]
Prepared = Callable[..., tuple[dict[str, Sample], dict]]
COLUMNS = ("Dice RCA (Mean)", "Dice RCA (Max)", "Landmarks", "Left Lung", "Right Lung", "Heart", "Height", "Width")
LANDMARKS = "[[  1   2]\n [  3   4]]"  # numpy's text: a row of the table goes over several lines


def organs(shape: tuple[int, int] = (48, 64)) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[8:40, 8:24], mask[8:40, 36:56], mask[24:40, 20:40] = Organ.RIGHT_LUNG, Organ.LEFT_LUNG, Organ.HEART
    return mask


def row(name: str, dice: float = 0.9, mask: np.ndarray | None = None) -> tuple[object, ...]:
    mask = organs() if mask is None else mask
    runs = []
    for organ in (Organ.LEFT_LUNG, Organ.RIGHT_LUNG, Organ.HEART):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], (mask == organ).ravel(), [0]]).astype(int)))
        runs.append(" ".join(f"{a + 1} {b - a}" for a, b in zip(edges[::2], edges[1::2], strict=True)))
    return (name, dice, dice, LANDMARKS, *runs, *mask.shape)


@pytest.fixture
def raw(tmp_path: Path, write_picture: Write) -> Path:
    for name in ("one", "two", "three"):
        write_picture(tmp_path / "raw" / f"{name}.png", (48, 64))
    return tmp_path / "raw"


def test_masks_reach_their_pictures(raw: Path, tmp_path: Path, write_table: Write, prepared: Prepared) -> None:
    table = tmp_path / "chexmask.csv"
    write_table(table, ("image_id", *COLUMNS), row("other"), row("two", 0.5), row("one"))
    made = np.full((32, 32), Organ.AORTA, np.uint8)
    samples, summary = prepared("folder", raw, organ_mask_table=table, organ_masks=lambda image: made)
    expected = np.zeros((32, 32), np.uint8)  # padded by 8 rows above and below, then every second pixel
    expected[4:28] = organs()[1::2, 1::2]
    np.testing.assert_array_equal(samples["one"].organ_mask, expected)
    for name in ("two", "three"):  # below the threshold, and not in the table
        np.testing.assert_array_equal(samples[name].organ_mask, made)
    samples, summary = prepared("folder", raw, organ_mask_table=table)
    assert (samples["two"].organ_mask, samples["three"].organ_mask) == (None, None)
    assert summary["counts"]["with organ mask"] == 1


@pytest.mark.parametrize(
    ("column", "name", "key", "file"),
    [
        ("dicom_id", "02aa804e-bde0afdd", "", "02aa804e-bde0afdd.jpg"),
        ("Image Index", "00000001_000.png", "", "00000001_000.png"),
        ("ImageID", "2168_01-060-132.png", "", "2168_01-060-132.png"),
        ("image_id", "0005e8e3", "", "0005e8e3.dicom"),
        ("Path", "train/patient00001/study1/view1_frontal.jpg", "train/patient00001/study1/view1_frontal.jpg", "v.jpg"),
        ("Path", "CheXpert-v1.0/valid/patient2/study1/v.jpg", "valid/patient2/study1/v.jpg", "v.jpg"),
    ],
)
def test_names_of_every_data_set(
    column: str, name: str, key: str, file: str, tmp_path: Path, write_table: Write
) -> None:
    table = tmp_path / "table.csv"
    write_table(table, ("", column, *COLUMNS), (0, *row("first")), (1, *row(name)))
    record = Record(Path("x") / file, "i", "train", "s", mask_key=key)
    (found,) = with_organ_rows([record], table)
    assert found.organ_row is not None
    np.testing.assert_array_equal(read_organ_row(*found.organ_row), organs())


def test_same_view_of_another_patient_is_another_picture(tmp_path: Path, write_table: Write) -> None:
    table = tmp_path / "table.csv"
    write_table(table, ("Path", *COLUMNS), row("train/patient1/study1/v.jpg"))
    records = [Record(Path("v.jpg"), str(n), "train", "s", mask_key=f"train/patient{n}/study1/v.jpg") for n in (1, 2)]
    assert [record.organ_row is None for record in with_organ_rows(records, table)] == [False, True]


def test_masks_of_another_shape_are_refused(raw: Path, tmp_path: Path, write_table: Write, prepared: Prepared) -> None:
    table = tmp_path / "chexmask.csv"
    square, double = row("one", mask=organs((64, 64))), row("two", mask=np.kron(organs(), np.ones((2, 2), np.uint8)))
    write_table(table, ("image_id", *COLUMNS), square, double)
    samples, summary = prepared("folder", raw, organ_mask_table=table)
    assert "organ mask of one is 64×64, the picture 48×64" in summary["skipped"]["one"]
    np.testing.assert_array_equal(samples["two"].organ_mask[4:28], organs()[1::2, 1::2])  # twice as large: the same


def test_damaged_row(tmp_path: Path, write_table: Write) -> None:
    table = tmp_path / "table.csv"
    write_table(table, ("image_id", *COLUMNS), (*row("one")[:-2], "tall", "64"))
    (found,) = with_organ_rows([Record(Path("one.png"), "i", "train", "s")], table)
    assert found.organ_row is not None
    with pytest.raises(MaskError, match=r"table.csv, row at byte \d+: .*tall"):
        read_organ_row(*found.organ_row)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\x1f\x8b packed", "is compressed; unpack it with gunzip"),
        (b"a,b\n1,2\n", "has no column dicom_id or Path"),
        (b"", "has no column dicom_id or Path"),
        (b"image_id,Heart\none,1 1\n", r"has no column Dice RCA \(Mean\), Height, Width, Left Lung, Right Lung"),
        ((",".join(("image_id", *COLUMNS)) + "\nelse,1\n").encode(), "names none of the X-rays, such as one"),
        (None, "is missing"),
    ],
)
def test_tables_that_are_none(content: bytes | None, said: str, raw: Path, tmp_path: Path, prepared: Prepared) -> None:
    table = tmp_path / "table.csv"
    if content is not None:
        table.write_bytes(content)
    (raw / "two.png").unlink()
    (raw / "three.png").unlink()
    with pytest.raises(DataError, match=said):
        prepared("folder", raw, organ_mask_table=table)
