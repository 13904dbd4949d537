"""Where a drawing starts, what the sliders and the brush do to it, and what is asked in the end."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xreal.app.anatomy import Shape as Sliders
from xreal.app.anatomy import Start, from_mask, from_sample, from_xray, measures, slider_ranges, without_paths
from xreal.app.canvas import SIDE, Canvas, Layer, read_canvas
from xreal.app.state import Session
from xreal.data.phantom import phantom
from xreal.errors import ImageError, InputError, MaskError
from xreal.images import write_image
from xreal.masks.organs import check_organ_mask, write_organ_mask
from xreal.vocabulary import Finding, Organ


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(from_sample(1), tmp_path)


def test_a_sample_is_a_chest_of_the_canvas_size() -> None:
    organs = from_sample(3).organs
    check_organ_mask(organs, SIDE)
    assert measures(organs) is not None
    assert not np.array_equal(organs, from_sample(4).organs)
    with pytest.raises(InputError, match="the anatomy's seed is -1"):
        from_sample(-1)


def test_sliders_reach_what_they_say(session: Session) -> None:
    before = measures(session.drawn)
    assert before is not None
    shown = session.move(Sliders(ctr=0.55), Canvas(session.drawn))
    after = measures(shown.organs)
    assert after is not None
    assert after["ctr"] == pytest.approx(0.55, abs=0.01)
    wider = measures(session.move(Sliders(heart_scale=1.1), shown).organs)  # of the start, not of the last position
    assert wider is not None
    assert wider["heart_size"] / before["heart_size"] == pytest.approx(1.1, abs=0.02)
    back = session.move(Sliders(), shown)
    np.testing.assert_array_equal(back.organs, session.start.organs)


def test_paint_outlasts_the_sliders(session: Session) -> None:
    paint = np.zeros((SIDE, SIDE), np.uint8)
    paint[:20, :20] = 1 + Organ.AORTA
    paint[60:80, 60:80] = 1 + Organ.BACKGROUND
    painted = Canvas(session.drawn, paint=paint).over(session.drawn)
    shown = session.move(Sliders(heart_scale=1.1), painted).organs
    assert (shown[:20, :20] == Organ.AORTA).all()
    assert not shown[60:80, 60:80].any()
    assert (shown == Organ.HEART).sum() > (painted.organs == Organ.HEART).sum()


def test_a_chest_that_cannot_be_leaves_all_as_it_was(session: Session) -> None:
    before = session.drawn
    with pytest.raises(MaskError, match="Usual for this chest"):
        session.move(Sliders(ctr=0.95), Canvas(before))
    assert session.shape == Sliders()
    assert session.drawn is before


def test_ranges_hold_the_usual_and_this_chest() -> None:
    organs = from_sample(4).organs  # a ratio of 0.34, below the usual
    ranges, now = slider_ranges(organs), measures(organs)
    assert ranges is not None
    assert now is not None
    assert ranges["ctr"][0] <= now["ctr"] < 0.6 < ranges["ctr"][1]
    assert all(
        low <= neutral <= high for (low, high), neutral in zip(list(ranges.values())[1:], (1, 1, 0), strict=True)
    )
    organs[organs == Organ.HEART] = 0
    assert slider_ranges(organs) is None


def test_a_mask_is_read_at_the_canvas_size(tmp_path: Path) -> None:
    write_organ_mask(tmp_path / "small.png", phantom(100, 64).organ_mask)
    start = from_mask(tmp_path / "small.png")
    assert (start.organs.shape, start.title, start.path) == ((SIDE, SIDE), "Organ mask small.png", None)
    write_image(tmp_path / "grey.png", np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64))
    with pytest.raises(MaskError, match="expected 0 to 4"):
        from_mask(tmp_path / "grey.png")


def test_an_xray_brings_its_organs_and_its_oddities(tmp_path: Path) -> None:
    chest = phantom(100, SIDE)
    write_image(tmp_path / "chest.png", chest.image)
    start = from_xray(tmp_path / "chest.png", lambda picture: chest.organ_mask)
    assert start.path == tmp_path / "chest.png"
    assert start.picture is not None
    assert start.picture.shape == (SIDE, SIDE)
    heartless = np.where(chest.organ_mask == Organ.HEART, 0, chest.organ_mask)
    odd = from_xray(tmp_path / "chest.png", lambda picture: heartless)
    assert "Found in it: The heart is missing." in odd.notes
    with pytest.raises(MaskError, match=r"no organs are found in chest\.png; expected a frontal chest X-ray"):
        from_xray(tmp_path / "chest.png", lambda picture: np.zeros((SIDE, SIDE), np.uint8))
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(ImageError, match="damaged, cut short or of another kind"):
        from_xray(tmp_path / "text.png", lambda picture: chest.organ_mask)


def test_a_huge_picture_is_refused_by_its_header(tmp_path: Path) -> None:
    Image.new("1", (8000, 8000)).save(tmp_path / "huge.png")
    with pytest.raises(ImageError, match=r"huge\.png is 8000 × 8000, 64 megapixels; expected at most 50"):
        from_mask(tmp_path / "huge.png")


def test_messages_name_files_without_their_place() -> None:
    path = Path("/tmp/somewhere/secret/chest.png")
    assert without_paths(ImageError(f"{path} is damaged"), path, None) == "chest.png is damaged"


def test_an_unchanged_xray_keeps_its_organs(tmp_path: Path) -> None:
    organs = from_sample(1).organs
    session = Session(Start(organs, "X-ray", tmp_path / "chest.png"), tmp_path)
    assert session.job(Canvas(organs), True, seed=0).organs is None
    edited = session.job(Canvas(from_sample(2).organs), True, seed=0)
    assert edited.organs is not None
    assert edited.xray == tmp_path / "chest.png"
    new = session.job(Canvas(organs), False, seed=0)
    assert new.xray is None
    np.testing.assert_array_equal(new.organs, organs)


def test_a_new_start_has_no_paint_and_findings_only_where_they_stay(session: Session) -> None:
    mask = np.ones((SIDE, SIDE), np.uint8)
    painted = Canvas(session.drawn, (Layer(Finding.EDEMA, mask, 0.5),), paint=mask)
    kept, none = (read_canvas(session.fresh_canvas(findings)) for findings in (painted, None))
    assert [layer.finding for layer in kept.layers] == [Finding.EDEMA]
    assert none.layers == ()
    for canvas in (kept, none):
        np.testing.assert_array_equal(canvas.organs, session.start.organs)
        assert not canvas.paint.any()
