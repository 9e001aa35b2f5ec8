"""Files go with the records of their tasks, which vanish inside Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker import Settings
from broker.errors import StoreUnavailableError
from broker.randomness import new_uuid
from broker_services.api.upload_cleaning import BATCH, UploadCleaning
from broker_services.api.uploads import Uploads
from broker_services.files import THUMBNAIL
from tests.support.store import Store, new_task, open_store, succeeded


@pytest.fixture
async def store(redis_url: str) -> AsyncIterator[Store]:
    async with open_store(redis_url) as store:
        yield store


@pytest.fixture
async def uploads(tmp_path: Path) -> AsyncIterator[Uploads]:
    uploads = Uploads(Settings(upload_url=str(tmp_path)))
    yield uploads
    uploads.close()


def cleaning(uploads: Uploads, store: Store, grace_s: float) -> UploadCleaning:
    return UploadCleaning(uploads, store.housekeeping, store.queries, "here", grace_s=grace_s)


def put(uploads: Uploads, uuid: str) -> None:
    file = uploads.store.begin(uuid)
    file.finish()
    uploads.store.write(uuid, THUMBNAIL, b"small")


def kept(folder: Path) -> set[str]:
    return {path.name.partition(".")[0] for path in folder.rglob("*") if path.is_file()}


async def test_only_files_without_a_record_go(store: Store, uploads: Uploads, tmp_path: Path) -> None:
    for uuid in ("open", "ended", "forgotten", "never"):
        put(uploads, uuid)
    for uuid in ("open", "ended", "forgotten"):
        await store.create(uuid, retention_ms=0 if uuid == "forgotten" else 60_000)
    await store.transitions.finish("ended", succeeded())
    await store.transitions.finish("forgotten", succeeded())
    await store.housekeeping.sweep_retained(1_000, 2**30)

    await cleaning(uploads, store, 0).clean()

    assert kept(tmp_path) == {"open", "ended"}


async def test_a_young_file_may_be_about_to_get_its_task(store: Store, uploads: Uploads, tmp_path: Path) -> None:
    put(uploads, "young")
    uploads.store.begin("arriving").write([memoryview(b"x")])
    await cleaning(uploads, store, 60).clean()
    assert kept(tmp_path) == {"young", "arriving"}


async def test_the_file_of_a_dropped_task_goes_at_once(store: Store, uploads: Uploads, tmp_path: Path) -> None:
    for uuid in ("dropped", "new"):
        put(uploads, uuid)
        await store.transitions.create(new_task(uuid, most_pending=1, drops_oldest=True))
    await cleaning(uploads, store, 60).clean()
    assert kept(tmp_path) == {"new"}


async def test_more_files_than_one_script_looks_for(store: Store, uploads: Uploads, tmp_path: Path) -> None:
    uuids = [f"ab{new_uuid()}" for _ in range(BATCH)]
    for uuid in uuids:
        put(uploads, uuid)
    await store.create(uuids[-1])
    await cleaning(uploads, store, 0).clean()
    assert kept(tmp_path) == {uuids[-1]}


async def test_nothing_goes_while_nobody_knows(store: Store, uploads: Uploads, tmp_path: Path) -> None:
    put(uploads, "known")
    await store.link.close()
    with pytest.raises(StoreUnavailableError):
        await cleaning(uploads, store, 0).clean()
    assert kept(tmp_path) == {"known"}
