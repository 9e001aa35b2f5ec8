"""The README, and deploy/README.md behind it, as tests read them: headings, blocks and tables, in both languages.

The word after a block's language says what the block is; without one, `sh` is run to its end and `json` or `text` is
what the last command has printed. `…` stands for anything.

- `sh dev`, `sh test`: the two commands of the script `start`. `sh docker`: needs Docker.
- `sh hold`: a call that is held while the next blocks run; `json held` is what it has printed at its end.
- `sh serve`: runs until the reader stops it; `json served` is a line that it prints.
- `python NAME`, `shell NAME`: the content of that file.

A block without a language is a picture.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
README: Final = (ROOT / "README.md", ROOT / "deploy" / "README.md")
LANGUAGES: Final = (README, (ROOT / "README.zh-CN.md", ROOT / "deploy" / "README.zh-CN.md"))

ANYTHING: Final = "…"
FILES: Final = ("python", "shell")
"""Languages of blocks that are files."""

_block = re.compile(r"^```(?P<language>\w*) ?(?P<note>\S*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_heading = re.compile(r"^(#+) (.+)$", re.MULTILINE)
_row = re.compile(r"^\| (.*) \|$", re.MULTILINE)
_link = re.compile(r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)")
_code = re.compile(r"`([^`]+)`")


@dataclass(frozen=True)
class Block:
    """A fenced block, where it stands, and what its opening line says."""

    file: str
    line: int
    language: str
    note: str
    text: str

    @property
    def kind(self) -> str:
        """Language and note in one; a file's name is not part of it."""
        return self.language if self.language in FILES else f"{self.language} {self.note}".strip()


class Readme:
    """One language's files, read one after the other.

    Args:
        paths: The files.
    """

    def __init__(self, paths: tuple[Path, ...]) -> None:
        texts = {str(path.relative_to(ROOT)): path.read_text() for path in paths}
        self.blocks = [
            Block(name, text.count("\n", 0, found.start()) + 1, found["language"], found["note"], found["text"])
            for name, text in texts.items()
            for found in _block.finditer(text)
        ]
        self._proses = {name: _block.sub("", text) for name, text in texts.items()}
        self.prose = "\n".join(self._proses.values())

    def of_kind(self, kind: str) -> list[Block]:
        """The blocks of a kind."""
        return [block for block in self.blocks if block.kind == kind]

    @property
    def heading_levels(self) -> list[int]:
        """Of all headings, in order."""
        return [len(found[1]) for found in _heading.finditer(self.prose)]

    @property
    def links(self) -> list[tuple[str, str]]:
        """What it links to: a file by its path from the top, and a heading as links name it, or none."""
        return [
            (os.path.normpath(Path(name).parent / found[1]) if found[1] else name, found[2] or "")
            for name, prose in self._proses.items()
            for found in _link.finditer(prose)
        ]

    def headings_of(self, name: str) -> set[str]:
        """The headings of one of its files, as links name them."""
        texts = (found[2].lower() for found in _heading.finditer(self._proses[name]))
        return {re.sub(r"[^\w -]", "", text).replace(" ", "-") for text in texts}

    @property
    def quoted(self) -> list[str]:
        """What stands between backticks."""
        return _code.findall(self.prose)

    def rows(self, first_cell: str) -> list[list[str]]:
        """The cells of all table rows whose first cell matches the pattern."""
        rows = [[cell.strip() for cell in found[1].split("|")] for found in _row.finditer(self.prose)]
        return [row for row in rows if re.fullmatch(first_cell, row[0])]


def is_as_shown(shown: str, printed: str) -> bool:
    """Whether a text is the one that a `text` block shows."""
    pattern = re.escape(shown.rstrip()).replace(ANYTHING, ".*?")
    return re.fullmatch(pattern, printed.replace("\r\n", "\n").rstrip(), re.DOTALL) is not None


def is_json_as_shown(shown: str, printed: str) -> bool:
    """Whether a text is a JSON object with all that a `json` block shows; it may have more members."""
    try:
        document = json.loads(printed)
    except ValueError:
        return False
    return _contains(document, json.loads(shown))


def _contains(document: Any, shown: Any) -> bool:
    match shown:
        case dict():
            return isinstance(document, dict) and all(
                name in document and _contains(document[name], value) for name, value in shown.items()
            )
        case str():
            return isinstance(document, str) and is_as_shown(shown, document)
        case _:
            return bool(document == shown) and type(document) is type(shown)
