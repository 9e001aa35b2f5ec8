"""A real browser without a window, and a site in front of instances that it can look at."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, Self
from urllib.parse import urlsplit

NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find_browser() -> str | None:
    """Where one is installed."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@contextlib.contextmanager
def looking_at(url: str, folder: Path) -> Iterator[None]:
    """A browser that has opened a page, with a profile in `folder`."""
    command = [str(find_browser()), "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    command += ["--no-proxy-server", "--disable-dev-shm-usage", f"--user-data-dir={folder}", url]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Site:
    """Serves one page, hands what is asked of `/taskEvents` to instances in turn, and takes what the page reports.

    Args:
        page: The page.
        instances: Their URLs.
        cuts: After how many bytes the first so many streams are cut off.
    """

    def __init__(self, page: str, instances: Sequence[str], cuts: Sequence[int]) -> None:
        self._page = page.encode()
        self._instances = instances
        self._cuts = cuts
        self._server: asyncio.Server | None = None
        self.streams = 0
        self.url = ""
        self.report: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.url = f"http://{host}:{port}/"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer), contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ", 2)[1]
            if path.startswith(b"/taskEvents"):
                await self._pass_on(head, writer)
            elif path == b"/report":
                length = next(
                    int(line.split(b":")[1]) for line in head.split(b"\r\n") if b"content-length" in line.lower()
                )
                self.report.set_result(await reader.readexactly(length))
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n" + self._page)
                await writer.drain()

    async def _pass_on(self, head: bytes, writer: asyncio.StreamWriter) -> None:
        number, self.streams = self.streams, self.streams + 1
        left = self._cuts[number] if number < len(self._cuts) else 2**30
        address = urlsplit(self._instances[number % len(self._instances)])
        answer, question = await asyncio.open_connection(address.hostname, address.port)
        with contextlib.closing(question):
            # One request a connection: what follows on it would not be seen here.
            question.write(head.replace(b"Connection: keep-alive", b"Connection: close"))
            while left > 0 and (part := await answer.read(min(left, 4_096))):
                left -= len(part)
                writer.write(part)
                await writer.drain()
