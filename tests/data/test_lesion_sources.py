"""VinDr-CXR, RSNA, SIIM-ACR and folders of DICOM files in their own layouts: where lesions are, and on whose images."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from xreal.data.contract import Box, Sample
from xreal.data.sources import SOURCES
from xreal.data.sources.record import split_by_hash
from xreal.data.sources.run_length import decode_column_runs, decode_row_runs
from xreal.errors import DataError, MaskError
from xreal.vocabulary import Finding

Write = Callable[..., None]
Prepared = Callable[..., tuple[dict[str, Sample], dict]]
F = Finding
VINDR_LABELS = (
    "Aortic enlargement,Atelectasis,Calcification,Cardiomegaly,Clavicle fracture,Consolidation,Edema,Emphysema,"
    "Enlarged PA,ILD,Infiltration,Lung Opacity,Lung cavity,Lung cyst,Mediastinal shift,Nodule/Mass,Pleural effusion,"
    "Pleural thickening,Pneumothorax,Pulmonary fibrosis,Rib fracture,Other lesion,COPD,Lung tumor,Pneumonia,"
    "Tuberculosis,Other diseases,No finding"
)
masks = arrays.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 1))


def runs_of(flat: np.ndarray) -> list[tuple[int, int]]:
    """Starts, counted from 0, and ends of the runs of ones."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def column_runs(mask: np.ndarray) -> str:
    words, last = [], 0
    for start, end in runs_of(mask.T.ravel()):
        words += [start - last, end - start]
        last = end
    return " ".join(map(str, words))


def row_runs(mask: np.ndarray) -> str:
    return " ".join(f"{start + 1} {end - start}" for start, end in runs_of(mask.ravel()))


@settings(max_examples=50)
@given(masks)
def test_run_lengths_round_trip(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(decode_column_runs(column_runs(mask), mask.shape), mask)
    np.testing.assert_array_equal(decode_row_runs(row_runs(mask), mask.shape), mask)


def test_run_lengths_as_published() -> None:
    # The example of the challenge's data page: 387,620 pixels down the columns of 1024 is column 378, row 548.
    mask = decode_column_runs("387620 23 996 33 986 43", (1024, 1024))
    assert [np.flatnonzero(mask[:, column])[[0, -1]].tolist() for column in (378, 379, 380)] == [
        [548, 570],
        [543, 575],
        [538, 580],
    ]
    assert mask.sum() == 23 + 33 + 43
    assert np.argwhere(decode_row_runs("2 1", (2, 2))).tolist() == [[0, 1]]


@pytest.mark.parametrize("decode", [decode_column_runs, decode_row_runs])
@pytest.mark.parametrize(
    ("runs", "said"), [("1 2 3", "not pairs"), ("1 x", "not pairs"), ("-1 2", "not pairs"), ("9 9", "leave the image")]
)
def test_run_lengths_that_cannot_be(decode: Callable, runs: str, said: str) -> None:
    with pytest.raises(MaskError, match=said):
        decode(runs, (3, 4))


@pytest.fixture
def vindr(tmp_path: Path, write_table: Write, write_dicom: Write, write_picture: Write) -> Path:
    raw = tmp_path / "vindr"
    labels = VINDR_LABELS.split(",")

    def row(*named: str) -> list[int]:
        return [int(label in named) for label in labels]

    readings = [
        ("aaa", "R1", *row("Nodule/Mass", "Aortic enlargement", "Pleural effusion")),
        ("aaa", "R2", *row("Nodule/Mass", "Rib fracture")),
        ("aaa", "R3", *row("Lung cavity")),  # a lesion as well
        ("bbb", "R8", *row("No finding")),
        ("bbb", "R9", *row("No finding")),
        ("bbb", "R10", *row("ILD", "Infiltration")),
    ]
    write_table(raw / "annotations/image_labels_train.csv", ("image_id", "rad_id", *labels), *readings)
    box_columns = ("image_id", "rad_id", "class_name", "x_min", "y_min", "x_max", "y_max")
    places = [
        ("aaa", "R1", "Nodule/Mass", 10.0, 10.0, 20.0, 20.0),
        ("aaa", "R2", "Nodule/Mass", 12.0, 10.0, 22.0, 20.0),
        ("aaa", "R3", "Lung cavity", 2.0, 2.0, 6.0, 6.0),
        ("aaa", "R1", "Pleural effusion", 0.0, 30.0, 8.0, 40.0),
        ("aaa", "R1", "Aortic enlargement", 1.0, 1.0, 2.0, 2.0),
        ("bbb", "R8", "No finding", "", "", "", ""),
    ]
    write_table(raw / "annotations/annotations_train.csv", box_columns, *places)
    test_labels = [label.replace("diseases", "disease") for label in labels]
    write_table(
        raw / "annotations/image_labels_test.csv", ("image_id", *test_labels), ("ccc", *row("Pulmonary fibrosis"))
    )
    write_table(
        raw / "annotations/annotations_test.csv",
        ("image_id", *box_columns[2:]),
        ("ccc", "Pulmonary fibrosis", 4, 8, 16, 20),
    )
    for name, sex in (("aaa", "F"), ("bbb", "O")):
        write_dicom(raw / f"train/{name}.dicom", (40, 32), PatientSex=sex, PatientAge="050Y")
    write_picture(raw / "test/ccc.png")
    return raw


@pytest.mark.parametrize("uncertain", ["negative", "positive", "drop"])
def test_vindr(uncertain: str, vindr: Path, prepared: Prepared) -> None:
    samples, summary = prepared("vindr-cxr", vindr, uncertain=uncertain)
    third = samples["vindr-ccc"]
    assert (third.findings, third.boxes) == ((F.FIBROSIS,), (Box(F.FIBROSIS, 4, 8, 12, 12),))
    if uncertain == "drop":
        assert sorted(samples) == ["vindr-ccc"]
        assert summary["left_out"] == {"uncertain label": 2}
        return
    first, second = samples["vindr-aaa"], samples["vindr-bbb"]
    assert (first.sex, first.age, first.view_position) == ("F", 50, "PA")
    sides = [[round(value, 3) for value in (box.x, box.y, box.width, box.height)] for box in first.boxes]
    assert sides[:2] == [[5.6 + 3.2 + 3.2 - 0.0, 8, 8, 8], [4.8, 1.6, 3.2, 3.2]]  # padded by 4, then 32 / 40
    if uncertain == "negative":
        assert first.findings == (F.LUNG_LESION,)
        assert len(first.boxes) == 2
        assert second.prompt == "No Finding, PA view"
    else:
        assert first.findings == (F.FRACTURE, F.LUNG_LESION, F.PLEURAL_EFFUSION)
        assert [box.finding for box in first.boxes[2:]] == [F.PLEURAL_EFFUSION]
        assert second.findings == (F.INFILTRATION,)
    assert summary["other_labels"] == {"Aortic enlargement": 1, "ILD": 1}


@pytest.fixture
def rsna(tmp_path: Path, write_table: Write, write_dicom: Write) -> Path:
    raw = tmp_path / "rsna"
    labels = [("p1", "", "", "", "", 0), ("p2", "", "", "", "", 0), ("p3", 4, 8, 10, 12, 1), ("p3", 20, 8, 8, 12, 1)]
    write_table(raw / "stage_2_train_labels.csv", ("patientId", "x", "y", "width", "height", "Target"), *labels)
    classes = [("p1", "No Lung Opacity / Not Normal"), ("p2", "Normal"), ("p3", "Lung Opacity"), ("p3", "Lung Opacity")]
    write_table(raw / "stage_2_detailed_class_info.csv", ("patientId", "class"), *classes)
    for name in ("p1", "p2", "p3"):
        header = {"PatientID": name, "PatientSex": "F", "PatientAge": "51", "ViewPosition": "AP"}
        write_dicom(raw / f"stage_2_train_images/{name}.dcm", **header)
    return raw


def test_rsna(rsna: Path, prepared: Prepared) -> None:
    samples, summary = prepared("rsna", rsna)
    assert samples["rsna-p1"].findings == ()
    assert samples["rsna-p2"].prompt == "No Finding, AP view, female"
    ill = samples["rsna-p3"]
    assert ill.findings == (F.LUNG_OPACITY, F.PNEUMONIA)
    assert {(box.x, box.finding) for box in ill.boxes} == {(x, f) for x in (4, 20) for f in ill.findings}
    assert ill.box_mask.sum() == 12 * (10 + 8)
    assert summary["boxes"] == {"Lung Opacity": 2, "Pneumonia": 2}


def test_rsna_table_of_origins_joins_patients(rsna: Path) -> None:
    origins = [{"subset_img_id": f"p{i}", "img_id": f"0000001{i // 3}_00{i}.png", "orig_labels": []} for i in (1, 2, 3)]
    table = rsna / "pneumonia-challenge-dataset-mappings_2018.json"
    table.write_text(json.dumps(origins))
    patients = [record.patient_id for record in SOURCES["rsna"](rsna).records]
    assert patients == ["nih-10", "nih-10", "nih-11"]
    table.write_text("{}[")
    with pytest.raises(DataError, match="is not a list of subset_img_id and img_id"):
        SOURCES["rsna"](rsna)


def test_rsna_bad_tables(rsna: Path, write_table: Write, prepared: Prepared) -> None:
    columns = ("patientId", "x", "y", "width", "height", "Target")
    write_table(rsna / "stage_2_train_labels.csv", columns, ("p3", "left", 8, 10, 12, 1))
    with pytest.raises(DataError, match=r"has no number where rsna has one \(.*'left'\)"):
        prepared("rsna", rsna)
    write_table(rsna / "stage_2_train_labels.csv", columns)
    write_table(rsna / "stage_2_detailed_class_info.csv", ("patientId", "class"), ("p1", "Broken"))
    with pytest.raises(DataError, match="names the class 'Broken'; expected one of Normal, Lung Opacity, No Lung"):
        SOURCES["rsna"](rsna)


def test_siim(tmp_path: Path, write_dicom: Write, prepared: Prepared) -> None:
    raw = tmp_path / "siim"
    upper, lower = np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.uint8)
    upper[4:20, 40:60], lower[50:58, 2:10], lower[52, 10] = 1, 1, 1
    uid = "1.2.276.0.7230010.3.1.4.8323329.14508.1517875252.44387"
    rows = [f"{uid}1, {column_runs(upper)}", f"{uid}1, {column_runs(lower)}", f"{uid}2, -1", f"{uid}3, 9000 9"]
    for number in (1, 2, 3):
        path = raw / f"dicom-images-train/1.2.{number}.5/1.2.{number}.6/{uid}{number}.dcm"
        write_dicom(path, (64, 64), PatientID=f"patient-{number}", ViewPosition="PA", PatientSex="M", PatientAge="28")
    (raw / "train-rle.csv").write_text("\n".join(["ImageId, EncodedPixels", *rows]) + "\n")
    samples, summary = prepared("siim-acr", raw)
    drawn, clear = samples[f"siim-{uid}1"], samples[f"siim-{uid}2"]
    assert drawn.prompt == "Pneumothorax, PA view, male"
    assert (clear.findings, clear.boxes, clear.lesion_mask) == ((), (), None)
    expected = (upper | lower)[1::2, 1::2]  # the pixel nearest to each centre
    np.testing.assert_array_equal(drawn.lesion_mask, expected)
    np.testing.assert_array_equal(drawn.box_mask, expected)
    assert drawn.boxes == (Box(F.PNEUMOTHORAX, 20, 2, 10, 8), Box(F.PNEUMOTHORAX, 1, 25, 4, 4))
    assert list(summary["skipped"]) == [f"siim-{uid}3"]
    assert "leave the image of 64×64 pixels" in summary["skipped"][f"siim-{uid}3"]
    assert summary["boxes"] == {"Pneumothorax": 2}
    assert {r.patient_id: r.split for r in SOURCES["siim-acr"](raw).records} == {
        f"siim-patient-{n}": split_by_hash(f"siim-patient-{n}") for n in (1, 2, 3)
    }


def test_folder_of_dicom(tmp_path: Path, write_dicom: Write, write_table: Write, prepared: Prepared) -> None:
    raw = tmp_path / "export"
    write_dicom(raw / "a/IM0001", PatientID="x", PatientSex="M", PatientAge="061Y", ViewPosition="PA")
    write_dicom(raw / "a/IM0002", PatientID="x", ViewPosition="LL")
    write_dicom(raw / "b/1.2.3.4", PatientID="y", ViewPosition="AP")
    write_dicom(raw / "b/ct.dcm", PatientID="y", Modality="CT")
    write_dicom(raw / "b/x.dcm", PatientID="x", PatientSex="F")
    (raw / "b/README").write_text("no picture")
    table = [("image", "labels", "uncertain", "sex"), ("b/x.dcm", "Edema|Mass", "Hernia", ""), ("gone.png", "", "", "")]
    write_table(raw / "metadata.csv", *table)
    samples, summary = prepared("folder", raw, uncertain="positive")
    assert sorted(samples) == ["a-IM0001", "b-1.2.3.4", "b-x"]
    one, other = samples["a-IM0001"], samples["b-x"]
    assert (one.age, one.prompt) == (61, "PA view, male")
    assert (other.findings, other.sex) == ((F.EDEMA, F.HERNIA, F.MASS), "F")
    assert one.patient_id == other.patient_id != samples["b-1.2.3.4"].patient_id
    assert "x" not in one.patient_id  # a hospital's number stays in the hospital
    assert samples["b-1.2.3.4"].view_position == "AP"
    assert summary["left_out"] == {"not frontal": 1, "modality CT": 1, "file not there": 1}
