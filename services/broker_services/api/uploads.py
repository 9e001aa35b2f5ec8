"""Uploads on their way: read from their senders no faster than they are written, and gone when they come to nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

from broker import Settings
from broker.errors import StoreUnavailableError, TooManyWaitersError
from broker.randomness import new_uuid
from broker_services.api.asgi import FLOW
from broker_services.api.descriptors import most_files
from broker_services.api.http_request import HttpRequest
from broker_services.api.long_bodies import LongBodies
from broker_services.api.problems import HttpError
from broker_services.api.upload_form import FRAME_BYTES, Upload, UploadForm
from broker_services.files import FileStore, NewFile

T = TypeVar("T")

log = logging.getLogger("broker.api")

MULTIPART: Final = "multipart/form-data"
MOST_AT_ONCE: Final = 1_000
"""Uploads that one instance receives at a time: each takes a socket, an open file and some 100 KiB."""
MOST_AT_ONCE_REMOTE: Final = 64
"""The same where an open file keeps up to `files.BLOCK_BYTES` in memory."""


class Uploads:
    """The uploads of one instance.

    Args:
        settings: What to run with.

    Raises:
        ConfigurationError: BROKER_UPLOAD_URL cannot be used.
    """

    def __init__(self, settings: Settings) -> None:
        self.store = FileStore(settings.upload_url)
        self._max_bytes = settings.upload_max_bytes
        self._bodies = LongBodies(timeout_s=settings.body_timeout_s)
        self._most_at_once = min(MOST_AT_ONCE if self.store.is_local else MOST_AT_ONCE_REMOTE, most_files())
        self._pool = ThreadPoolExecutor(settings.upload_threads, thread_name_prefix="broker-upload")
        self._at_once = 0

    async def receive(self, request: HttpRequest) -> tuple[str, Upload]:
        """Stores the file of an upload under a new uuid. What is refused or breaks off leaves nothing behind.

        Raises:
            HttpError: It is no multipart form, it came too slowly, or this process ends.
            InvalidRequestError, PayloadTooLargeError: The form cannot be used.
            TooManyWaitersError: As many uploads as may are being received here.
            StoreUnavailableError: The file cannot be stored.
            ClientGoneError: The sender went away.
        """
        request.refuse_encoded()
        form = self._form(request)
        if self._at_once >= self._most_at_once:
            raise TooManyWaitersError(f"{self._at_once} uploads are received here now, and no more: try again.")
        self._at_once += 1
        try:
            return await self._receive(request, form)
        finally:
            self._at_once -= 1

    async def remove(self, uuid: str) -> None:
        """Removes a task's files; one that cannot be removed now is found later."""
        try:
            await self.run(partial(self.store.remove, uuid))
        except StoreUnavailableError:
            log.warning("The files of task %s stay until they can be removed.", uuid)

    async def run(self, work: Callable[[], T]) -> T:
        """Runs blocking work on files in the pool. Raises StoreUnavailableError for whatever fails there."""
        future = asyncio.get_running_loop().run_in_executor(self._pool, work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            # No two threads shall work on one file: what follows waits until this one is done.
            await asyncio.wait({future})
            raise
        except Exception as error:
            log.warning("The uploads' store failed: %s: %s", type(error).__name__, error)
            raise StoreUnavailableError("The uploads' store cannot be used now; try again later.") from error

    def end_all(self) -> None:
        """Ends unfinished uploads: this process ends, and their senders try elsewhere."""
        self._bodies.end_all()

    def close(self) -> None:
        """Takes no more work."""
        self._pool.shutdown(wait=False)

    def _form(self, request: HttpRequest) -> UploadForm:
        if request.media_type != MULTIPART:
            raise HttpError(
                "unsupported-media-type", f"The body is {request.media_type or 'of no type'}; send {MULTIPART}."
            )
        return UploadForm(request.header(b"content-type") or "", max_bytes=self._max_bytes)

    async def _receive(self, request: HttpRequest, form: UploadForm) -> tuple[str, Upload]:
        uuid = new_uuid()
        file = await self.run(partial(self.store.begin, uuid))
        try:
            await self._read(request, form, file)
            upload = form.finish()
            await self.run(file.finish)
        except BaseException:
            await self._discard(file)
            raise
        return uuid, upload

    async def _read(self, request: HttpRequest, form: UploadForm, file: NewFile) -> None:
        async def take(part: bytes) -> None:
            pieces = form.feed(part)
            if pieces:
                await self.run(partial(file.write, pieces))

        most = self._max_bytes + FRAME_BYTES
        flow = request.scope.get(FLOW)
        await self._bodies.read(request.receive, flow, request.announced_bytes, max_bytes=most, take=take)

    async def _discard(self, file: NewFile) -> None:
        try:
            await self.run(file.discard)
        except StoreUnavailableError:
            log.warning("An unfinished upload stays until it can be removed.")
