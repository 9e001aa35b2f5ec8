"""Where uploaded files are kept: a folder, or whatever else fsspec reaches by a URL.

A file is named by its task's uuid alone, in a folder of the uuid's first two letters; nothing that a caller chose is
part of a path. Everything here blocks: call it in a thread.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from broker import naming
from broker.errors import ConfigurationError

ORIGINAL: Final = "original"
"""The file as it was sent."""
THUMBNAIL: Final = "thumbnail.jpg"
_PART: Final = "part"
_KINDS: Final = (ORIGINAL, THUMBNAIL, _PART)

SHARD_LETTERS: Final = 2
BLOCK_BYTES: Final = 5 * 2**20
"""What a file system without files of its own keeps in memory of each file that is written: the least that S3 takes."""


class StoredFile(NamedTuple):
    """One file as it is found: of which task, and what it is of it."""

    uuid: str
    kind: str


class FileStore:
    """The files of one deployment, which all its processes share.

    Args:
        url: A folder, or a URL of fsspec's such as `s3://bucket/folder`.

    Raises:
        ConfigurationError: Nothing here knows such a URL.
    """

    def __init__(self, url: str) -> None:
        is_folder = "://" not in url and "::" not in url
        self._url = str(Path(url).expanduser().absolute()) if is_folder else url
        # A folder can always be tried, so fsspec's import is left to its first file. A URL is looked at now.
        self.is_local = is_folder or _is_local(self._system)

    @cached_property
    def _place(self) -> tuple[Any, str]:
        """The file system, and where the store is in it."""
        import fsspec

        try:
            system, root = fsspec.core.url_to_fs(self._url)
        except (ValueError, ImportError) as error:
            raise ConfigurationError(
                f"BROKER_UPLOAD_URL={self._url!r} cannot be used: {error}. Name a folder, or a URL of fsspec's whose "
                "package is installed."
            ) from None
        return system, root.rstrip("/")

    @property
    def _system(self) -> Any:
        return self._place[0]

    @property
    def _root(self) -> str:
        return self._place[1]

    # One task's files

    def path(self, uuid: str, kind: str) -> str:
        """Where a file is, below the store's URL."""
        return f"{_shard(uuid)}/{uuid}.{kind}"

    def begin(self, uuid: str) -> NewFile:
        """Begins to write a task's original, which nobody finds before it is finished."""
        path = self._full(uuid, _PART if self.is_local else ORIGINAL)
        return NewFile(self._system, self._open_new(path), path, self._full(uuid, ORIGINAL))

    def write(self, uuid: str, kind: str, content: bytes) -> str:
        """Writes a whole file, in place of one that may be there; returns its path below the store's URL."""
        with self._open_new(self._full(uuid, kind)) as file:
            file.write(content)
        return self.path(uuid, kind)

    def open(self, uuid: str) -> IO[bytes]:
        """A task's original, for reading. Raises FileNotFoundError."""
        file: IO[bytes] = self._system.open(self._full(uuid, ORIGINAL), "rb")
        return file

    def remove(self, uuid: str) -> None:
        """Removes all files of a task, those that there are."""
        for kind in _KINDS:
            with contextlib.suppress(FileNotFoundError):
                self._system.rm_file(self._full(uuid, kind))

    # All files

    def shards(self) -> list[str]:
        """The folders that files may be in."""
        return [name for name in self._names(self._root) if len(name) <= SHARD_LETTERS]

    def files(self, shard: str) -> list[StoredFile]:
        """The files in one of them; what was not made here is left out."""
        found = (_stored(shard, name) for name in self._names(f"{self._root}/{shard}"))
        return [file for file in found if file is not None]

    def age_s(self, file: StoredFile) -> float:
        """Seconds since a file was written, by this machine's clock. Raises FileNotFoundError."""
        modified: datetime = self._system.modified(self._full(file.uuid, file.kind))
        if modified.tzinfo is None:
            modified = modified.replace(tzinfo=UTC)
        return (datetime.now(UTC) - modified).total_seconds()

    def _full(self, uuid: str, kind: str) -> str:
        return f"{self._root}/{self.path(uuid, kind)}"

    def _names(self, folder: str) -> list[str]:
        # Some file systems remember what they have listed, and other processes write here.
        self._system.invalidate_cache(folder)
        try:
            return [path.rstrip("/").rpartition("/")[2] for path in self._system.ls(folder, detail=False)]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def _open_new(self, path: str) -> Any:
        try:
            return self._system.open(path, "wb", block_size=BLOCK_BYTES)
        except FileNotFoundError:
            # Folders are made when they are missed: stores of objects have none.
            self._system.makedirs(path.rpartition("/")[0], exist_ok=True)
            return self._system.open(path, "wb", block_size=BLOCK_BYTES)


class NewFile:
    """A file that is being written, under a name of its own where there are renames.

    Args:
        system: Where it is.
        file: Open for writing.
        path: Its present name.
        final_path: Its name once it is whole.
    """

    def __init__(self, system: Any, file: Any, path: str, final_path: str) -> None:
        self._system = system
        self._file = file
        self._path = path
        self._final_path = final_path

    def write(self, pieces: Iterable[memoryview]) -> None:
        """Adds to its end."""
        for piece in pieces:
            self._file.write(piece)

    def finish(self) -> None:
        """It is whole: gives it its name."""
        self._file.close()
        if self._path != self._final_path:
            self._system.mv(self._path, self._final_path)

    def discard(self) -> None:
        """Leaves nothing behind."""
        # Closed first, whatever that does: some files would be completed by their finalizer, after the removal.
        with contextlib.suppress(Exception):
            self._file.close()
        with contextlib.suppress(FileNotFoundError):
            self._system.rm_file(self._path)


def _is_local(system: Any) -> bool:
    from fsspec.implementations.local import LocalFileSystem

    return isinstance(system, LocalFileSystem)


def _shard(uuid: str) -> str:
    return uuid[:SHARD_LETTERS].lower()


def _stored(shard: str, name: str) -> StoredFile | None:
    uuid, _, kind = name.partition(".")
    is_ours = kind in _KINDS and naming.is_uuid(uuid) and _shard(uuid) == shard
    return StoredFile(uuid, kind) if is_ours else None
