"""`broker keys new`: a key that is shown once, and its line."""

from __future__ import annotations

from pathlib import Path

from broker_services.api_keys import digest, parse_keys, read_keys
from broker_services.cli.exits import Exit
from tests.unit.cli.conftest import Invoke


def test_a_key_and_its_line_are_printed(broker: Invoke) -> None:
    result = broker("keys", "new", "--name", "ci", "--scopes", "create, read")

    assert result.exit_code == Exit.OK
    key, line = result.stdout.splitlines()
    (known,) = parse_keys(line.encode(), Path("keys")).values()
    assert (known.name, known.sha256, known.scopes) == ("ci", digest(key), ("create", "read"))
    assert key not in result.stderr


def test_the_line_is_added_to_a_file(broker: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    for name in ("first", "second"):
        result = broker("keys", "new", "--name", name, "--scopes", "work", "--file", str(file))
        assert result.exit_code == Exit.OK
        key = result.stdout.strip()
        assert read_keys(file)[digest(key)].name == name
        assert key not in file.read_text()


def test_what_cannot_be_used_is_a_usage_error(broker: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    for name, scopes in (("a b", "read"), ("ci", "everything"), ("ci", "")):
        result = broker("keys", "new", "--name", name, "--scopes", scopes, "--file", str(file))
        assert (result.exit_code, result.stdout) == (Exit.USAGE, "")
        assert result.stderr.startswith("error: ")
    assert not file.exists()


def test_a_name_that_is_taken_is_a_usage_error_and_shows_no_key(broker: Invoke, tmp_path: Path) -> None:
    arguments = ("keys", "new", "--name", "ci", "--scopes", "read", "--file", str(tmp_path / "keys"))
    broker(*arguments)
    result = broker(*arguments)
    assert (result.exit_code, result.stdout) == (Exit.USAGE, "")
    assert "already" in result.stderr
