"""asyncUpload over real sockets, on several instances: what is stored, what refused, and that nothing stays behind."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx
import pytest
from PIL import Image

from broker.store.embedded import EmbeddedServer
from tests.integration.api.conftest import Deployment
from tests.support.api import ApiProcess, stop_together
from tests.support.caller import Caller, code_of, request_head
from tests.support.pictures import picture
from tests.support.processes import wait_until

MOST_BYTES: Final = 50_000
MOST_PENDING: Final = 2
TIGHT: Final = {"upload_max_bytes": str(MOST_BYTES), "upload_queue": str(MOST_PENDING), "body_timeout_s": "0.5"}
BOUNDARY: Final = b"b0undary"
FORM: Final = "multipart/form-data"
TYPE: Final = b"Content-Type: multipart/form-data; boundary=" + BOUNDARY
MB: Final = 2**20


class Crowded(NamedTuple):
    """Two instances with limits and without a worker."""

    rejecting: Caller
    dropping: Caller
    folder: Path


@pytest.fixture(scope="module", autouse=True)
def _worker(deployment: Deployment) -> None:
    deployment.start_built_in_worker()


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory, http: httpx.Client) -> Iterator[Crowded]:
    base = tmp_path_factory.mktemp("crowded")
    with ThreadPoolExecutor(1) as threads, EmbeddedServer() as server:
        policies = ("reject", "drop-oldest")
        processes = [ApiProcess(server.url, log=base / f"{name}.log", queue_full=name, **TIGHT) for name in policies]
        for process in processes:
            process.start()
        try:
            for process in processes:
                process.wait_until_ready()
            rejecting, dropping = (Caller(process.url, http, threads) for process in processes)
            yield Crowded(rejecting, dropping, base / "uploads")
            for process in processes:
                process.assert_log_has_no_defect()
        finally:
            stop_together(processes)


@pytest.fixture
def crowded(started: Crowded) -> Iterator[Crowded]:
    """With an empty queue."""
    yield started
    while pending := started.rejecting.call("GET", "/tasks?state=pending").json()["items"]:
        for task in pending:
            started.rejecting.cancel(task["uuid"])


def upload(caller: Caller, content: bytes, *, name: str = "a.png", wait: str | None = "10") -> httpx.Response:
    data = {} if wait is None else {"wait": wait}
    return caller.call("POST", "/asyncUpload", files={"file": (name, content, "image/png")}, data=data)


def form(content: bytes) -> bytes:
    head = b'--%s\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n' % BOUNDARY
    return head + content + b"\r\n--%s--\r\n" % BOUNDARY


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def test_a_file_that_came_to_one_instance_is_processed_and_told_by_another(
    a: Caller, b: Caller, deployment: Deployment
) -> None:
    content = picture(640, 400, "JPEG")
    accepted = upload(a, content, name="../../照片.jpg", wait="0")
    assert accepted.status_code == 202
    assert accepted.headers["retry-after"] == "1"

    done = b.query(accepted.json()["uuid"], wait=10).json()

    result = done["result"]
    thumbnail = result.pop("thumbnail")
    assert result == {
        "name": "照片.jpg",
        "type": "image/jpeg",
        "size": len(content),
        "width": 640,
        "height": 400,
        "sha256": hashlib.sha256(content).hexdigest(),
        "file": result["file"],
    }
    assert (deployment.uploads / result["file"]).read_bytes() == content
    small = (deployment.uploads / thumbnail["file"]).read_bytes()
    assert Image.open(io.BytesIO(small)).size == (thumbnail["width"], thumbnail["height"]) == (256, 160)
    assert (thumbnail["type"], thumbnail["size"]) == ("image/jpeg", len(small))


def test_an_upload_is_held_until_its_thumbnail_is_there(a: Caller) -> None:
    answer = upload(a, picture(10, 10), wait=None)
    assert (answer.status_code, answer.json()["state"]) == (200, "succeeded")


def test_prefer_tells_the_wait_where_the_form_does_not(crowded: Crowded) -> None:
    content = {"file": ("a.png", picture(10, 10))}
    answer = crowded.rejecting.call("POST", "/asyncUpload", files=content, headers={"prefer": "wait=0"})
    assert (answer.status_code, answer.headers["preference-applied"]) == (202, "wait=0")


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"", "not-an-image"), (b"<svg/>", "unsupported-image"), (picture(99, 99)[:-2_000], "broken-image")],
    ids=["empty", "svg", "cut off"],
)
def test_what_is_no_picture_fails_at_once(a: Caller, content: bytes, code: str) -> None:
    task = upload(a, content).json()
    assert (task["state"], task["error"]["code"], task["attempt"]) == ("failed", code, 1)


def test_a_retried_task_finds_the_file_of_the_first(a: Caller, b: Caller) -> None:
    failed = upload(a, b"hello").json()
    again = b.call("POST", "/retryTask", json={"uuid": failed["uuid"]}).json()
    assert a.query(again["uuid"], wait=10).json()["error"]["code"] == "not-an-image"


def test_a_task_that_somebody_made_up_reaches_no_other_file(a: Caller) -> None:
    for file, code in (("../../../etc/passwd", "invalid-payload"), ("nobody", "file-gone")):
        payload = f'{{"file":"{file}","name":"x","size":1}}'
        task = a.create(queue="uploadpicture", payload=payload, wait=10).json()
        assert (task["state"], task["error"]["code"]) == ("failed", code)


# What is refused


@pytest.mark.parametrize(
    ("options", "status", "code", "field"),
    [
        ({"data": {"wait": "1"}, "files": {"x": ("x", b"1")}}, 422, "invalid-request", "x"),
        ({"data": {"wait": "1"}, "files": {"wait": ("x", b"1")}}, 422, "invalid-request", "wait"),
        ({"files": [("file", ("a", b"1")), ("file", ("b", b"2"))]}, 422, "invalid-request", "file"),
        ({"files": {"file": ("a", b"1")}, "data": {"wait": "-1"}}, 422, "invalid-request", "wait"),
        ({"files": {"file": ("a", b"1")}, "data": {"uuid": "a"}}, 422, "invalid-request", "uuid"),
        ({"files": {"file": ("a", b"1")}, "params": {"wait": "1"}}, 422, "invalid-request", None),
        ({"content": b"{}", "headers": {"content-type": "application/json"}}, 415, "unsupported-media-type", None),
        ({"content": b"x", "headers": {"content-type": FORM}}, 422, "invalid-request", None),
        (
            {"content": b"x", "headers": {"content-type": FORM + "; boundary=y"}},
            422,
            "invalid-request",
            None,
        ),
        (
            {"files": {"file": ("a", b"1")}, "headers": {"content-encoding": "gzip"}},
            415,
            "unsupported-media-type",
            None,
        ),
        ({"files": {"file": ("a", bytes(MOST_BYTES + 1))}}, 413, "payload-too-large", None),
        ({"files": {"file": ("a", bytes(MOST_BYTES * 4))}}, 413, "payload-too-large", None),
        ({"files": {"file": ("a", bytes(3 * MB))}}, 413, "payload-too-large", None),
    ],
)
def test_what_is_refused_leaves_nothing_and_its_connection_goes_on(
    crowded: Crowded, options: dict[str, Any], status: int, code: str, field: str | None
) -> None:
    before = files(crowded.folder)
    with httpx.Client(trust_env=False, timeout=10) as one:
        caller = Caller(crowded.rejecting.url, one, None)  # type: ignore[arg-type]  # nothing is held
        for _ in range(2):
            answer = caller.call("POST", "/asyncUpload", **options)
            assert code_of(answer) == (status, code)
            assert answer.json().get("field") == field
        assert caller.call("GET", "/healthz").status_code == 200
    assert files(crowded.folder) == before


def test_a_file_of_unannounced_length_is_refused_while_it_comes(crowded: Crowded) -> None:
    def parts() -> Iterator[bytes]:
        whole = form(bytes(MOST_BYTES * 3))
        yield from (whole[start : start + 9_000] for start in range(0, len(whole), 9_000))

    headers = {"content-type": f"multipart/form-data; boundary={BOUNDARY.decode()}"}
    answer = crowded.rejecting.call("POST", "/asyncUpload", content=parts(), headers=headers)
    assert code_of(answer) == (413, "payload-too-large")
    assert not any(name.endswith(".part") for name in files(crowded.folder))


def test_a_sender_who_stops_is_refused_and_leaves_nothing(crowded: Crowded) -> None:
    head = request_head("POST", "/asyncUpload", TYPE, b"Content-Length: 40000")
    with crowded.rejecting.connection(head + form(bytes(9_000))[:9_000]) as connection:
        answer = crowded.rejecting.read_answer(connection, "POST", "/asyncUpload")
    assert code_of(answer) == (408, "request-timeout")
    assert not any(name.endswith(".part") for name in files(crowded.folder))


def test_a_sender_who_leaves_leaves_nothing(b: Caller, deployment: Deployment) -> None:
    head = request_head("POST", "/asyncUpload", TYPE, b"Content-Length: 40000")
    with b.connection(head + form(bytes(9_000))[:9_000]):
        wait_until(lambda: any(name.endswith(".part") for name in files(deployment.uploads)), "the file has begun")
    wait_until(lambda: not any(name.endswith(".part") for name in files(deployment.uploads)), "the file is gone")


def test_an_upload_does_not_delay_the_end_of_its_instance(
    tmp_path: Path, http: httpx.Client, threads: ThreadPoolExecutor
) -> None:
    folder = tmp_path / "files"
    head = request_head("POST", "/asyncUpload", TYPE, b"Content-Length: 40000")
    with EmbeddedServer() as server, ApiProcess(server.url, log=tmp_path / "log", upload_url=str(folder)) as instance:
        caller = Caller(instance.url, http, threads)
        with caller.connection(head + form(bytes(9_000))[:9_000]) as connection:
            wait_until(lambda: files(folder), "the file has begun")
            instance.terminate()
            answer = caller.read_answer(connection, "POST", "/asyncUpload")
        assert code_of(answer) == (503, "draining")
        assert instance.process.wait(5) == 0
        instance.assert_log_has_no_defect()
    assert files(folder) == set()


# A full queue


def test_a_full_queue_refuses_and_keeps_no_file(crowded: Crowded) -> None:
    before = files(crowded.folder)
    for _ in range(MOST_PENDING):
        assert upload(crowded.rejecting, b"x", wait="0").status_code == 202
    for wait in ("0", "5"):
        assert code_of(upload(crowded.rejecting, b"x", wait=wait)) == (429, "queue-full")
    assert len(files(crowded.folder) - before) == MOST_PENDING


def test_a_full_queue_that_drops_its_oldest_tells_the_caller_and_drops_the_file(
    crowded: Crowded, threads: ThreadPoolExecutor
) -> None:
    before = files(crowded.folder)
    held = threads.submit(upload, crowded.dropping, b"x", wait="20")
    wait_until(lambda: files(crowded.folder) - before, "the first file is there")
    wait_until(lambda: crowded.dropping.call("GET", "/tasks?state=pending").json()["items"], "its task, too")
    oldest = files(crowded.folder) - before
    for _ in range(MOST_PENDING):
        upload(crowded.dropping, b"x", wait="0")

    dropped = held.result()

    assert dropped.status_code == 200
    assert (dropped.json()["state"], dropped.json()["error"]["code"]) == ("failed", "queue-full")
    assert not files(crowded.folder) & oldest
    assert len(files(crowded.folder) - before) == MOST_PENDING


# Memory


def resident_kib(pid: int) -> int:
    """The most that a process has had in memory so far."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="tells memory on Linux only")
def test_many_files_at_once_take_little_memory(
    a: Caller, instances: tuple[ApiProcess, ApiProcess], threads: ThreadPoolExecutor
) -> None:
    """100 MB in 64 calls at a time; `python -m tests.bench uploads` sends five times as much, all at once."""
    content = os.urandom(MB)
    assert upload(a, content, wait="0").status_code == 202
    before = resident_kib(instances[0].process.pid)
    answers = list(threads.map(lambda _: upload(a, content, wait="0").status_code, range(100)))
    assert set(answers) == {202}
    assert resident_kib(instances[0].process.pid) - before < 32 * 1024
