"""The file of API keys: what it may hold, and what is said when it does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from broker.errors import ConfigurationError
from broker_services.api_keys import PREFIX, SCOPES, ApiKey, append_key, digest, new_key, parse_keys, read_keys

HASH = "0" * 64
OTHER_HASH = "f" * 64
GOOD = b'{"name": "ci", "sha256": "%s", "scopes": ["create", "read"]}' % HASH.encode()


def test_a_new_key_is_known_by_its_line() -> None:
    key, line = new_key("ci", ["read", "create"])

    (known,) = parse_keys(line.line().encode(), Path("keys")).values()
    assert known == line == ApiKey("ci", digest(key), ("create", "read"))
    assert key not in line.line()


def test_keys_are_long_random_and_recognised_as_ours() -> None:
    keys = {new_key("ci", ["read"])[0] for _ in range(100)}

    assert len(keys) == 100
    assert all(key.startswith(PREFIX) and len(key) == len(PREFIX) + 43 for key in keys)


def test_every_scope_may_be_given_and_twice_is_once() -> None:
    assert new_key("ci", [*SCOPES, *SCOPES])[1].scopes == SCOPES


@pytest.mark.parametrize(
    ("name", "scopes"), [("", ["read"]), ("a b", ["read"]), ("a\n", ["read"]), ("ci", []), ("ci", ["all"])]
)
def test_a_key_that_could_not_be_read_back_is_not_made(name: str, scopes: list[str]) -> None:
    with pytest.raises(ConfigurationError, match="cannot be made"):
        new_key(name, scopes)


def test_empty_lines_and_comments_are_for_people() -> None:
    text = b"# keys\n\n  # of all\r\n" + GOOD + b"\r\n"

    assert list(parse_keys(text, Path("keys"))) == [HASH]


def test_a_file_may_be_empty() -> None:
    assert parse_keys(b"", Path("keys")) == {}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"ci", "malformed"),
        (b"\xff", "line 2"),
        (b"[]", "object"),
        (b"{}", "name"),
        (b'{"name": "x", "sha256": "abc", "scopes": ["read"]}', "sha256"),
        (b'{"name": "x", "sha256": "%s", "scopes": ["read"]}' % b"F" * 64, "line 2"),
        (b'{"name": "x", "sha256": "%s", "scopes": []}' % OTHER_HASH.encode(), "scopes"),
        (b'{"name": "x", "sha256": "%s", "scopes": ["all"]}' % OTHER_HASH.encode(), "create, read, complete"),
        (b'{"name": "x", "sha256": "%s", "scopes": ["read"], "key": "k"}' % OTHER_HASH.encode(), "key"),
        (b'{"name": "ci", "sha256": "%s", "scopes": ["read"]}' % OTHER_HASH.encode(), "line 1 has the name ci"),
        (b'{"name": "x", "sha256": "%s", "scopes": ["read"]}' % HASH.encode(), "the hash of ci, line 1"),
        (b"[" * 100_000, "line 2"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(line: bytes, reason: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        parse_keys(GOOD + b"\n" + line, Path("keys"))

    assert str(refused.value).startswith("keys, line 2: ")
    assert reason in str(refused.value)


@pytest.mark.parametrize("field", ["sha256", "name", "scopes"])
def test_a_key_in_the_wrong_place_is_not_repeated_in_the_error(field: str) -> None:
    key = new_key("ci", ["read"])[0] + "="
    fields = {"name": "x", "sha256": OTHER_HASH, "scopes": ["read"]} | {field: [key] if field == "scopes" else key}

    with pytest.raises(ConfigurationError) as refused:
        parse_keys(json.dumps(fields).encode(), Path("keys"))

    assert key not in str(refused.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none, cannot be read: No such file"):
        read_keys(tmp_path / "none")


@pytest.mark.parametrize("before", [None, b"", GOOD, GOOD + b"\n", b"# mine"])
def test_a_key_is_added_as_a_line(tmp_path: Path, before: bytes | None) -> None:
    file = tmp_path / "keys"
    if before is not None:
        file.write_bytes(before)
    line = new_key("new", ["work"])[1]

    append_key(file, line)

    assert read_keys(file)[line.sha256] == line
    assert file.read_bytes().startswith(before or b"")
    assert file.read_bytes().endswith(b"}\n")


def test_a_name_is_added_once(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    append_key(file, new_key("ci", ["work"])[1])

    with pytest.raises(ConfigurationError, match="name ci already"):
        append_key(file, new_key("ci", ["read"])[1])


def test_nothing_is_added_to_a_file_that_cannot_be_used(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_bytes(b"hello\n")

    with pytest.raises(ConfigurationError, match="line 1"):
        append_key(file, new_key("ci", ["work"])[1])
    assert file.read_bytes() == b"hello\n"


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be written"):
        append_key(tmp_path / "none" / "keys", new_key("ci", ["work"])[1])
