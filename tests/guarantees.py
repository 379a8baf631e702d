#!/usr/bin/env python3
"""Checks tests/GUARANTEES.md against the tree.

Every guarantee has a row, every row names at least one test, and every test named there exists under that name.
A guarantee without a test that tries to break it, or a test that was renamed, fails here.
"""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
TABLE = ROOT / "tests" / "GUARANTEES.md"
NUMBERS = range(1, 11)
FUNCTION = re.compile(r"\bfn ([a-z][a-z0-9_]*)\s*[(<]")
PYTHON = re.compile(r"\bdef ([a-z][a-z0-9_]*)\(")
# A test's name is a sentence: three words at least.
NAME = re.compile(r"`([a-z0-9]+(?:_[a-z0-9]+){2,})`")
COLUMNS = 6


def defined():
    """Names of all functions in the files of the tree, tracked or new."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.rs", "*.py"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )
    names = set()
    for path in map(ROOT.joinpath, listed.stdout.split()):
        if path.is_file():
            pattern = PYTHON if path.suffix == ".py" else FUNCTION
            names.update(pattern.findall(path.read_text(encoding="utf-8")))
    return names


def rows(text):
    """The rows of the table: a list of cells each, the header left out."""
    lines = [line for line in text.splitlines() if re.match(r"\| *\d+ *\|", line)]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def mistakes(text, names):
    """What is wrong, in words."""
    found = rows(text)
    numbers = {int(row[0].strip("| ")) for row in found}
    for number in NUMBERS:
        if number not in numbers:
            yield f"guarantee {number} has no row"
    for row in found:
        if len(row) != COLUMNS:
            yield f"a row of guarantee {row[0]} has {len(row)} cells, not {COLUMNS}"
        elif not NAME.findall(row[4]):
            yield f"a row of guarantee {row[0]} names no test: {row[1]}"
    for name in sorted(set(NAME.findall(text)) - names):
        yield f"there is no test `{name}`"


def main():
    wrong = list(mistakes(TABLE.read_text(encoding="utf-8"), defined()))
    for line in wrong:
        print(f"tests/GUARANTEES.md: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
