"""Writing beside computing, and where the cache lies."""

import threading
from pathlib import Path

import pytest

from xreal.files import cache_folder, written_behind


def test_calls_run_in_order_one_at_a_time_beside() -> None:
    seen: list[tuple[int, bool]] = []
    with written_behind() as behind:
        for number in range(3):
            behind(lambda n: seen.append((n, threading.current_thread() is threading.main_thread())), number)
    assert seen == [(0, False), (1, False), (2, False)]


def test_an_error_of_the_last_call_is_raised_at_the_end() -> None:
    def fail() -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), written_behind() as behind:
        behind(fail)


def test_an_error_stops_at_the_next_call() -> None:
    def fail() -> None:
        raise OSError("disk full")

    seen: list[int] = []

    def write() -> None:
        with written_behind() as behind:
            behind(fail)
            behind(seen.append, 1)

    with pytest.raises(OSError, match="disk full"):
        write()
    assert seen == []


def test_the_cache_lies_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XREAL_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("XREAL_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_folder() == tmp_path / "cache" / "xreal"
