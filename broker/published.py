"""Published values, as a program sees them."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import msgspec

NOTHING: Final = "0"
"""The version of a namespace that was never published, or was deleted. Versions are compared with `!=` only."""


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """What a namespace held when it was read.

    `version` names this very publish: give it to the next watch, and no change is missed. `raw` is the JSON document,
    with the value as the bytes that were published.
    """

    namespace: str
    version: str
    value: Any = None
    changed_at: datetime | None = None
    raw: bytes = b""

    @property
    def exists(self) -> bool:
        """Whether there is a value: False where nothing was published, or it was deleted."""
        return self.version != NOTHING


_decoder: Final = msgspec.json.Decoder(Published)


def published_from_json(document: bytes) -> Published:
    """Reads a document as the store or the API gives it. Raises msgspec.MsgspecError."""
    return msgspec.structs.replace(_decoder.decode(document), raw=document)
