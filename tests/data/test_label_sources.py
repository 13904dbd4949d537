"""MIMIC-CXR-JPG, CheXpert, PadChest and ChestX-ray14 in their own layouts: which X-rays, which labels, whose."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from xreal.data.contract import Sample
from xreal.data.reading import looks_inverted, read_sample
from xreal.data.sources import SOURCES, Record
from xreal.data.sources.chexpert_labels import COLUMNS
from xreal.data.sources.record import parse_age, parse_sex, split_by_hash
from xreal.errors import DataError
from xreal.images import write_image
from xreal.vocabulary import Finding, find_finding

Write = Callable[..., None]
Prepared = Callable[..., tuple[dict[str, Sample], dict]]
F = Finding
FOURTEEN = "No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,"
FOURTEEN += "Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"


def fourteen(**values: str) -> list[str]:
    """CheXpert's columns in its order; names with underscores."""
    return [values.get(name.replace(" ", "_"), "") for name in FOURTEEN.split(",")]


@pytest.fixture
def mimic(tmp_path: Path, write_table: Write, write_picture: Write) -> Path:
    """Two patients: one in train with a lateral, one in test with a study that no table labels."""
    raw = tmp_path / "mimic-cxr-jpg"
    metadata = (
        "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns,StudyDate,StudyTime,"
        "ProcedureCodeSequence_CodeMeaning,ViewCodeSequence_CodeMeaning,PatientOrientationCodeSequence_CodeMeaning"
    )
    views = [("aa-1", "10000032", "50414267", "PA"), ("aa-2", "10000032", "50414267", "LATERAL")]
    views += [("bb-1", "10000764", "57375967", "AP"), ("cc-1", "10000764", "50000001", "PA"), ("dd-1", "1", "2", "")]
    rows = [(d, s, t, "CHEST (PA AND LAT)", v, "32", "32", "2180", "1", "", "", "Erect") for d, s, t, v in views]
    write_table(raw / "mimic-cxr-2.0.0-metadata.csv.gz", tuple(metadata.split(",")), *rows)
    splits = {"10000032": "train", "10000764": "test", "1": "validate"}
    write_table(
        raw / "mimic-cxr-2.0.0-split.csv.gz",
        ("dicom_id", "study_id", "subject_id", "split"),
        *((d, t, s, splits[s]) for d, s, t, _ in views),
    )
    alphabetical = sorted(FOURTEEN.split(","))  # the order of the file
    values = {"Pleural Effusion": "1.0", "Pneumonia": "-1.0", "Edema": "0.0"}
    write_table(
        raw / "mimic-cxr-2.0.0-chexpert.csv.gz",
        ("subject_id", "study_id", *alphabetical),
        ("10000032", "50414267", *(values.get(name, "") for name in alphabetical)),
        ("10000764", "57375967", *("1.0" if name == "No Finding" else "" for name in alphabetical)),
    )
    for name, subject, study, _ in views:
        write_picture(raw / "files" / f"p{subject[:2]}" / f"p{subject}" / f"s{study}" / f"{name}.jpg")
    return raw


def test_mimic(mimic: Path, prepared: Prepared) -> None:
    samples, summary = prepared("mimic-cxr-jpg", mimic)
    assert sorted(samples) == ["mimic-aa-1", "mimic-bb-1", "mimic-cc-1"]
    assert samples["mimic-aa-1"].prompt == "Pleural Effusion, PA view"
    assert samples["mimic-bb-1"].prompt == "No Finding, AP view"
    assert samples["mimic-cc-1"].findings == ()  # no row: nothing is known, least of all that nothing was found
    assert samples["mimic-bb-1"].patient_id == samples["mimic-cc-1"].patient_id == "mimic-10000764"
    assert summary["splits"] == {"train": {"images": 1, "patients": 1}, "test": {"images": 2, "patients": 1}}
    assert summary["left_out"] == {"not frontal": 1, "view unknown": 1}
    assert summary["uncertain"] == {"policy": "negative", "labels": {"Pneumonia": 1}}


def test_mimic_in_part(mimic: Path, prepared: Prepared) -> None:
    picture = mimic / "files/p10/p10000764/s57375967/bb-1.jpg"
    picture.unlink()
    samples, summary = prepared("mimic-cxr-jpg", mimic)
    assert "mimic-bb-1" not in samples
    assert summary["left_out"]["file not there"] == 1
    for path in mimic.rglob("*.jpg"):
        path.unlink()
    with pytest.raises(DataError, match=r"none of 3 pictures is there; the first was expected at .*s50414267/aa-1.jpg"):
        SOURCES["mimic-cxr-jpg"](mimic)
    (mimic / "mimic-cxr-2.0.0-split.csv.gz").write_bytes(b"\x1f\x8b no gzip")
    with pytest.raises(DataError, match=r"split.csv.gz cannot be read as a CSV file"):
        SOURCES["mimic-cxr-jpg"](mimic)
    (mimic / "mimic-cxr-2.0.0-split.csv.gz").unlink()
    with pytest.raises(DataError, match=r"holds no mimic-cxr-2.\*-split.csv or"):
        SOURCES["mimic-cxr-jpg"](mimic)


@pytest.mark.parametrize("layout", ["CheXpert-v1.0-small", "batches"])
def test_chexpert(layout: str, tmp_path: Path, write_table: Write, write_picture: Write, prepared: Prepared) -> None:
    raw = tmp_path / "chexpert"
    header = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *FOURTEEN.split(","))
    paths = ["train/patient00001/study1/view1_frontal.jpg", "train/patient00001/study1/view2_lateral.jpg"]
    paths += ["train/patient00002/study2/view1_frontal.jpg", "valid/patient64541/study1/view1_frontal.jpg"]
    path = [f"CheXpert-v1.0-small/{path}" for path in paths]
    train = [
        (path[0], "Female", "68", "Frontal", "AP", *fourteen(Support_Devices="1.0", No_Finding="1.0")),
        (path[1], "Female", "68", "Lateral", "", *fourteen(Support_Devices="1.0", No_Finding="1.0")),
        (path[2], "Unknown", "0", "Frontal", "LL", *fourteen(Atelectasis="-1.0", Lung_Opacity="1.0", Edema="0.0")),
    ]
    valid = [(path[3], "Male", "73", "Frontal", "PA", *fourteen(Cardiomegaly="1.0", Fracture="0.0"))]
    if layout == "batches":
        tables = raw / "CheXpert-v1.0 batch 1 (validate & csv)"
        for name, place in zip(paths, ["2 (train 1)", "2 (train 1)", "4 (train 3)", "1 (validate & csv)"], strict=True):
            write_picture(raw / f"CheXpert-v1.0 batch {place}" / name.removeprefix("train/"))
    else:
        tables = raw
        for name in paths:
            write_picture(raw / name)
    write_table(tables / "train.csv", header, *train)
    write_table(tables / "valid.csv", header, *valid)

    samples, summary = prepared("chexpert", raw, uncertain="positive")
    one, two, three = (samples[f"chexpert-{name}-view1_frontal"] for name in (
        "patient00001-study1", "patient00002-study2", "patient64541-study1"
    ))  # fmt: skip
    assert len(samples) == 3
    assert one.prompt == "No Finding, Support Devices, AP view, female"
    assert (two.findings, two.sex, two.view_position) == ((F.ATELECTASIS, F.LUNG_OPACITY), "", "")
    assert (three.findings, three.age, three.sex) == ((F.CARDIOMEGALY,), 73, "M")
    assert summary["splits"]["val"] == {"images": 1, "patients": 1}
    assert summary["left_out"] == {"not frontal": 1}


def test_chexpert_columns_are_those_of_the_table() -> None:
    assert ",".join(COLUMNS) == FOURTEEN


@pytest.fixture
def padchest(tmp_path: Path, write_table: Write, write_picture: Write) -> Path:
    raw = tmp_path / "padchest"
    header = (
        ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,ViewPosition_DICOM,Projection,"
        "MethodProjection,Pediatric,Modality_DICOM,Manufacturer_DICOM,PhotometricInterpretation_DICOM,"
        "PixelRepresentation_DICOM,PixelAspectRatio_DICOM,SpatialResolution_DICOM,BitsStored_DICOM,WindowCenter_DICOM,"
        "WindowWidth_DICOM,Rows_DICOM,Columns_DICOM,XRayTubeCurrent_DICOM,Exposure_DICOM,ExposureInuAs_DICOM,"
        "ExposureTime,RelativeXRayExposure_DICOM,ReportID,Report,MethodLabel,Labels,Localizations,"
        "LabelsLocalizationsBySentence,labelCUIS,LocalizationsCUIS"
    )
    columns = header.split(",")
    cases = [
        ("a.png", "0", "83986048869429233163798", "1936.0", "M", "PA", "['pleural effusion', ' COPD signs']"),
        ("b.png", "0", "2", "1950.0", "F", "AP_horizontal", "['normal']"),
        ("c.png", "14", "2", "", "O", "AP", "['hydropneumothorax', 'NSG tube', 'hiatal hernia', 'normal', '']"),
        ("d.png", "14", "3", "1950.0", "F", "L", "['normal']"),
        ("e.png", "14", "3", "1950.0", "F", "PA", "['exclude']"),
        ("f.png", "14", "3", "1950.0", "F", "PA", "['unchanged', 'pneumonia']"),
        ("g.png", "14", "3", "1950.0", "F", "PA", ""),
    ]  # fmt: skip
    rows = []
    for number, (image, folder, patient, born, sex, projection, labels) in enumerate(cases):
        row = dict.fromkeys(columns, "") | {"": number, "ImageID": image, "ImageDir": folder, "PatientID": patient}
        row["PhotometricInterpretation_DICOM"] = "MONOCHROME1" if image == "b.png" else "MONOCHROME2"
        row |= {"StudyDate_DICOM": "20140915", "PatientBirth": born, "PatientSex_DICOM": sex, "Projection": projection}
        row |= {
            "Labels": labels,
            "Report": 'sin hallazgos, "normal".\n',
        }
        rows.append(tuple(row.values()))
        if folder == "0":
            write_picture(raw / folder / image, dtype=np.uint16)
        else:
            write_picture(raw / image, dtype=np.uint16)  # unpacked into one folder
    write_table(raw / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz", tuple(columns), *rows)
    return raw


def test_padchest(padchest: Path, prepared: Prepared) -> None:
    samples, summary = prepared("padchest", padchest)
    assert sorted(samples) == ["padchest-a", "padchest-b", "padchest-c"]
    assert samples["padchest-a"].prompt == "Pleural Effusion, PA view, male"
    assert (samples["padchest-a"].age, samples["padchest-c"].age) == (78, None)
    assert samples["padchest-b"].prompt == "No Finding, AP view, female"
    assert samples["padchest-c"].findings == (F.PLEURAL_EFFUSION, F.PNEUMOTHORAX, F.SUPPORT_DEVICES, F.HERNIA)
    assert samples["padchest-a"].image.max() == 255
    assert SOURCES["padchest"](padchest).records[1].monochrome1
    assert summary["other_labels"] == {"copd signs": 1}
    assert summary["left_out"] == {"not frontal": 1, "unusable, says the label": 1, "without a label of its own": 2}


def test_padchest_labels_that_are_no_list(padchest: Path, write_table: Write) -> None:
    import gzip

    table = next(padchest.glob("*.gz"))
    table.write_bytes(gzip.compress(gzip.decompress(table.read_bytes()).replace(b"['normal']", b"normal")))
    with pytest.raises(DataError, match=r"Labels of b.png are 'normal'; expected a list"):
        SOURCES["padchest"](padchest)


def test_inverted_pictures_are_told_by_spine_and_lungs(phantoms: list, tmp_path: Path) -> None:
    for number, chest in enumerate(phantoms):
        assert not looks_inverted(chest.image)
        assert looks_inverted(1 - chest.image)
        for polarity, pixels in enumerate((chest.image, 1 - chest.image)):
            write_image(tmp_path / f"{number}-{polarity}.png", pixels)
            record = Record(tmp_path / f"{number}-{polarity}.png", "x", "train", "padchest", monochrome1=True)
            assert abs(read_sample(record, len(pixels)).image - chest.image * 255.0).max() <= 1


@pytest.fixture
def nih(tmp_path: Path, write_table: Write, write_picture: Write) -> Path:
    raw = tmp_path / "nih"
    header = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    header += "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],"
    lines = [
        "00000001_000.png,Cardiomegaly|Pleural_Thickening,0,1,058Y,M,PA,2682,2749,0.143,0.143,",
        "00000001_001.png,No Finding,1,1,58,M,PA,2682,2749,0.143,0.143,",
        "00000003_000.png,Effusion|Infiltration,0,3,414,F,AP,2682,2749,0.143,0.143,",
        "00000009_000.png,Hernia,0,9,80,F,PA,2682,2749,0.143,0.143,",
    ]
    raw.mkdir()
    (raw / "Data_Entry_2017.csv").write_text("\n".join([header, *lines]) + "\n")
    (raw / "train_val_list.txt").write_text("00000001_000.png\n00000001_001.png")
    (raw / "test_list.txt").write_text("00000003_000.png\n")
    (raw / "BBox_List_2017.csv").write_text(
        "Image Index,Finding Label,Bbox [x,y,w,h],,,\n00000003_000.png,Infiltrate,4.5,8,16,20,,,\n"
    )
    for folder, name in ((1, "00000001_000"), (1, "00000001_001"), (12, "00000003_000"), (12, "00000009_000")):
        write_picture(raw / f"images_{folder:03d}" / "images" / f"{name}.png", (64, 64))
    return raw


def test_nih_whole(nih: Path, prepared: Prepared) -> None:
    samples, summary = prepared("nih-cxr14", nih)
    assert sorted(samples) == ["nih-00000001_000", "nih-00000001_001", "nih-00000003_000"]
    first, third = samples["nih-00000001_000"], samples["nih-00000003_000"]
    assert (first.findings, first.age) == ((F.CARDIOMEGALY, F.PLEURAL_THICKENING), 58)
    assert samples["nih-00000001_001"].prompt == "No Finding, PA view, male"
    assert (third.age, third.patient_id, third.view_position) == (None, "nih-3", "AP")
    (box,) = third.boxes  # halved
    assert (box.finding, box.x, box.y, box.width, box.height) == (F.INFILTRATION, 2.25, 4, 8, 10)
    assert summary["splits"] == {
        split_by_hash("nih-1"): {"images": 2, "patients": 1},
        "test": {"images": 1, "patients": 1},
    }
    assert summary["left_out"] == {"in no list of the split": 1}


def test_nih_bad_lists(nih: Path) -> None:
    (nih / "BBox_List_2017.csv").write_text("Image Index,Finding Label,Bbox [x,y,w,h],,,\n00000003_000.png,Mass,1,2\n")
    with pytest.raises(DataError, match=r"BBox_List_2017.csv, line 2: .*expected image, finding, x, y, w, h"):
        SOURCES["nih-cxr14"](nih)
    (nih / "test_list.txt").write_text("00000001_001.png\n")
    with pytest.raises(DataError, match=r"00000001_001\.png is in both"):
        SOURCES["nih-cxr14"](nih)


def test_nih_split_across_a_patient_names_the_patient(nih: Path, prepared: Prepared) -> None:
    (nih / "train_val_list.txt").write_text("00000001_000.png\n")
    (nih / "test_list.txt").write_text("00000001_001.png\n00000003_000.png\n")
    with pytest.raises(DataError, match=r"patient nih-1 is in both (train|val) and test"):
        prepared("nih-cxr14", nih)


@pytest.mark.parametrize(
    ("text", "years"),
    [
        ("058Y", 58),
        ("58", 58),
        ("58.0", 58),
        ("023M", 1),
        ("060W", 1),
        ("100D", 0),
        ("414", None),
        ("", None),
        ("?", None),
    ],
)
def test_ages(text: str, years: int | None) -> None:
    assert parse_age(text) == years


def test_sexes_and_names() -> None:
    assert [parse_sex(text) for text in ("Male", "F", "female", "O", "")] == ["M", "F", "F", "", ""]
    assert find_finding("Nodule/Mass") is F.LUNG_LESION
    assert find_finding("Aortic enlargement") is None
