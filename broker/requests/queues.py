"""What callers may ask of queues."""

from __future__ import annotations

import msgspec


class QueuesRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Reads the numbers of all queues."""
