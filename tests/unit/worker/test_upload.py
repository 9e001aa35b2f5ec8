"""The handler of uploads: what it makes of payloads and of a store that fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from broker.errors import TaskError
from broker.task import Task, TaskState
from broker_services.files import FileStore
from broker_services.worker.upload import PictureProcessor
from tests.support.pictures import picture


def processed(store: FileStore, uuid: str = "task", **payload: Any) -> Any:
    return PictureProcessor(store)(task(uuid, {"file": "file", "name": "a.png", **payload}))


def task(uuid: str, payload: Any) -> Task:
    return Task(uuid=uuid, queue="uploadpicture", state=TaskState.RUNNING, attempt=1, payload=payload)


def put(store: FileStore, content: bytes) -> None:
    file = store.begin("file")
    file.write([memoryview(content)])
    file.finish()


def refusal(store: FileStore, **payload: Any) -> tuple[str, bool]:
    with pytest.raises(TaskError) as raised:
        processed(store, **payload)
    return raised.value.code, raised.value.retry


def test_the_thumbnail_is_named_by_the_task_and_not_by_the_file(tmp_path: Path) -> None:
    store, content = FileStore(str(tmp_path)), picture(20, 10)
    put(store, content)
    result = processed(store, size=len(content))
    assert (result["file"], result["thumbnail"]["file"]) == ("fi/file.original", "ta/task.thumbnail.jpg")
    assert (tmp_path / "ta" / "task.thumbnail.jpg").stat().st_size == result["thumbnail"]["size"]


@pytest.mark.parametrize("payload", [{}, {"size": "1"}, {"size": 1, "file": "a/b"}, {"size": 1, "name": None}])
def test_a_payload_of_another_shape_is_refused(tmp_path: Path, payload: dict[str, Any]) -> None:
    assert refusal(FileStore(str(tmp_path)), **payload) == ("invalid-payload", False)


def test_a_file_that_is_gone_or_not_whole_is_told(tmp_path: Path) -> None:
    store = FileStore(str(tmp_path))
    assert refusal(store, size=1) == ("file-gone", False)
    put(store, picture(20, 10))
    assert refusal(store, size=1) == ("broken-image", False)


def test_a_store_that_fails_is_tried_again(tmp_path: Path) -> None:
    store, content = FileStore(str(tmp_path)), picture(20, 10)
    put(store, content)
    (tmp_path / "ta").write_text("in the way")
    assert refusal(store, size=len(content)) == ("upload-store-failed", True)
