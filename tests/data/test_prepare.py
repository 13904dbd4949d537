"""Sources become prepared data sets: nothing lost, nothing done twice, nothing taken over unseen."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from xreal.data.phantom import Phantom
from xreal.data.prepare import prepare
from xreal.data.prepared import SCHEMA, PreparedDataset
from xreal.data.sources.record import split_by_hash
from xreal.errors import DataError, FindingError, InputError, OutputError
from xreal.vocabulary import Finding, Organ

Provider = Callable[[np.ndarray], np.ndarray | None]


def write_table(path: Path, *rows: tuple[object, ...]) -> None:
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)


def times(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_phantoms_arrive_unchanged(phantom_data: Path, phantoms: list[Phantom]) -> None:
    train, val = (PreparedDataset([phantom_data], split) for split in ("train", "val"))
    assert (len(train), len(val)) == (9, 3)
    assert train.with_organ_mask() == list(range(9))
    samples = {sample.image_id: sample for sample in (*train, *val)}
    for number, chest in enumerate(phantoms):
        sample = samples[f"chest-{number:02d}"]
        np.testing.assert_array_equal(sample.image, np.rint(chest.image * 255))
        np.testing.assert_array_equal(sample.organ_mask, chest.organ_mask)
        assert set(sample.findings) == set(chest.lesion_masks or [Finding.NO_FINDING])
        assert (sample.patient_id, sample.view_position, sample.age) == (f"p{number}", "PA", 50)
    assert train.prompts == [sample.prompt for sample in train]
    assert train.findings == [sample.findings for sample in train]
    assert samples["chest-01"].prompt == "Pneumonia, PA view, male"
    with pytest.raises(IndexError):
        train[9]


def test_summary_counts(phantom_data: Path) -> None:
    summary = json.loads((phantom_data / "summary.json").read_text())
    assert summary["counts"] == {
        "images": 12,
        "with organ mask": 12,
        "No Finding": 4,
        "Pneumonia": 4,
        "Pleural Effusion": 4,
        "Cardiomegaly": 4,
    }
    assert summary["skipped"] == {}
    assert (summary["source"], summary["image_size"]) == ("folder", 64)


def test_shards_are_parquet_with_pictures_that_open(phantom_data: Path) -> None:
    import io

    table = pq.read_table(phantom_data / "train-00000.parquet")
    assert table.schema.equals(SCHEMA)
    picture = table["image"][0].as_py()
    assert Image.open(io.BytesIO(picture["bytes"])).size == (64, 64)
    assert picture["path"].endswith(".png")


def test_interrupted_work_goes_on_with_what_is_missing(
    phantom_folder: Path, phantom_masks: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xreal.data.prepare.SHARD_ROWS", 4)
    summary = prepare("folder", phantom_folder, tmp_path, 64, phantom_masks)
    names = ["train-00000", "train-00001", "train-00002", "val-00000"]
    assert sorted(path.stem for path in tmp_path.glob("*.parquet")) == names
    whole, before = list(PreparedDataset([tmp_path], "train")), times(tmp_path)

    (tmp_path / "train-00001.parquet").unlink()
    (tmp_path / "train-00001.json").unlink()
    (tmp_path / "train-00002.parquet").unlink()  # its report is still there
    (tmp_path / "train-00001.tmp").write_bytes(b"half a shard")
    assert prepare("folder", phantom_folder, tmp_path, 64, phantom_masks) == summary
    after = times(tmp_path)
    changed = {name for name in after if after[name] != before.get(name)}
    shards = {f"train-0000{i}.{kind}" for i in (1, 2) for kind in ("parquet", "json")}
    assert changed == shards | {"summary.json", "sheet.png"}
    for ours, theirs in zip(PreparedDataset([tmp_path], "train"), whole, strict=True):
        assert ours.image_id == theirs.image_id
        np.testing.assert_array_equal(ours.image, theirs.image)


def test_progress_sees_every_shard(phantom_folder: Path, tmp_path: Path) -> None:
    seen: list[str] = []

    def progress(shards: list) -> list:
        seen.extend(name for name, _ in shards)
        return shards

    prepare("folder", phantom_folder, tmp_path, 64, progress=progress)
    assert seen == ["train-00000", "val-00000"]
    assert PreparedDataset([tmp_path], "val").with_organ_mask() == []


def test_unreadable_pictures_are_left_out_and_listed(phantom_folder: Path, tmp_path: Path) -> None:
    raw = Path(shutil.copytree(phantom_folder, tmp_path / "raw"))
    content = (raw / "chest-01.png").read_bytes()
    (raw / "chest-01.png").write_bytes(content[: len(content) // 2])
    (raw / "chest-03.png").write_text("not a picture")
    summary = prepare("folder", raw, tmp_path / "out", 64)
    assert sorted(summary["skipped"]) == ["chest-01", "chest-03"]  # type: ignore[call-overload]
    assert "chest-01.png" in summary["skipped"]["chest-01"]  # type: ignore[index]
    assert summary["counts"]["images"] == 10  # type: ignore[index]
    assert prepare("folder", raw, tmp_path / "out", 64) == summary  # listed again by a second call


def test_masks_that_cannot_be_trusted_are_left_out(phantom_folder: Path, tmp_path: Path) -> None:
    summary = prepare("folder", phantom_folder, tmp_path, 64, lambda image: None)
    assert summary["counts"]["with organ mask"] == 0  # type: ignore[index]


@pytest.mark.parametrize("change", ["size", "masks", "files"])
def test_other_settings_are_refused(
    change: str, phantom_folder: Path, phantom_data: Path, phantom_masks: Provider, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(phantom_data, tmp_path / "out"))
    raw = Path(shutil.copytree(phantom_folder, tmp_path / "raw"))
    if change == "files":
        (raw / "chest-00.png").unlink()
    before = times(out)
    with pytest.raises(DataError, match="was begun with other settings"):
        prepare("folder", raw, out, 32 if change == "size" else 64, None if change == "masks" else phantom_masks)
    assert times(out) == before


def test_folder_of_others_is_not_written_into(phantom_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(OutputError, match="is not empty and was not written by"):
        prepare("folder", phantom_folder, tmp_path, 64)
    with pytest.raises(OutputError, match="cannot be made a folder"):
        prepare("folder", phantom_folder, tmp_path / "thesis.tex", 64)


def test_unknown_source_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown source 'mimic'; expected one of jsrt, nih-cxr14, folder"):
        prepare("mimic", tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def jsrt(tmp_path: Path) -> Path:
    raw = tmp_path / "jsrt"
    for name in ("images", "masks"):
        (raw / name).mkdir(parents=True)
    image = np.arange(60 * 80, dtype=np.uint32).reshape(60, 80) * 13  # 16 bits, wider than high
    levels = np.zeros((60, 80), np.uint8)
    levels[20:40, 10:30], levels[20:40, 50:70], levels[30:50, 30:50] = 150, 200, 250
    for stem in ("JPCLN001", "JPCNN002"):
        Image.fromarray(image.astype(np.uint16)).save(raw / "images" / f"{stem}.png")
        Image.fromarray(levels).save(raw / "masks" / f"{stem}.png")
    rows = [("JPCLN001.png", "train", "53", "female"), ("JPCNN002.png", "val", "", "Male")]
    write_table(raw / "metadata.csv", ("image", "split", "age", "sex"), *rows)
    return raw


def test_jsrt_brings_its_masks(jsrt: Path, tmp_path: Path) -> None:
    prepare("jsrt", jsrt, tmp_path / "out", 80, organ_masks=lambda image: pytest.fail("the source has masks"))
    (train,), (val,) = (PreparedDataset([tmp_path / "out"], split) for split in ("train", "val"))
    assert (train.image_id, train.sex, train.age, train.view_position) == ("jsrt-JPCLN001", "F", 53, "PA")
    assert (val.sex, val.age, val.findings, val.prompt) == ("M", None, (), "PA view, male")
    expected = np.zeros((80, 80), np.uint8)  # padded by 10 rows above and below
    expected[30:50, 10:30], expected[30:50, 50:70] = Organ.RIGHT_LUNG, Organ.LEFT_LUNG
    expected[40:60, 30:50] = Organ.HEART
    np.testing.assert_array_equal(train.organ_mask, expected)
    assert (train.image[:10] == 0).all()
    assert train.image[10:70].max() == round(4799 * 13 / 65535 * 255)


def test_jsrt_image_without_its_mask_is_left_out(jsrt: Path, tmp_path: Path) -> None:
    (jsrt / "masks/JPCLN001.png").unlink()
    summary = prepare("jsrt", jsrt, tmp_path / "out", 80)
    assert list(summary["skipped"]) == ["jsrt-JPCLN001"]  # type: ignore[call-overload]


@pytest.fixture
def nih(tmp_path: Path) -> Path:
    raw = tmp_path / "nih"
    (raw / "images").mkdir(parents=True)
    for stem in ("00000001_000", "00000002_003"):
        Image.fromarray(np.full((80, 100), 90, np.uint8)).save(raw / "images" / f"{stem}.png")
    rows = [("00000001_000.png", "train", "Effusion|Infiltration", "AP", "F", "77")]
    rows.append(("00000002_003.png", "val", "", "PA", "M", "?"))
    write_table(raw / "metadata.csv", ("image", "split", "labels", "view", "sex", "age"), *rows)
    places = [("00000001_000.png", "Infiltrate", 10, 20, 30, 40), ("00000001_000.png", "Effusion", 0, 0, 100, 80)]
    write_table(raw / "boxes.csv", ("image", "label", "x", "y", "width", "height"), *places)
    return raw


def test_nih_brings_labels_and_boxes(nih: Path, tmp_path: Path) -> None:
    prepare("nih-cxr14", nih, tmp_path / "out", 50)
    (train,), (val,) = (PreparedDataset([tmp_path / "out"], split) for split in ("train", "val"))
    assert train.prompt == "Pleural Effusion, Infiltration, AP view, female"
    assert (val.prompt, val.age, val.boxes) == ("No Finding, PA view, male", None, ())
    assert train.patient_id == "nih-00000001_000"
    first, second = train.boxes  # halved, and 10 rows of padding above
    assert (first.finding, first.x, first.y, first.width, first.height) == (Finding.INFILTRATION, 5, 15, 15, 20)
    assert (second.x, second.y, second.width, second.height) == (0, 5, 50, 40)
    rows, columns = np.nonzero(train.image > 45)
    assert (rows.min(), rows.max() + 1, columns.max() + 1) == (5, 45, 50)  # where the second box says


def test_opacities_of_the_pneumonia_challenge_show_the_labels_that_are_opacities(nih: Path, tmp_path: Path) -> None:
    places = [
        ("00000001_000.png", "Lung Opacity", 10, 20, 30, 40, "RSNA"),
        ("00000001_000.png", "Mass", 0, 0, 9, 9, "NIH"),
    ]
    write_table(nih / "boxes.csv", ("image", "label", "x", "y", "width", "height", "source"), *places)
    prepare("nih-cxr14", nih, tmp_path / "out", 50)
    (train,) = PreparedDataset([tmp_path / "out"], "train")
    *opacity, mass = train.boxes
    assert [box.finding for box in opacity] == [
        Finding.LUNG_OPACITY,
        Finding.PNEUMONIA,
        Finding.INFILTRATION,
        Finding.PLEURAL_EFFUSION,
    ]
    assert len({(box.x, box.y, box.width, box.height) for box in opacity}) == 1
    assert mass.finding == Finding.MASS


@pytest.mark.parametrize(
    ("rows", "error", "said"),
    [
        ([("image", "split")], DataError, "has no column labels; it has image, split"),
        ([("image", "split", "labels"), ("a.png", "train", "Broken Heart")], FindingError, "Broken Heart"),
        (None, DataError, "holds neither Data_Entry_2017.csv .* nor metadata.csv"),
    ],
)
def test_tables_are_checked(
    rows: list[tuple[str, ...]] | None, error: type[Exception], said: str, nih: Path, tmp_path: Path
) -> None:
    (nih / "metadata.csv").unlink()
    if rows is not None:
        write_table(nih / "metadata.csv", *rows)
    with pytest.raises(error, match=said):
        prepare("nih-cxr14", nih, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folder_without_a_table_is_split_by_patient(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"holds no picture \(\.jpeg, \.jpg, \.png.* and no DICOM file"):
        prepare("folder", tmp_path / "empty", tmp_path / "out")
    (tmp_path / "raw/sub").mkdir(parents=True)
    Image.fromarray(np.full((40, 40), 7, np.uint8)).save(tmp_path / "raw/sub/a.png")
    prepare("folder", tmp_path / "raw", tmp_path / "out", 32)
    (sample,) = PreparedDataset([tmp_path / "out"], split_by_hash("sub/a.png"))
    assert (sample.image_id, sample.prompt) == ("sub-a", "")
    share = np.mean([split_by_hash(f"patient {i}") == "val" for i in range(3000)])
    assert share == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize(
    ("column", "meant"), [("label", "labels"), ("Labels", "labels"), ("patient-id", "patient_id"), ("gender", "sex")]
)
def test_a_column_that_looks_misspelt_is_refused(tmp_path: Path, column: str, meant: str) -> None:
    (tmp_path / "raw").mkdir()
    Image.fromarray(np.full((40, 40), 7, np.uint8)).save(tmp_path / "raw/a.png")
    write_table(tmp_path / "raw/metadata.csv", ("image", column), ("a.png", ""))
    with pytest.raises(DataError, match=f"has a column {column!r}; call it {meant!r}"):
        prepare("folder", tmp_path / "raw", tmp_path / "out", 32)
    write_table(tmp_path / "raw/metadata.csv", ("image", "ward"), ("a.png", "7"))  # somebody's own
    assert prepare("folder", tmp_path / "raw", tmp_path / "out", 32)["counts"] == {"images": 1, "with organ mask": 0}


@pytest.mark.parametrize(("side", "known"), [(64, True), (32, False)])
def test_how_a_jpeg_was_compressed_is_kept_with_its_very_pixels_only(tmp_path: Path, side: int, known: bool) -> None:
    (tmp_path / "raw").mkdir()
    grey = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8))
    grey.save(tmp_path / "raw/a.jpg", quality=90)
    grey.save(tmp_path / "raw/b.png")
    prepare("folder", tmp_path / "raw", tmp_path / "out", side)
    splits = [split for split in ("train", "val") if any((tmp_path / "out").glob(f"{split}-*.parquet"))]
    steps = {s.image_id: s.jpeg_steps for split in splits for s in PreparedDataset([tmp_path / "out"], split)}
    assert len(steps["a"]) == (64 if known else 0)
    assert steps["b"] == ()


def test_shards_of_an_earlier_version_have_no_steps(phantom_data: Path, tmp_path: Path) -> None:
    table = pq.read_table(phantom_data / "val-00000.parquet")
    pq.write_table(table.drop_columns(["jpeg_steps"]), tmp_path / "val-00000.parquet")
    assert {sample.jpeg_steps for sample in PreparedDataset([tmp_path], "val")} == {()}


def test_prepared_folder_that_cannot_be_read(phantom_data: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(phantom_data, tmp_path / "out"))
    shard = out / "train-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"train-00000.parquet cannot be read .* delete it and run `xreal prepare`"):
        PreparedDataset([out], "train")
    with pytest.raises(DataError, match=r"no test-\*\.parquet in .*out; add a source"):
        PreparedDataset([out], "test")
    with pytest.raises(DataError, match="is no folder"):
        PreparedDataset([out / "nowhere"], "train")


def test_several_folders_follow_each_other(phantom_data: Path) -> None:
    once, twice = (PreparedDataset([phantom_data] * n, "val") for n in (1, 2))
    assert [s.image_id for s in twice] == [s.image_id for s in once] * 2
