"""The study's one file: pictures, key, readers, order of presentation and answers, in SQLite.

Every answer is a transaction of its own, on the disk before the page hears that it is saved. Which picture is generated
is in this file only and never leaves the server.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xreal.app.study.questions import PATHOLOGY, QUESTIONS, Answer, Question, check_answer
from xreal.errors import InputError
from xreal.files import temporary_path

__all__ = ["FILE_NAME", "Picture", "Presentation", "Reader", "Reading", "Store"]

FILE_NAME = "study.sqlite"
_VERSION = 1
_SCHEMA = """
CREATE TABLE study (version INTEGER NOT NULL, about TEXT NOT NULL);
CREATE TABLE pictures (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, generated INTEGER NOT NULL, source TEXT NOT NULL, asked TEXT NOT NULL,
    has_pathology INTEGER NOT NULL, png BLOB NOT NULL, outlines BLOB
);
CREATE TABLE readers (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, token TEXT NOT NULL UNIQUE);
CREATE TABLE presentations (
    id TEXT PRIMARY KEY, reader INTEGER NOT NULL REFERENCES readers, place INTEGER NOT NULL,
    picture TEXT NOT NULL REFERENCES pictures, sight INTEGER NOT NULL, UNIQUE (reader, place)
);
CREATE TABLE answers (
    presentation TEXT PRIMARY KEY REFERENCES presentations, verdict INTEGER, realism INTEGER, anatomy INTEGER,
    pathology INTEGER, marks TEXT NOT NULL, seconds REAL NOT NULL, done INTEGER NOT NULL
);
"""
_NAMES = tuple(question.name for question in QUESTIONS)


@dataclass(frozen=True)
class Picture:
    """A picture of the study.

    Attributes:
        id: random.
        kind: its group, such as "real".
        generated: the truth.
        source: where it came from; never shown.
        asked: what it should show, as readers see it.
        has_pathology: a finding was asked for.
        png: bare picture.
        outlines: PNG of what was asked for, or None.
    """

    id: str
    kind: str
    generated: bool
    source: str
    asked: str
    has_pathology: bool
    png: bytes
    outlines: bytes | None


@dataclass(frozen=True)
class Reader:
    """A reader; the token in the link is all that it takes to answer as them."""

    number: int
    name: str
    token: str


@dataclass(frozen=True)
class Presentation:
    """One picture shown to one reader at one place of their order; sight is 1, or 2 for a repeated picture."""

    id: str
    reader: int
    place: int
    picture: str
    sight: int


@dataclass(frozen=True)
class Reading:
    """A confirmed answer beside the truth; values are None where a question was not asked."""

    reader: int
    place: int
    sight: int
    picture: str
    kind: str
    generated: bool
    asked: str
    values: dict[str, int | None]
    marks: list[list[list[float]]]
    seconds: float


class Store:
    """A study on disk.

    Args:
        folder: that `xreal study make` wrote.

    Raises:
        InputError: there is no study.
    """

    def __init__(self, folder: Path) -> None:
        self._path = Path(folder) / FILE_NAME
        if not self._path.is_file():
            raise InputError(f"{folder} holds no {FILE_NAME}; give a folder that `xreal study make` wrote")
        try:
            with self._open() as db:
                version, about = db.execute("SELECT version, about FROM study").fetchone()
        except (sqlite3.Error, TypeError) as error:
            raise InputError(f"{self._path} is no study ({error}); restore it from a copy or make a new one") from error
        if version != _VERSION:
            raise InputError(f"{self._path} has version {version}; this xreal reads version {_VERSION}")
        self.about: dict[str, Any] = json.loads(about)

    @classmethod
    def create(
        cls,
        folder: Path,
        about: dict[str, Any],
        pictures: Sequence[Picture],
        readers: Sequence[Reader],
        presentations: Sequence[Presentation],
    ) -> Store:
        """Write a new study, whole or not at all."""
        temporary = temporary_path(folder / FILE_NAME)
        try:
            with closing(sqlite3.connect(temporary)) as db, db:
                db.executescript(_SCHEMA)
                db.execute("INSERT INTO study VALUES (?, ?)", (_VERSION, json.dumps(about)))
                for table, rows in (("pictures", pictures), ("readers", readers), ("presentations", presentations)):
                    values = [tuple(vars(row).values()) for row in rows]
                    db.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(values[0]))})", values)
            os.replace(temporary, folder / FILE_NAME)
        finally:
            temporary.unlink(missing_ok=True)
        return cls(folder)

    @property
    def questions(self) -> tuple[Question, ...]:
        """Those of this study."""
        return tuple(question for question in QUESTIONS if question.name in self.about["questions"])

    def readers(self) -> list[Reader]:
        """List the readers by number."""
        with self._open() as db:
            return [Reader(*row) for row in db.execute("SELECT number, name, token FROM readers ORDER BY number")]

    def progress(self) -> dict[int, tuple[int, int]]:
        """Count, per reader's number, confirmed answers and presentations."""
        with self._open() as db:
            rows = db.execute(
                "SELECT reader, coalesce(sum(done), 0), count(*) FROM presentations p "
                "LEFT JOIN answers a ON a.presentation = p.id GROUP BY reader"
            )
            return {reader: (done, total) for reader, done, total in rows}

    def real_share(self) -> float:
        """Return the share of real pictures."""
        with self._open() as db:
            return float(db.execute("SELECT 1 - avg(generated) FROM pictures").fetchone()[0])

    def reader(self, token: str) -> Reader | None:
        """Find the reader of that token."""
        with self._open() as db:
            row = db.execute("SELECT number, name, token FROM readers WHERE token = ?", (token,)).fetchone()
        return Reader(*row) if row else None

    def state(self, reader: Reader) -> dict[str, Any]:
        """Say where a reader stands: what to show now, what they said of it so far, and what comes next."""
        with self._open() as db:
            rows = db.execute(
                "SELECT p.id, asked, has_pathology, outlines IS NOT NULL FROM presentations p "
                "JOIN pictures ON pictures.id = picture LEFT JOIN answers a ON a.presentation = p.id "
                "WHERE reader = ? AND coalesce(done, 0) = 0 ORDER BY place LIMIT 2",
                (reader.number,),
            ).fetchall()
            draft = self._draft(db, rows[0][0]) if rows else None
        done, total = self.progress()[reader.number]
        current = None
        if rows:
            presentation, asked, has_pathology, outlined = rows[0]
            current = {
                "id": presentation,
                "asked": asked,
                "outlined": bool(outlined),
                "questions": [question.to_json() for question in self._asked(bool(has_pathology))],
                "answer": draft,
            }
        return {"done": done, "total": total, "current": current, "next": rows[1][0] if len(rows) > 1 else None}

    def png(self, reader: Reader, presentation: str, outlines: bool = False) -> bytes | None:
        """Return the picture of a presentation, or its outlines; None where this reader has no such."""
        column = "outlines" if outlines else "png"
        with self._open() as db:
            row = db.execute(
                f"SELECT {column} FROM presentations p JOIN pictures ON pictures.id = picture "
                "WHERE p.id = ? AND reader = ?",
                (presentation, reader.number),
            ).fetchone()
        return row[0] if row else None

    def save(self, reader: Reader, presentation: str, given: Any) -> bool:
        """Write what a reader has said so far.

        Returns:
            False where it was confirmed before; it stays as it was.

        Raises:
            InputError: it is no answer, see ``check_answer``; or this reader has no such presentation.
        """
        with self._open() as db:
            row = db.execute(
                "SELECT has_pathology, coalesce(done, 0) FROM presentations p JOIN pictures ON pictures.id = picture "
                "LEFT JOIN answers a ON a.presentation = p.id WHERE p.id = ? AND reader = ?",
                (presentation, reader.number),
            ).fetchone()
            if row is None:
                raise InputError(f"no presentation {presentation!r} for this reader")
            answer = check_answer(given, self._asked(bool(row[0])))
            if row[1]:
                return False
            values = [answer.values.get(name) for name in _NAMES]
            # "WHERE done = 0": another page may have confirmed it since it was looked up.
            written = db.execute(
                "INSERT INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (presentation) DO UPDATE SET "
                "verdict = excluded.verdict, realism = excluded.realism, anatomy = excluded.anatomy, "
                "pathology = excluded.pathology, marks = excluded.marks, seconds = excluded.seconds, "
                "done = excluded.done WHERE done = 0",
                (presentation, *values, json.dumps(answer.marks), answer.seconds, int(answer.done)),
            )
            return written.rowcount == 1

    def readings(self) -> list[Reading]:
        """List every confirmed answer, by reader and place."""
        with self._open() as db:
            rows = db.execute(
                "SELECT reader, place, sight, picture, kind, generated, asked, marks, seconds, "
                f"{', '.join(_NAMES)} FROM answers a JOIN presentations p ON p.id = a.presentation "
                "JOIN pictures ON pictures.id = picture WHERE done = 1 ORDER BY reader, place"
            ).fetchall()
        return [
            Reading(
                reader=reader,
                place=place,
                sight=sight,
                picture=picture,
                kind=kind,
                generated=bool(generated),
                asked=asked,
                values=dict(zip(_NAMES, values, strict=True)),
                marks=json.loads(marks),
                seconds=seconds,
            )
            for reader, place, sight, picture, kind, generated, asked, marks, seconds, *values in rows
        ]

    def _asked(self, has_pathology: bool) -> tuple[Question, ...]:
        return tuple(question for question in self.questions if has_pathology or question is not PATHOLOGY)

    def _draft(self, db: sqlite3.Connection, presentation: str) -> dict[str, Any] | None:
        row = db.execute(
            f"SELECT {', '.join(_NAMES)}, marks, seconds FROM answers WHERE presentation = ?", (presentation,)
        ).fetchone()
        if row is None:
            return None
        answer = Answer(dict(zip(_NAMES, row[:4], strict=True)), json.loads(row[4]), row[5], False)
        given = {name: value for name, value in answer.values.items() if value is not None}
        return {"values": given, "marks": answer.marks, "seconds": answer.seconds}

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """Open a connection of its own for one piece of work, which is committed at its end or undone."""
        with closing(sqlite3.connect(self._path, timeout=30)) as db, db:
            db.execute("PRAGMA synchronous = FULL")  # a committed answer outlives a loss of power
            db.execute("PRAGMA foreign_keys = ON")
            yield db
