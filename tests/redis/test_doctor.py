"""The doctor on real servers: a good one, and users that lack each kind of right."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import redis

from broker.store.doctor import examine
from broker.store.findings import Finding
from tests.support.server import OwnServer

CreateUser = Callable[..., str]

SCRIPTS = ("+@read", "+@write", "+@connection", "+time", "+eval", "+evalsha", "+script|load", "+info")
API = (
    *SCRIPTS,
    *("~{broker}:*", "+subscribe", "+publish", "+pubsub|numsub", "&broker:*", "&*-response-*"),
    "(+publish &*-request-*)",
)
WORKER = (
    *SCRIPTS,
    *("~{broker}:*", "+subscribe", "+psubscribe", "+publish", "&broker:*", "&createbranch-request-*"),
    "(+publish &*-request-* &*-response-*)",
)


@pytest.fixture
def create_user(redis_url: str) -> Iterator[CreateUser]:
    """`create_user("+get", …)` makes a user with exactly these rights and returns the URL to log in with."""
    with redis.Redis.from_url(redis_url) as client:

        def create(*rules: str) -> str:
            client.execute_command("ACL", "SETUSER", "patient", "reset", "on", ">secret", "-@all", *rules)
            return redis_url.replace("redis://", "redis://patient:secret@")

        yield create
        client.acl_deluser("patient")


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def test_a_good_server(own_server: OwnServer) -> None:
    found = by_name(examine(own_server(options={"appendonly": "yes"}).url))
    del found["latency"]  # as slow as the machine is busy
    assert {finding.status for finding in found.values()} == {"ok"}


def test_nothing_is_left_behind(redis_url: str) -> None:
    examine(redis_url)
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0


def test_an_eviction_policy_that_forgets_tasks(own_server: OwnServer) -> None:
    server = own_server(options={"maxmemory": "64mb", "maxmemory-policy": "allkeys-lru"})
    assert by_name(examine(server.url))["eviction"].status == "fail"


def test_a_wrong_password(create_user: CreateUser) -> None:
    (finding,) = examine(create_user("+@all").replace("secret", "guessed"))
    assert finding.status == "fail"
    assert "refuses the login" in finding.message


@pytest.mark.parametrize(
    ("rules", "api", "worker"),
    [(API, "ok", "warn"), (WORKER, "warn", "ok"), ((*SCRIPTS, "~{broker}:*"), "fail", "fail")],
)
def test_a_user_needs_the_rights_of_one_role(
    create_user: CreateUser, rules: tuple[str, ...], api: str, worker: str
) -> None:
    found = by_name(examine(create_user(*rules)))
    assert (found["rights-api"].status, found["rights-worker"].status) == (api, worker)


def test_a_user_needs_the_rights_of_its_role(create_user: CreateUser) -> None:
    found = by_name(examine(create_user(*API), role="worker"))
    assert found["rights-worker"].status == "fail"
    assert "may not run PSUBSCRIBE (ACL SETUSER patient +psubscribe)" in found["rights-worker"].message
    assert "rights-api" not in found


def test_a_pattern_is_compared_letter_for_letter(create_user: CreateUser) -> None:
    wider = [rule.replace("&createbranch-request-*", "&createbranch-*") for rule in WORKER]
    message = by_name(examine(create_user(*wider), role="worker"))["rights-worker"].message
    assert "ACL SETUSER patient &createbranch-request-*, letter for letter" in message


def test_another_queue_needs_its_own_pattern(create_user: CreateUser) -> None:
    found = by_name(examine(create_user(*WORKER), ["createbranch", "reports"], "worker"))
    assert "may not PSUBSCRIBE reports-request-*" in found["rights-worker"].message
    assert "createbranch-request-*" not in found["rights-worker"].message


def test_a_missing_command_is_named(create_user: CreateUser) -> None:
    found = by_name(examine(create_user(*API, "-zadd", "-evalsha")))
    assert found["rights"].message == (
        "The user patient may not run EVALSHA, ZADD (ACL SETUSER patient +evalsha +zadd)."
    )


def test_a_missing_key_prefix_is_named(create_user: CreateUser) -> None:
    others = [rule.replace("~{broker}:*", "~other:*") for rule in API]
    finding = by_name(examine(create_user(*others)))["rights"]
    assert finding.status == "fail"
    assert "may not use the keys {broker}:*" in finding.message
    assert "(ACL SETUSER patient ~{broker}:*)" in finding.message


def test_a_missing_channel_is_named(create_user: CreateUser) -> None:
    deaf = [rule for rule in API if rule != "&broker:*"]
    found = by_name(examine(create_user(*deaf)))
    assert "may not SUBSCRIBE broker:probe:* (ACL SETUSER patient &broker:probe:*)" in found["rights"].message
    assert found["delivery"].status == "skipped"


def test_asking_a_user_without_any_right_harms_nobody(create_user: CreateUser, redis_url: str) -> None:
    (finding,) = examine(create_user())
    assert finding.status == "fail"
    with redis.Redis.from_url(redis_url) as client:
        assert client.ping()
