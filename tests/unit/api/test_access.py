"""Who may call: known keys, their scopes, and a file that changes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from broker.errors import ConfigurationError
from broker_services.api import access as access_module
from broker_services.api.access import MOST_VERIFIED, Access, access_of, is_loopback
from broker_services.api.problems import HttpError
from broker_services.api_keys import append_key, new_key
from tests.support.store import until


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def add(file: Path, name: str, *scopes: str) -> str:
    key, line = new_key(name, scopes)
    append_key(file, line)
    return key


def take_out(file: Path, number: int) -> None:
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for at, line in enumerate(lines, start=1) if at != number))


def garble(file: Path) -> None:
    file.write_text("hello")


def remove(file: Path) -> None:
    file.unlink()


def refusal(access: Access, authorization: str | None, scope: str = "read") -> tuple[str, str]:
    with pytest.raises(HttpError) as refused:
        access.check(authorization, scope)
    assert (b"www-authenticate", b"Bearer") in refused.value.headers or refused.value.code == "forbidden"
    return refused.value.code, str(refused.value)


def test_a_key_may_do_what_its_scopes_say(file: Path) -> None:
    key = add(file, "ci", "create", "read")
    access = Access(file)

    for _ in range(2):  # verified, and known by sight
        access.check(f"Bearer {key}", "create")
        access.check(f"Bearer {key}", "read")
        code, sentence = refusal(access, f"Bearer {key}", "complete")
        assert code == "forbidden"
        assert "ci" in sentence
        assert "complete" in sentence


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_scheme_is_read_in_any_case(file: Path, scheme: str) -> None:
    key = add(file, "ci", "read")

    Access(file).check(f"{scheme}  {key} ", "read")


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer ", "Bearer x", "Basic {key}", "{key}", "Bearer {key}x", "Bearer {key}, Bearer {key}"],
)
def test_anything_else_is_no_key(file: Path, authorization: str | None) -> None:
    key = add(file, "ci", "read")
    access = Access(file)

    for _ in range(2):
        text = authorization and authorization.format(key=key)
        code, sentence = refusal(access, text)
        assert code == "unauthorized"
        assert key not in sentence


def test_bytes_that_are_no_text_and_long_ones_are_no_key(file: Path) -> None:
    add(file, "ci", "read")
    access = Access(file)

    for key in ("\xff" * 5, "x" * 100_000):
        assert refusal(access, f"Bearer {key}")[0] == "unauthorized"


def test_what_is_remembered_is_bounded(file: Path) -> None:
    key = add(file, "ci", "read")
    access = Access(file)

    for blanks in range(1, MOST_VERIFIED + 100):
        access.check("Bearer" + " " * blanks + key, "read")
        with suppress(HttpError):
            access.check(f"Bearer {blanks}", "read")

    assert len(access._verified) <= MOST_VERIFIED


# A file that changes


@asynccontextmanager
async def following(access: Access, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    monkeypatch.setattr(access_module, "CHECK_EVERY_S", 0.005)
    task = asyncio.create_task(access.reload_forever())
    try:
        yield
    finally:
        task.cancel()


def allows(access: Access, key: str) -> bool:
    try:
        access.check(f"Bearer {key}", "read")
    except HttpError:
        return False
    return True


async def test_a_key_that_is_added_or_taken_out_counts_soon(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = add(file, "first", "read")
    access = Access(file)
    async with following(access, monkeypatch):
        assert allows(access, first)
        second = add(file, "second", "read")
        await until(lambda: allows(access, second), "the second is known")
        take_out(file, 1)
        await until(lambda: not allows(access, first), "the first is not known any more")
        assert allows(access, second)


async def test_a_file_that_cannot_be_used_changes_nothing_and_is_told_once(
    file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    key = add(file, "ci", "read")
    access = Access(file)
    caplog.set_level(logging.ERROR, "broker.api")
    async with following(access, monkeypatch):
        for spoil in (garble, remove):
            caplog.clear()
            spoil(file)
            await until(lambda: bool(caplog.records), "it is told")
            await asyncio.sleep(0.03)
            assert len(caplog.records) == 1
            assert "stay what they were" in caplog.text
            assert allows(access, key)
        other = add(file, "other", "read")
        await until(lambda: allows(access, other), "a mended file counts")


async def test_a_file_without_keys_lets_nobody_in(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = add(file, "ci", "read")
    access = Access(file)
    async with following(access, monkeypatch):
        take_out(file, 1)
        await until(lambda: not allows(access, key), "the last key is gone")


# With and without


def test_a_file_that_cannot_be_used_at_the_start_is_an_error(file: Path) -> None:
    file.write_text("{}")
    with pytest.raises(ConfigurationError, match="keys, line 1"):
        access_of(str(file), "127.0.0.1")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_an_open_instance_that_only_this_machine_reaches_is_nobodys_business(
    host: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert access_of("", host) is None
    assert not caplog.records


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.1", "example.org"])
def test_an_open_instance_that_others_reach_is_told_of(host: str, caplog: pytest.LogCaptureFixture) -> None:
    assert not is_loopback(host)
    assert access_of("", host) is None
    assert "BROKER_API_KEYS_FILE" in caplog.text
    assert caplog.records[0].levelname == "WARNING"


def test_an_instance_with_keys_is_not(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    add(file, "ci", "read")
    assert access_of(str(file), "0.0.0.0") is not None
    assert not caplog.records


def test_names_are_logged_and_never_hashes_or_keys(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    key = add(file, "ci", "read")
    access = Access(file)
    access.check(f"Bearer {key}", "read")
    refusal(access, f"Bearer {key}x")

    assert "ci" in caplog.text
    assert key not in caplog.text
    assert next(iter(access._keys)) not in caplog.text
