"""Files to one API process, all at once: what they take of its memory, and whether each result matches its file."""

from __future__ import annotations

import hashlib
import os
import socket
import struct
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import httpx

from tests.bench import processes
from tests.bench.budget import Budget
from tests.bench.figures import Figures
from tests.bench.processes import BROKER

FILES: Final = 500
SIDE: Final = 590
"""Pixels: a BMP of so many is 1 MB, and no two of random ones are alike."""
BOUNDARY: Final = b"b0undary"
DEADLINE_S: Final = 120.0


def run(budget: Budget) -> Figures:
    """Once: the peak of a process tells of its first round only."""
    figures = Figures()
    count = budget.sized(FILES, at_least=16)
    with (
        tempfile.TemporaryDirectory(prefix="broker-uploads-") as folder,
        processes.server() as redis,
        processes.api(redis.url, upload_url=folder) as (api, url),
    ):
        send([picture()], url)
        before = _peak_bytes(api.pid)
        pictures = [picture() for _ in range(count)]
        began = time.monotonic()
        uuids = send(pictures, url)
        figures.add("files/s", count / (time.monotonic() - began))
        figures.add("API memory, MiB more at most", (_peak_bytes(api.pid) - before) / 2**20)
        began = time.monotonic()
        # Not before all files are there: the two would share the processors.
        with processes.running([*BROKER, "worker", "--redis-url", redis.url], _environment(folder)):
            results = _results(url, uuids)
        figures.add("thumbnails/s", count / (time.monotonic() - began))
        figures.add("results that do not match", _mismatches(pictures, results, Path(folder)))
    return figures


def picture() -> bytes:
    """A BMP of random pixels."""
    pixels = os.urandom(SIDE * (SIDE * 3 + 2))
    header = struct.pack("<IiiHHIIiiII", 40, SIDE, SIDE, 1, 24, 0, len(pixels), 0, 0, 0, 0)
    return struct.pack("<2sIHHI", b"BM", 54 + len(pixels), 0, 0, 54) + header + pixels


def send(files: list[bytes], url: str) -> list[str]:
    """Uploads all of them at the same moment, each on a connection of its own; the tasks' uuids."""
    host, port = httpx.URL(url).host, httpx.URL(url).port
    gate = threading.Barrier(len(files))

    def one(content: bytes) -> str:
        body = _form(content)
        with socket.create_connection((host, port), timeout=DEADLINE_S) as connection:
            gate.wait(DEADLINE_S)
            connection.sendall(body)
            answer = b""
            while b'"uuid":"' not in answer:
                answer += connection.recv(65_536) or _fail(answer)
        return answer.partition(b'"uuid":"')[2].partition(b'"')[0].decode()

    with ThreadPoolExecutor(len(files)) as senders:
        return list(senders.map(one, files))


def _form(content: bytes) -> bytes:
    part = b'--%s\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
    file = part % (BOUNDARY, b"file", b'; filename="picture.bmp"', content)
    body = b"%s%s--%s--\r\n" % (part % (BOUNDARY, b"wait", b"", b"0"), file, BOUNDARY)
    head = "POST /asyncUpload HTTP/1.1\r\nHost: bench\r\nContent-Type: multipart/form-data; boundary=b0undary\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def _fail(answer: bytes) -> bytes:
    raise RuntimeError(f"An upload was answered {answer!r}.")


def _results(url: str, uuids: list[str]) -> list[dict[str, Any]]:
    # By one client: making one takes longer than a thumbnail.
    with httpx.Client(base_url=url, timeout=DEADLINE_S, trust_env=False) as client:
        answers = [client.get("/queryTaskState", params={"uuid": uuid, "wait": 60}).json() for uuid in uuids]
    return [answer.get("result", {}) for answer in answers]


def _mismatches(files: list[bytes], results: list[dict[str, Any]], folder: Path) -> int:
    wrong = 0
    for content, result in zip(files, results, strict=True):
        expected = {"sha256": hashlib.sha256(content).hexdigest(), "width": SIDE, "height": SIDE, "size": len(content)}
        is_right = expected.items() <= result.items() and (folder / result["thumbnail"]["file"]).is_file()
        wrong += not is_right
    return wrong


def _environment(folder: str) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("BROKER_")}
    return {**own, "BROKER_UPLOAD_URL": folder}


def _peak_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024
