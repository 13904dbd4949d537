"""The readers' pack: tells nothing, comes back whole or is refused; a reader who guesses is told from one who sees."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xreal.errors import InputError, OutputError
from xreal.evaluation.cases import Cases
from xreal.evaluation.readers import read_answers, reader_agreement, reader_scores, write_reader_pack
from xreal.vocabulary import Finding

COUNT = 12
Row = dict[str, str]


def cases(name: str, seed: int, size: int = 32, count: int = COUNT) -> Cases:
    shape = (count, size, size)
    return Cases(
        images=np.random.default_rng(seed).random(shape, np.float32),
        image_ids=tuple(f"{name}-{i}" for i in range(count)),
        findings=tuple((Finding.PNEUMONIA,) if i % 2 else (Finding.NO_FINDING,) for i in range(count)),
        organ_masks=np.zeros(shape, np.uint8),
        lesion_masks=np.zeros(shape, np.float32),
        healthy=np.full(shape, np.nan, np.float32),
    )


REAL, GENERATED = cases("real", 0), cases("made", 1)


@pytest.fixture
def pack(tmp_path: Path) -> tuple[Path, Path]:
    """Write a pack and its key."""
    folder, key = tmp_path / "pack", tmp_path / "key.json"
    write_reader_pack(folder, key, REAL, GENERATED, seed=3)
    return folder, key


def rows_of(form: Path) -> list[Row]:
    return list(csv.DictReader(io.StringIO(form.read_text("utf-8"))))


def write_rows(path: Path, rows: list[Row], delimiter: str = ",", encoding: str = "utf-8") -> Path:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    path.write_bytes(buffer.getvalue().encode(encoding))
    return path


@pytest.fixture
def filled(pack: tuple[Path, Path]) -> Callable[..., list[Row]]:
    """Return a function accuracy, seed -> rows of a reader who is right with that probability at every sight."""
    folder, key = pack
    truth = {entry["image"]: entry["generated"] for entry in json.loads(key.read_text())["images"]}

    def fill(accuracy: float, seed: int = 0) -> list[Row]:
        rng, rows = np.random.default_rng(seed), rows_of(folder / "answers.csv")
        for row in rows:
            synthetic = truth[row["image"]] == (rng.random() < accuracy)
            row["real or synthetic"] = "synthetic" if synthetic else "Real "
            row |= {"realism": "2" if synthetic else "5", "alignment": "−1" if synthetic else "+2"}
            row["anatomy"] = str(rng.integers(1, 6))
            row["pathology"] = row["pathology"] or "4"
        return rows

    return fill


def test_the_pack_holds_each_picture_twice_far_apart_and_nothing_else(pack: tuple[Path, Path]) -> None:
    folder, key = pack
    entries = json.loads(key.read_text())["images"]
    names = sorted(path.name for path in folder.iterdir())
    assert names == [f"{n:04d}.png" for n in range(1, 4 * COUNT + 1)] + ["answers.csv", "instructions.txt"]
    sights: dict[str, list[int]] = {}
    for place, entry in enumerate(entries):
        sights.setdefault(entry["image_id"], []).append(place)
        source = GENERATED if entry["generated"] else REAL
        wanted = source.images[source.image_ids.index(entry["image_id"])]
        shown = np.asarray(Image.open(folder / entry["image"]))
        np.testing.assert_array_equal(shown, np.rint(wanted * 255))
    assert set(sights) == {*REAL.image_ids, *GENERATED.image_ids}
    assert all(first + COUNT <= second for first, second in sights.values())
    first_round = [entry["generated"] for entry in entries[: 2 * COUNT]]
    assert 0 < sum(first_round[:COUNT]) < COUNT  # mixed


def test_no_file_tells_what_is_synthetic(pack: tuple[Path, Path]) -> None:
    folder, _ = pack
    pictures = sorted(folder.glob("*.png"))
    assert len({path.stat().st_size for path in pictures}) == 1
    for path in pictures:
        data, kinds, at = path.read_bytes(), set(), 8
        while at < len(data):
            kinds.add(data[at + 4 : at + 8])
            at += 12 + int.from_bytes(data[at : at + 4])
        assert kinds == {b"IHDR", b"IDAT", b"IEND"}
    form = (folder / "answers.csv").read_text()
    assert "made" not in form
    assert "real-" not in form
    asked = [row["asked for"] for row in rows_of(folder / "answers.csv")]
    assert set(asked) == {"Pneumonia", "No Finding"}


def test_the_order_comes_from_the_seed(pack: tuple[Path, Path], tmp_path: Path) -> None:
    for seed in (3, 4):
        write_reader_pack(tmp_path / f"again{seed}", tmp_path / f"key{seed}.json", REAL, GENERATED, seed)
    assert (tmp_path / "key3.json").read_bytes() == pack[1].read_bytes()
    assert json.loads((tmp_path / "key4.json").read_text())["images"] != json.loads(pack[1].read_text())["images"]


def test_a_reader_who_sees_is_told_from_one_who_guesses(
    pack: tuple[Path, Path], filled: Callable[..., list[Row]], tmp_path: Path
) -> None:
    seeing, guessing = (
        read_answers(write_rows(tmp_path / f"{accuracy}.csv", filled(accuracy, seed)), pack[1])
        for accuracy, seed in ((1.0, 0), (0.5, 1))
    )
    sharp, blunt = reader_scores(seeing), reader_scores(guessing)
    assert sharp["accuracy"]["mean"] == 1
    assert 0.8 < sharp["accuracy"]["low"] < sharp["accuracy"]["high"] == 1
    assert blunt["accuracy"]["low"] < 0.5 < blunt["accuracy"]["high"]
    assert (sharp["accuracy"]["n"], sharp["real"]["realism"]["n"], sharp["real"]["pathology"]["n"]) == (24, 12, 6)
    assert sharp["real"]["realism"]["mean"] == 5
    assert sharp["generated"]["realism"]["mean"] == 2
    assert sharp["generated"]["alignment"]["mean"] == -1
    assert abs(blunt["real"]["realism"]["mean"] - blunt["generated"]["realism"]["mean"]) < 1.5
    assert sharp["kappa"]["real or synthetic"] == sharp["kappa"]["realism"] == 1
    assert blunt["kappa"]["real or synthetic"] < 0.5
    assert np.isnan(sharp["kappa"]["pathology"])  # always 4: no agreement beyond chance can be told
    assert reader_agreement(seeing, seeing)["real or synthetic"] == 1
    assert abs(reader_agreement(seeing, guessing)["real or synthetic"]) < 0.5
    assert reader_agreement(seeing, seeing)["anatomy"] == pytest.approx(1)


def test_spreadsheets_may_write_semicolons_marks_and_another_order(
    pack: tuple[Path, Path], filled: Callable[..., list[Row]], tmp_path: Path
) -> None:
    rows = filled(0.7)
    plain = read_answers(write_rows(tmp_path / "a.csv", rows), pack[1])
    other = read_answers(write_rows(tmp_path / "b.csv", rows[::-1], ";", "utf-8-sig"), pack[1])
    np.testing.assert_array_equal(plain.verdicts, other.verdicts)
    np.testing.assert_array_equal(plain.ratings["alignment"], other.ratings["alignment"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[5].update(realism=""), r"unfinished: 1 answers are missing, first 0006\.png \(realism\)"),
        (lambda rows: rows[5].update(realism="6"), "expected a whole number from 1 to 5"),
        (lambda rows: rows[5].update(alignment="1.5"), "expected a whole number from -2 to 2"),
        (lambda rows: rows[5].update({"real or synthetic": "unsure"}), "expected real or synthetic"),
        (lambda rows: rows[5].update({"asked for": "Mass"}), "asks for 'Mass'"),
        (lambda rows: rows.pop(), r"47 rows.* 48; not in both, or twice: 0048\.png"),
        (lambda rows: rows.append(dict(rows[0])), r"49 rows.* 48; not in both, or twice: 0001\.png"),
        (lambda rows: rows[5].update(image="0001.png"), r"twice: 0006\.png"),
        (lambda rows: [row.pop("anatomy") for row in rows], "has the columns"),
        (lambda rows: [row.update(pathology="3") for row in rows], "expected n/a"),
    ],
)
def test_unfinished_or_altered_forms_are_refused(
    change: Callable[[list[Row]], object],
    message: str,
    pack: tuple[Path, Path],
    filled: Callable[..., list[Row]],
    tmp_path: Path,
) -> None:
    rows = filled(0.7)
    change(rows)
    with pytest.raises(InputError, match=message):
        read_answers(write_rows(tmp_path / "form.csv", rows), pack[1])


def test_wrong_files_are_refused(pack: tuple[Path, Path], filled: Callable[..., list[Row]], tmp_path: Path) -> None:
    form = write_rows(tmp_path / "form.csv", filled(0.7))
    with pytest.raises(InputError, match="unfinished: 216 answers"):  # 48 × 4, and 24 × pathology
        read_answers(pack[0] / "answers.csv", pack[1])
    with pytest.raises(InputError, match="is no key"):
        read_answers(form, form)
    with pytest.raises(InputError, match="cannot be read"):
        read_answers(tmp_path / "none.csv", pack[1])
    small = cases("real", 0, count=2), cases("made", 1, count=2)
    write_reader_pack(tmp_path / "small", tmp_path / "small.json", *small)
    with pytest.raises(InputError, match="48 rows"):
        read_answers(form, tmp_path / "small.json")


def test_packs_that_tell_are_refused(pack: tuple[Path, Path], tmp_path: Path) -> None:
    folder, key = tmp_path / "new", tmp_path / "new.json"
    unnamed = Cases(**(vars(GENERATED) | {"findings": ((),) * COUNT}))
    too_bright = Cases(**(vars(GENERATED) | {"images": GENERATED.images + 1}))
    for generated, message in (
        (cases("made", 1, size=40), "tells them apart; fit both to one size"),
        (unnamed, "known findings, which tells them apart"),
        (too_bright, "outside \\[0, 1\\]"),
        (cases("made", 1, count=1), "at least 2 of each kind"),
    ):
        with pytest.raises(InputError, match=message):
            write_reader_pack(folder, key, REAL, generated)
    with pytest.raises(InputError, match="lies in the pack"):
        write_reader_pack(folder, folder / "key.json", REAL, GENERATED)
    assert not folder.exists()
    with pytest.raises(OutputError, match="exists"):
        write_reader_pack(folder, pack[1], REAL, GENERATED)
    with pytest.raises(OutputError, match="already holds files"):
        write_reader_pack(pack[0], key, REAL, GENERATED)
