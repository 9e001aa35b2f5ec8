"""The store of uploaded files: whole files or none, and nothing of a caller's in a path."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.errors import ConfigurationError
from broker_services.files import ORIGINAL, THUMBNAIL, FileStore, StoredFile

UUID = "0a" * 16


@pytest.fixture(params=["folder", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FileStore]:
    """A folder, and a file system of fsspec's that has none."""
    store = FileStore(str(tmp_path / "up") if request.param == "folder" else f"memory://{tmp_path.name}")
    yield store
    for found in all_files(store):
        store.remove(found.uuid)


def all_files(store: FileStore) -> list[StoredFile]:
    return [file for shard in store.shards() for file in store.files(shard)]


def put(store: FileStore, uuid: str, *pieces: bytes) -> None:
    file = store.begin(uuid)
    file.write([memoryview(piece) for piece in pieces])
    file.finish()


def test_a_file_is_read_as_it_was_written(store: FileStore) -> None:
    put(store, UUID, b"ab", b"", b"c")
    with store.open(UUID) as file:
        assert file.read() == b"abc"
    assert store.write(UUID, THUMBNAIL, b"small") == f"0a/{UUID}.thumbnail.jpg"
    assert set(all_files(store)) == {StoredFile(UUID, ORIGINAL), StoredFile(UUID, THUMBNAIL)}
    assert store.age_s(StoredFile(UUID, ORIGINAL)) < 60


def test_a_removed_task_leaves_nothing(store: FileStore) -> None:
    put(store, UUID, b"abc")
    store.write(UUID, THUMBNAIL, b"small")
    store.remove(UUID)
    store.remove(UUID)
    assert all_files(store) == []
    with pytest.raises(FileNotFoundError):
        store.open(UUID)


def test_what_is_discarded_leaves_nothing(store: FileStore) -> None:
    file = store.begin(UUID)
    file.write([memoryview(b"abc")])
    file.discard()
    file.discard()
    assert all_files(store) == []


def test_an_unfinished_file_is_nobodys_original(tmp_path: Path) -> None:
    store = FileStore(str(tmp_path))
    file = store.begin(UUID)
    with pytest.raises(FileNotFoundError):
        store.open(UUID)
    assert all_files(store) == [StoredFile(UUID, "part")]
    file.discard()


def test_an_empty_store_has_no_files(store: FileStore) -> None:
    assert all_files(store) == []
    assert store.files("0a") == []


def test_what_others_put_there_is_left_alone(tmp_path: Path) -> None:
    store = FileStore(str(tmp_path))
    put(store, UUID, b"abc")
    (tmp_path / "README").touch()
    for name in ("notes.txt", f"{UUID}.other", "zz.original", ".original", "0a"):
        (tmp_path / "0a" / name).touch()
    assert all_files(store) == [StoredFile(UUID, ORIGINAL)]


def test_age_is_told_by_the_last_write(tmp_path: Path) -> None:
    store = FileStore(str(tmp_path))
    put(store, UUID, b"abc")
    os.utime(tmp_path / store.path(UUID, ORIGINAL), (0, 0))
    assert store.age_s(StoredFile(UUID, ORIGINAL)) > 1e9


@pytest.mark.parametrize("url", ["nosuch://bucket", "s3://bucket/x"])
def test_a_url_that_nothing_knows_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="BROKER_UPLOAD_URL"):
        FileStore(url)
