"""A file on its way to the API: streamed as a multipart form, from its beginning each time it is sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import IO, Any

from broker.client.calls import Call, seconds

Uploadable = str | PathLike[str] | IO[bytes]
"""A path, or a file that is open for reading in bytes and can seek."""


@dataclass(frozen=True, kw_only=True)
class UploadCall(Call):
    """`POST /asyncUpload`.

    Args:
        file: Open for reading, in bytes.
        name: What the file is called.
    """

    file: IO[bytes]
    name: str

    def content(self, hold_s: float) -> Mapping[str, Any]:
        """The file and the wait; httpx goes back to the file's beginning."""
        return {"files": {"file": (self.name, self.file)}, "data": {"wait": str(seconds(hold_s))}}


@contextmanager
def upload_call(file: Uploadable, name: str | None) -> Iterator[UploadCall]:
    """The call for a file, which is closed again if it was opened here. Raises OSError."""
    if isinstance(file, str | PathLike):
        with Path(file).open("rb") as opened:
            yield _call(opened, name or Path(file).name)
    else:
        yield _call(file, name or Path(str(getattr(file, "name", ""))).name or "file")


def _call(file: IO[bytes], name: str) -> UploadCall:
    return UploadCall(method="POST", target="/asyncUpload", uuid="", holds=True, file=file, name=name)
