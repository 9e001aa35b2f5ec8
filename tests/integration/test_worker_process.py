"""A worker as a process: what its signals do."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.integration.conftest import OwnDeployment
from tests.support.processes import wait_until


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "handler"
    folder.mkdir()
    return folder


def start_endless_task(own: OwnDeployment, folder: Path, queue: str = "test-endless") -> str:
    """Has a handler run that does not end by itself; gives the task's URL."""
    api = own.api()
    body = {"queue": queue, "uuid": "t", "payload": str(folder), "wait": 0}
    assert httpx.post(f"{api.url}/createTask", json=body).status_code == 202
    wait_until((folder / "started").exists, "the handler runs")
    return f"{api.url}/queryTaskState?uuid=t"


def test_a_signal_gives_the_task_back_uncounted(own: OwnDeployment, folder: Path) -> None:
    worker = own.worker(drain_s="0.2")
    task = start_endless_task(own, folder)
    worker.terminate()
    assert worker.process.wait(10) == 0
    assert (folder / "cancelled").exists()
    document = httpx.get(task).json()
    assert (document["state"], document["attempt"]) == ("pending", 0)


def test_a_handler_that_takes_no_notice_of_it_keeps_no_process(own: OwnDeployment, folder: Path) -> None:
    worker = own.worker(drain_s="0.2")
    task = start_endless_task(own, folder, "test-stubborn")
    worker.terminate()
    assert worker.process.wait(20) == 0
    assert "take no notice" in worker.log_tail()
    # Its lease is the sweep's.
    assert httpx.get(task).json()["state"] == "running"


def test_a_second_signal_ends_at_once(own: OwnDeployment, folder: Path) -> None:
    worker = own.worker(drain_s="60")
    task = start_endless_task(own, folder)
    worker.terminate()
    wait_until(lambda: "Draining" in worker.log_tail(), "it drains")
    worker.terminate()
    assert worker.process.wait(10) != 0
    assert not (folder / "cancelled").exists()
    # Its lease is the sweep's.
    assert httpx.get(task).json()["state"] == "running"
