"""What a process imports until it is of use, and that what it imports later serves the first call already."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.integration.conftest import OwnDeployment
from tests.support.api import ServiceProcess
from tests.support.processes import wait_until

UNUSED: Final = {"fastapi", "starlette", "pydantic", "prometheus_client", "fsspec", "PIL", "redis", "httpx"}
"""What takes long to import and is no use before a call asks for it, or not at all."""
FIRST_CALLS: Final = {"/docs": 200, "/openapi.json": 200, "/metrics": 200, "/nowhere": 404}
AT_A_TIME: Final = 4
_IMPORTED: Final = re.compile(r"^import time: +\d+ \| +\d+ \| +(\w+)", re.MULTILINE)


@pytest.fixture(autouse=True)
def imports_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has Python tell on standard error whatever it imports."""
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")


def imported_by(process: ServiceProcess) -> set[str]:
    """The packages that it has imported so far."""
    return set(_IMPORTED.findall(process.log_text()))


def test_an_instance_imports_what_calls_need_when_they_need_it(own: OwnDeployment) -> None:
    api = own.api()
    assert "hiredis" in imported_by(api)
    assert not UNUSED & imported_by(api)

    # All at once, so that several wait for the same import.
    with ThreadPoolExecutor(AT_A_TIME * len(FIRST_CALLS)) as callers:
        answers = list(callers.map(lambda path: httpx.get(api.url + path, trust_env=False), [*FIRST_CALLS] * AT_A_TIME))

    assert [answer.status_code for answer in answers] == [*FIRST_CALLS.values()] * AT_A_TIME
    assert {"fastapi", "prometheus_client"} <= imported_by(api)
    api.assert_log_has_no_defect()


def test_a_worker_imports_nothing_that_its_tasks_do_not_need(own: OwnDeployment, tmp_path: Path) -> None:
    worker = own.command("worker", "--redis-url", own.server.url, folder=tmp_path)
    wait_until(lambda: len(own.store.client_list()) > 1, "the worker is connected")
    assert "hiredis" in imported_by(worker)
    assert not (UNUSED | {"uvicorn"}) & imported_by(worker)
