"""Print the rows of several report cards, made by `xreal evaluate` on the same real images, as one table."""

import json
import sys
from pathlib import Path

from xreal.evaluation.report import markdown_table

# Row of the table: report, row of the report.
ROWS = {
    "real vs real": ("xreal", "real vs real"),
    "text only": ("xreal", "without organ mask"),
    "concatenation": ("concat", "regional"),
    "ControlNet": ("controlnet", "regional"),
    "XReal, two-pass": ("xreal", "two-pass"),
    "XReal, regional, prior alone": ("xreal", "prior instead of adapter"),
    "XReal, regional": ("xreal", "regional"),
}


def main(folder: Path) -> None:
    reports = {
        name: json.loads((folder / name / "report.json").read_text(encoding="utf-8")) for name, _ in ROWS.values()
    }
    found = {title: reports[name]["rows"].get(row) for title, (name, row) in ROWS.items()}
    table = markdown_table({"rows": {title: row for title, row in found.items() if row}})  # a model may have no adapter
    (folder / "compare.md").write_text(table + "\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
