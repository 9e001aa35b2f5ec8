"""The files of uploads go with the records of their tasks, which vanish inside Redis: this looks for what they left.

A call removes its own file where it knows that no task came of it. Everything else is found here: files whose record
is gone, whose process died, whose create was never confirmed, whose task a full queue has dropped.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Final, TypeVar

from broker.errors import StoreError, StoreUnavailableError
from broker.requests import milliseconds
from broker.store.housekeeping import Housekeeping
from broker.store.queries import Queries
from broker_services.api.uploads import Uploads
from broker_services.files import StoredFile

T = TypeVar("T")

log = logging.getLogger("broker.api")

ROUND_EVERY_S: Final = 10.0
"""How often all files are looked at, by whichever instance asks first."""
REMOTE_ROUND_EVERY_S: Final = 600.0
"""The same where each look at a folder is a request that takes time and may cost money."""
GRACE_S: Final = 60.0
"""A file without a record is left alone for so long after it was last written, and for BROKER_BODY_TIMEOUT_S, which a
sender may pause: its task may be about to be made. The link gives a create up after 4 s."""
BATCH: Final = 200
"""Files whose records are looked for at a time: less than a millisecond of the server's time."""
PAUSE_S: Final = 0.02
"""Between two batches, so that a store of a million files leaves Redis and the disk to others."""


class UploadCleaning:
    """One instance's share of the cleaning.

    Args:
        uploads: Whose files.
        housekeeping: Gives turns.
        queries: Knows records.
        cleaner: This process, shown as the holder of the turn.
        grace_s: Seconds for which a file without a record is left alone.
    """

    def __init__(
        self, uploads: Uploads, housekeeping: Housekeeping, queries: Queries, cleaner: str, *, grace_s: float
    ) -> None:
        self._uploads = uploads
        self._store = uploads.store
        self._housekeeping = housekeeping
        self._queries = queries
        self._cleaner = cleaner
        self._grace_s = grace_s
        self._every_s = ROUND_EVERY_S if self._store.is_local else REMOTE_ROUND_EVERY_S

    async def run_forever(self) -> None:
        """Cleans whenever it is this instance's turn, until cancelled."""
        while True:
            await asyncio.sleep(self._every_s * random.uniform(0.5, 1.0))  # noqa: S311
            try:
                if await self._housekeeping.take_upload_turn(self._cleaner, milliseconds(self._every_s)):
                    await self.clean()
            except (StoreUnavailableError, StoreError) as error:
                # Nothing is lost by cleaning later, and nothing is removed whose record cannot be looked for.
                log.warning("Uploaded files were not cleaned up: %s", error)

    async def clean(self) -> int:
        """Looks at every file once, folder by folder; of how many tasks some were removed."""
        removed = 0
        for shard in await self._uploads.run(self._store.shards):
            files = await self._uploads.run(partial(self._store.files, shard))
            for batch in _batches(files):
                removed += await self._clean_batch(batch)
                await asyncio.sleep(PAUSE_S)
        if removed:
            log.info("The uploaded files of %d tasks were removed, which need them no more.", removed)
        return removed

    async def _clean_batch(self, files: list[StoredFile]) -> int:
        fileless = await self._queries.find_fileless(list({file.uuid for file in files}))
        without_record, dropped = set(fileless.without_record), set(fileless.dropped)
        if not without_record and not dropped:
            return 0
        return await self._uploads.run(partial(self._remove, files, without_record, dropped))

    def _remove(self, files: list[StoredFile], without_record: set[str], dropped: set[str]) -> int:
        removed = 0
        for file in files:
            if file.uuid in dropped or (file.uuid in without_record and self._is_old(file)):
                self._store.remove(file.uuid)
                removed += 1
        return removed

    def _is_old(self, file: StoredFile) -> bool:
        try:
            return self._store.age_s(file) >= self._grace_s
        except FileNotFoundError:
            return False


def _batches(items: Iterable[T]) -> Iterator[list[T]]:
    rest = iter(items)
    while batch := list(islice(rest, BATCH)):
        yield batch
