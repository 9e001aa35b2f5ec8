"""What callers may ask of uploads."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from broker.requests.fields import Wait


class UploadRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A form with one file to store and process."""

    file: Annotated[str, Meta(description="One file, with its name.", extra_json_schema={"format": "binary"})]
    wait: Wait | UnsetType = UNSET
