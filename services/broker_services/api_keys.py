"""The file of API keys: one JSON object a line, which an operator can read, review and edit.

A key is 256 random bits made here, and the file keeps its SHA-256. A slow hash (bcrypt, Argon2) protects passwords that
people choose, since those can be guessed; nobody guesses 256 bits, and each call would pay for the slowness.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, get_args

import msgspec
from msgspec import Meta

from broker.errors import ConfigurationError

Scope = Literal["create", "read", "complete", "work", "publish"]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)

PREFIX: Final = "bk_"
"""Lets programs that look for leaked secrets know one of ours."""
RANDOM_BYTES: Final = 32
NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}\Z"
FILE_MODE: Final = 0o644
"""Hashes of such keys tell nobody anything; who may write the file is what counts."""


class ApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One line of the file. The name is for people: it says in logs and answers whose key it is."""

    name: Annotated[str, Meta(pattern=NAME_PATTERN)]
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    scopes: Annotated[tuple[Scope, ...], Meta(min_length=1)]

    def line(self) -> str:
        """What stands in the file."""
        return msgspec.json.format(msgspec.json.encode(self), indent=0).decode()


_decoder = msgspec.json.Decoder(ApiKey)


def digest(key: str) -> str:
    """The hash by which a key is known."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def new_key(name: str, scopes: Iterable[str]) -> tuple[str, ApiKey]:
    """A key, which is stored nowhere, and its line for the file.

    Args:
        name: Whose it is.
        scopes: What it may do.

    Raises:
        ConfigurationError: The name or a scope cannot be used.
    """
    key = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
    fields = {"name": name, "sha256": digest(key), "scopes": sorted(set(scopes), key=_position)}
    try:
        return key, msgspec.convert(fields, ApiKey)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"This key cannot be made: {_reason(error)}.") from None


def read_keys(file: Path) -> dict[str, ApiKey]:
    """The keys of a file by their hashes.

    Raises:
        ConfigurationError: It cannot be read, or a line cannot be used; the message names the line.
    """
    try:
        text = file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"The file of API keys, {file}, cannot be read: {error.strerror}.") from None
    return parse_keys(text, file)


def parse_keys(text: bytes, file: Path) -> dict[str, ApiKey]:
    """The same of a text that was read from `file`. Empty lines and those that start with `#` are for people."""
    keys: dict[str, ApiKey] = {}
    lines: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith(b"#"):
            continue
        key = _parsed(line, f"{file}, line {number}")
        _refuse_twice(key, keys, lines, f"{file}, line {number}")
        keys[key.sha256] = key
        lines[key.name] = number
    return keys


def append_key(file: Path, key: ApiKey) -> None:
    """Adds a line to a file, which is made where there is none.

    Raises:
        ConfigurationError: The file cannot be used as it is, has a key of this name, or cannot be written.
    """
    text = file.read_bytes() if file.exists() else b""
    if any(other.name == key.name for other in parse_keys(text, file).values()):
        raise ConfigurationError(f"{file} has a key of the name {key.name} already: choose another name.")
    gap = "" if not text or text.endswith(b"\n") else "\n"
    try:
        # In one write, and never in place of what is there: the file may be mounted, and others may be reading it.
        descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, FILE_MODE)
        with open(descriptor, "wb", buffering=0) as stream:
            stream.write(f"{gap}{key.line()}\n".encode())
    except OSError as error:
        raise ConfigurationError(f"{file} cannot be written: {error.strerror}.") from None


def _parsed(line: bytes, where: str) -> ApiKey:
    try:
        return _decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigurationError(
            f"{where}: {_reason(error)}; `broker keys new` makes lines that can be used."
        ) from None


def _refuse_twice(key: ApiKey, keys: Mapping[str, ApiKey], lines: Mapping[str, int], where: str) -> None:
    if key.name in lines:
        raise ConfigurationError(f"{where}: line {lines[key.name]} has the name {key.name} already.")
    if key.sha256 in keys:
        raise ConfigurationError(
            f"{where}: it has the hash of {keys[key.sha256].name}, line {lines[keys[key.sha256].name]}."
        )


def _reason(error: Exception) -> str:
    """What is wrong, without what was written there: somebody may have put the key itself where its hash belongs."""
    text = str(error)
    return "unknown scope; there are " + ", ".join(SCOPES) if text.startswith("Invalid enum value") else text


def _position(scope: str) -> int:
    return SCOPES.index(scope) if scope in SCOPES else len(SCOPES)
