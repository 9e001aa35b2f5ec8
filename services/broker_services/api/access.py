"""Who may call: bearer keys from a file of their hashes, which may change while the instance runs."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
from pathlib import Path
from typing import Final, NamedTuple

from broker.errors import ConfigurationError
from broker_services.api.problems import HttpError
from broker_services.api_keys import ApiKey, digest, read_keys

log = logging.getLogger("broker.api")

CHECK_EVERY_S: Final = 1.0
"""How often the file is looked at: a key that was taken out is refused this much later at most."""
MOST_VERIFIED: Final = 1_024
"""Headers whose keys have been verified and are known by sight."""
KEY_MAX_CHARS: Final = 256

_WHO: Final = (b"www-authenticate", b"Bearer")


class _Grant(NamedTuple):
    """What a verified header may do."""

    name: str
    scopes: frozenset[str]


class Access:
    """The keys of one instance.

    Args:
        file: Of the keys' hashes; see `broker_services.api_keys`.

    Raises:
        ConfigurationError: The file cannot be used; the message names the line.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen = _look(file)
        self._verified: dict[str, _Grant] = {}
        self._take(read_keys(file))

    def check(self, authorization: str | None, scope: str) -> None:
        """Refuses a call that its key does not allow.

        Args:
            authorization: The header of this name.
            scope: What the call needs.

        Raises:
            HttpError: 401 without a known key, 403 without the scope.
        """
        if authorization is None:
            raise HttpError("unauthorized", "This call needs a key: send `Authorization: Bearer KEY`.", _WHO)
        grant = self._verified.get(authorization) or self._verify(authorization)
        if scope not in grant.scopes:
            raise HttpError("forbidden", f"The key {grant.name} has not the scope {scope}, which this call needs.")

    async def reload_forever(self) -> None:
        """Follows the changes of the file; one that cannot be used leaves the keys as they are."""
        while True:
            await asyncio.sleep(CHECK_EVERY_S)
            # In a thread: the file may be on a disk that answers late.
            seen = await asyncio.to_thread(_look, self._file)
            if seen != self._seen:
                self._seen = seen
                await self._reload()

    async def _reload(self) -> None:
        try:
            self._take(await asyncio.to_thread(read_keys, self._file))
        except ConfigurationError as error:
            log.error("The API keys stay what they were: %s", error)  # noqa: TRY400

    def _take(self, keys: dict[str, ApiKey]) -> None:
        self._keys = keys
        self._verified.clear()
        log.info("API keys: %s.", ", ".join(sorted(key.name for key in keys.values())) or "none, so nobody may call")

    def _verify(self, authorization: str) -> _Grant:
        scheme, _, key = authorization.partition(" ")
        key = key.strip()
        known = self._find(key) if scheme.lower() == "bearer" and len(key) <= KEY_MAX_CHARS else None
        if known is None:
            raise HttpError("unauthorized", "This is no key that is known here.", _WHO)
        if len(self._verified) >= MOST_VERIFIED:
            self._verified.clear()
        grant = self._verified[authorization] = _Grant(known.name, frozenset(known.scopes))
        return grant

    def _find(self, key: str) -> ApiKey | None:
        """By hash, so that the time it takes tells nothing about any key."""
        hashed = digest(key)
        known = self._keys.get(hashed)
        return known if known is not None and hmac.compare_digest(known.sha256, hashed) else None


def access_of(api_keys_file: str, host: str) -> Access | None:
    """The access check of an instance, or None where everybody may call, which is said aloud unless it is harmless.

    Args:
        api_keys_file: The setting; empty for none.
        host: Where the instance listens.

    Raises:
        ConfigurationError: The file cannot be used.
    """
    if api_keys_file:
        return Access(Path(api_keys_file))
    if not is_loopback(host):
        log.warning(
            "Whoever reaches %s may create, read and end tasks: set BROKER_API_KEYS_FILE (see `broker keys`).",
            host or "this machine",
        )
    return None


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _look(file: Path) -> tuple[int, int, int] | None:
    """What differs once the file has changed: None while it cannot be seen."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
