"""Preparing in several processes, by a policy, with splits that hold; shards that others open."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from xreal.data.contract import Box, Sample
from xreal.data.prepare import prepare
from xreal.data.prepared import SCHEMA, PreparedDataset, write_shard
from xreal.errors import DataError, InputError
from xreal.vocabulary import Finding

Write = Callable[..., None]
Prepared = Callable[..., tuple[dict[str, Sample], dict]]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def raw(tmp_path: Path, write_picture: Write, write_table: Write) -> Path:
    """Six pictures, one of them broken, of three patients."""
    folder = tmp_path / "raw"
    for number in range(6):
        write_picture(folder / f"{number}.png", (40 + number, 50))
    (folder / "4.png").write_bytes((folder / "4.png").read_bytes()[:-40])
    columns = ("image", "patient_id", "split", "labels", "uncertain")
    rows = [(f"{n}.png", f"p{n // 2}", ("train", "val", "test")[n // 2], "Mass" if n % 2 else "", "") for n in range(6)]
    rows[0] = ("0.png", "p0", "train", "", "Edema")
    rows[1] = ("1.png", "p0", "train", "", "Support Devices")
    write_table(folder / "metadata.csv", columns, *rows)
    return folder


def test_result_is_the_same_whatever_the_number_of_workers(raw: Path, tmp_path: Path) -> None:
    one = prepare("folder", raw, tmp_path / "one", 32)
    two = prepare("folder", raw, tmp_path / "two", 32, workers=2)
    assert one == two
    assert list(one["skipped"]) == ["4"]  # type: ignore[call-overload]
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert {"sheet.png", "summary.json"} < content(tmp_path / "one").keys()


@pytest.mark.parametrize(
    ("policy", "findings", "left_out"),
    [
        ("negative", [(Finding.NO_FINDING,), (Finding.NO_FINDING,)], {}),
        ("positive", [(Finding.EDEMA,), (Finding.NO_FINDING, Finding.SUPPORT_DEVICES)], {}),
        ("drop", [], {"uncertain label": 2}),
    ],
)
def test_policy_for_uncertain_labels(
    policy: str, findings: list[tuple[Finding, ...]], left_out: dict, raw: Path, prepared: Prepared
) -> None:
    samples, summary = prepared("folder", raw, uncertain=policy)
    assert [samples[name].findings for name in "01" if name in samples] == findings
    assert (summary["left_out"], summary["uncertain"]["policy"]) == (left_out, policy)
    assert summary["splits"]["test"] == {"images": 1, "patients": 1}


def test_bad_options(raw: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'maybe'; expected one of negative, positive, drop"):
        prepare("folder", raw, tmp_path / "out", uncertain="maybe")
    with pytest.raises(InputError, match="0 workers cannot read anything"):
        prepare("folder", raw, tmp_path / "out", workers=0)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("0.png", "p", "train"), ("1.png", "p", "val")], r"patient p is in both train and val \(1\); put all"),
        ([("0.png", "p", "training")], "0 is in the split 'training'; expected one of train, val, test"),
        ([], "two pictures are called 0; rename one"),
    ],
)
def test_splits_and_names_are_checked(rows: list, said: str, raw: Path, tmp_path: Path, write_table: Write) -> None:
    write_table(raw / "metadata.csv", ("image", "patient_id", "split"), *rows)
    if not rows:
        shutil.copy(raw / "0.png", raw / "0.jpeg")
    with pytest.raises(DataError, match=said):
        prepare("folder", raw, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_changed_labels_are_refused_but_folders_of_earlier_versions_go_on(
    raw: Path, tmp_path: Path, write_table: Write
) -> None:
    out = tmp_path / "out"
    summary = prepare("folder", raw, out, 32)
    with pytest.raises(DataError, match="was begun with other settings"):
        prepare("folder", raw, out, 32, uncertain="positive")
    settings = json.loads((out / "settings.json").read_text())
    earlier = {name: settings[name] for name in ("source", "image_size", "organ_masks", "listing")}
    (out / "settings.json").write_text(json.dumps(earlier))
    assert prepare("folder", raw, out, 32) == summary
    with pytest.raises(DataError, match="was begun with other settings"):
        prepare("folder", raw, out, 64)


def test_nothing_left_says_why(raw: Path, tmp_path: Path, write_table: Write) -> None:
    write_table(raw / "metadata.csv", ("image", "view"), *((f"{n}.png", "LATERAL") for n in range(6)))
    with pytest.raises(DataError, match=r"no X-ray is left \(6 not frontal\)"):
        prepare("folder", raw, tmp_path / "out")


def test_drawn_lesions_survive_writing(tmp_path: Path) -> None:
    drawn = np.zeros((16, 16), np.uint8)
    drawn[2:5, 3:9] = 1
    boxes = (Box(Finding.MASS, 0, 0, 9, 9),)
    samples = [
        Sample(np.zeros((16, 16), np.uint8), image_id="a", boxes=boxes, lesion_mask=drawn),
        Sample(np.zeros((16, 16), np.uint8), image_id="b", boxes=boxes),
    ]
    write_shard(tmp_path / "train-00000.parquet", samples)
    data = PreparedDataset([tmp_path], "train")
    np.testing.assert_array_equal(data[0].box_mask, drawn)
    assert (data[1].lesion_mask, data[1].box_mask.sum()) == (None, 81)
    assert data.box_findings == [(Finding.MASS,)] * 2


def test_shards_of_earlier_versions_have_no_drawn_lesions(phantom_data: Path, tmp_path: Path) -> None:
    for path in phantom_data.glob("*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns("lesion_mask").replace_schema_metadata(), tmp_path / path.name)
    for old, new in zip(PreparedDataset([tmp_path], "val"), PreparedDataset([phantom_data], "val"), strict=True):
        np.testing.assert_array_equal(old.image, new.image)
        assert old.lesion_mask is None


def test_columns_are_described_for_hugging_face(phantom_data: Path) -> None:
    shard = phantom_data / "train-00000.parquet"
    features = json.loads(pq.read_schema(shard).metadata[b"huggingface"])["info"]["features"]
    assert list(features) == SCHEMA.names
    images = [name for name, feature in features.items() if feature == {"_type": "Image"}]
    assert images == ["image", "organ_mask", "lesion_mask"]
    assert features["age"] == {"_type": "Value", "dtype": "int16"}
    assert features["findings"] == [{"_type": "Value", "dtype": "string"}]
    assert features["boxes"][0]["width"] == {"_type": "Value", "dtype": "float32"}
    assert pa.types.is_struct(pq.read_schema(shard).field("image").type)


def test_hugging_face_opens_shards(phantom_data: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="Hugging Face datasets is not installed")
    files = {"train": str(phantom_data / "train-*.parquet")}
    data = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path))
    assert isinstance(data["train"][0]["image"], Image.Image)


def test_contact_sheet_has_a_pair_of_rows_per_eight(phantom_data: Path, raw: Path, tmp_path: Path) -> None:
    with Image.open(phantom_data / "sheet.png") as sheet:
        assert sheet.size == (4 + 8 * 164, 4 + 4 * 164)  # 12 phantoms
    for path in raw.glob("*.png"):
        path.write_bytes(b"broken")
    summary = prepare("folder", raw, tmp_path / "out", 32)
    assert summary["counts"] == {"images": 0, "with organ mask": 0}
    assert not (tmp_path / "out/sheet.png").exists()


def test_command_line(
    raw: Path, tmp_path: Path, run: Callable[..., int], capsys: pytest.CaptureFixture[str], write_table: Write
) -> None:
    call = ("prepare", "folder", raw, tmp_path / "out", "--image-size", 32)
    assert run(*call, "--uncertain", "drop", "--organ-masks", tmp_path / "none.csv") == 2
    assert "none.csv is missing" in capsys.readouterr().err
    rows = list(csv.reader((raw / "metadata.csv").read_text().splitlines()))
    table = [(*row, "LL" if row[0] == "5.png" else "") for row in rows[1:]]
    write_table(raw / "metadata.csv", (*rows[0], "view"), *table)
    assert run(*call, "--uncertain", "drop") == 0
    shown = capsys.readouterr().out
    for line in ("2  in val, of 1 patients", "1  left out: not frontal", "2  left out: uncertain label", "skipped 4: "):
        assert line in shown
