"""`broker watch` and `broker publish`: what is asked, and what is printed where."""

from __future__ import annotations

import httpx
import pytest

from broker_services.cli import show
from broker_services.cli.exits import Exit
from tests.unit.cli.conftest import Answering, Invoke
from tests.unit.client.fake_api import answer, raw_answer

FIRST = b'{"namespace":"n","version":"1-a","value":[1.0,\n"\\u001b[2J"],"changed_at":"2026-11-20T10:00:00.000Z"}'
GONE = b'{"namespace":"n","version":"0"}'


def unchanged(_request: httpx.Request) -> httpx.Response:
    return httpx.Response(304)


def test_watching_prints_each_value_on_a_line(broker: Invoke, answering: Answering) -> None:
    api = answering(raw_answer(FIRST), raw_answer(GONE), unchanged)
    result = broker("watch", "n", "--wait", "0")
    assert result.exit_code == Exit.STILL_RUNNING
    assert result.stdout_bytes == FIRST.replace(b"\n", b" ") + b"\n" + GONE + b"\n"
    assert [request.url.params["version"] for request in api.requests] == ["0", "1-a", "0"]


def test_watching_once(broker: Invoke, answering: Answering) -> None:
    api = answering(raw_answer(FIRST))
    assert broker("watch", "n", "--once", "--version", "9-z").exit_code == Exit.OK
    assert api.asked == ["GET /watch/n?version=9-z&wait=50"]


def test_for_people(broker: Invoke, answering: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(show, "for_people", lambda _as_json: True)
    answering(raw_answer(FIRST), raw_answer(GONE), unchanged)
    lines = broker("watch", "n", "--wait", "0").stdout.splitlines()
    assert lines == ['2026-11-20T10:00:00.000Z  1-a  [1.0, "\\u001b[2J"]', "nothing is published"]


def test_publishing(broker: Invoke, answering: Answering) -> None:
    api = answering(answer({"namespace": "n", "version": "1-a"}))
    result = broker("publish", "n", '{"a": 1.0}')
    assert (result.exit_code, result.stdout) == (Exit.OK, '{"namespace":"n","version":"1-a"}\n')
    assert (api.asked, api.requests[0].content) == (["POST /publish/n"], b'{"a": 1.0}')


def test_deleting(broker: Invoke, answering: Answering) -> None:
    api = answering(lambda _: httpx.Response(204))
    assert broker("publish", "n", "--delete").exit_code == Exit.OK
    assert api.asked == ["DELETE /publish/n"]


@pytest.mark.parametrize("arguments", [["n"], ["n", "1", "--delete"], ["n", "{"]])
def test_what_cannot_be_published(broker: Invoke, answering: Answering, arguments: list[str]) -> None:
    api = answering(unchanged)
    assert broker("publish", *arguments).exit_code == Exit.USAGE
    assert not api.requests
