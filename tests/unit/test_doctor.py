"""What the doctor concludes from what a server says; `tests/redis/test_doctor.py` asks real ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import fakeredis
import pytest
from redis.exceptions import NoPermissionError

from broker.errors import ConfigurationError
from broker.store import doctor, rights
from broker.store.doctor import examine
from broker.store.findings import Finding, Patient


class Told:
    """A client of a server that answers each command with what the test wrote down."""

    def __init__(self, answers: Mapping[str, Any]) -> None:
        self._answers = answers

    def execute_command(self, *words: Any) -> Any:
        answer = self._answers[str(words[0])]
        if isinstance(answer, Exception):
            raise answer
        return answer


def findings(name: str, **answers: Any) -> list[Finding]:
    """What one check finds."""
    patient = Patient(Told(answers), "server.test:6379", "api", ["createbranch"], None)
    return doctor._checked(name, doctor._checks[name], patient)


def status(name: str, **answers: Any) -> str:
    (finding,) = findings(name, **answers)
    return finding.status


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ({"redis_version": "6.2.14"}, "fail"),
        ({"redis_version": "7.0.0"}, "ok"),
        ({"redis_version": "8.2.1"}, "ok"),
        ({"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "7.2.5"}, "ok"),
        ({"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "9.1.2"}, "ok"),
        ({"redis_version": "255.255.255"}, "ok"),
    ],
)
def test_the_version(server: dict[str, str], expected: str) -> None:
    assert status("version", INFO=server) == expected


def test_a_cluster_is_not_supported_yet() -> None:
    found = findings("version", INFO={"redis_version": "7.2.0", "redis_mode": "cluster"})
    assert [finding.status for finding in found] == ["ok", "warn"]


def test_a_replica_names_its_master() -> None:
    replica = {"role": "slave", "master_host": "10.0.0.1", "master_port": 6380}
    (finding,) = findings("role", INFO=replica)
    assert finding.status == "fail"
    assert "10.0.0.1:6380" in finding.message
    assert status("role", INFO={"role": "master", "connected_slaves": 2}) == "ok"


@pytest.mark.parametrize(
    ("policy", "limit", "expected"),
    [
        ("noeviction", 0, "ok"),
        ("noeviction", 1 << 30, "ok"),
        ("allkeys-lru", 1 << 30, "fail"),
        ("allkeys-lru", 0, "warn"),
        ("volatile-ttl", 1 << 30, "warn"),
    ],
)
def test_eviction(policy: str, limit: int, expected: str) -> None:
    assert status("eviction", INFO={"maxmemory_policy": policy, "maxmemory": limit}) == expected


@pytest.mark.parametrize(("enabled", "expected"), [(1, "ok"), (0, "warn")])
def test_persistence(enabled: int, expected: str) -> None:
    assert status("persistence", INFO={"aof_enabled": enabled}) == expected


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ("normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60", "ok"),
        ("normal 0 0 0 slave 268435456 67108864 60 pubsub 1048576 8388608 60", "warn"),
        ("normal 0 0 0 slave 268435456 67108864 60 pubsub 0 0 0", "warn"),
    ],
)
def test_the_output_buffer(limits: str, expected: str) -> None:
    assert status("output-buffer", CONFIG={"client-output-buffer-limit": limits}) == expected


def test_what_may_not_be_seen_is_skipped() -> None:
    denied = NoPermissionError("this user has no permissions to run the 'config|get' command")
    (finding,) = findings("output-buffer", CONFIG=denied)
    assert finding.status == "skipped"
    assert finding.message.startswith("Not visible to the user api")


def test_without_eval_the_rights_fail() -> None:
    (finding,) = findings("rights", EVAL=NoPermissionError("this user has no permissions to run the 'eval' command"))
    assert finding.status == "fail"
    assert "ACL SETUSER api +eval" in finding.message


def test_messages_that_arrive() -> None:
    patient = Patient(fakeredis.FakeRedis(decode_responses=True), "fake", "default", ["createbranch"], None)
    (finding,) = doctor._checked("delivery", doctor._delivery, patient)
    assert finding.status == "ok"


def test_messages_that_do_not_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "DELIVERY_DEADLINE_S", 0.05)
    client = fakeredis.FakeRedis(decode_responses=True)
    monkeypatch.setattr(client, "execute_command", lambda *words: 0)
    patient = Patient(client, "fake", "default", ["createbranch"], None)
    (finding,) = doctor._checked("delivery", doctor._delivery, patient)
    assert finding.status == "fail"
    assert "did not arrive" in finding.message


def test_nothing_answers() -> None:
    (finding,) = examine("redis://:secret@127.0.0.1:1/0")
    assert finding.status == "fail"
    assert "Nothing answers at 127.0.0.1:1" in finding.message
    assert "secret" not in finding.message


@pytest.mark.parametrize(("url", "queue"), [("redis://127.0.0.1:1", "Not A Queue"), ("http://127.0.0.1:1", "q")])
def test_what_cannot_be_asked_for(url: str, queue: str) -> None:
    with pytest.raises(ConfigurationError):
        examine(url, [queue])


def test_every_command_of_the_scripts_can_be_asked_for_safely() -> None:
    """An incomplete command crashes Redis 7.0: whoever calls a new one in a script adds its arguments to `COMPLETE`."""
    assert set(rights.script_commands()) - {"PUBLISH", "PUBSUB", "TIME"} <= set(rights.COMPLETE)
