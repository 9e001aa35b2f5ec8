"""Every setting of the library and its services: read from `BROKER_…` once, checked, then frozen.

Units stand in the names: `_s` seconds, `_ms` milliseconds, `_bytes`, `_mb` (2^20 bytes).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from broker.errors import ConfigurationError

ENVIRONMENT_PREFIX = "BROKER_"

MOST_SECONDS = 10 * 365 * 86_400
Seconds = Annotated[float, Meta(gt=0, le=MOST_SECONDS)]
MaybeSeconds = Annotated[float, Meta(ge=0, le=MOST_SECONDS)]
Count = Annotated[int, Meta(gt=0)]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What one process runs with. Each field is an environment variable `BROKER_<NAME>` and a flag of the same name."""

    redis_url: str = "redis://127.0.0.1:6379/0"
    wait_default_s: MaybeSeconds = 55.0
    wait_max_s: MaybeSeconds = 100.0
    lease_s: Annotated[float, Meta(ge=0.1, le=MOST_SECONDS)] = 30.0
    task_ttl_s: Seconds = 86_400.0
    retention_s: Seconds = 86_400.0
    finished_max: Count = 1_000_000
    finished_max_mb: Count = 1_024
    events_kept: Count = 2_000
    max_waiters: Count = 15_000
    queue_max_pending: Count = 100_000
    queue_full: Literal["reject", "drop-oldest"] = "reject"
    namespaces_max: Count = 10_000
    max_body_bytes: Count = 262_144
    max_batch_bytes: Count = 16_777_216
    body_timeout_s: Seconds = 20.0
    max_header_bytes: Annotated[int, Meta(ge=1024)] = 32_768
    upload_max_bytes: Count = 20_971_520
    upload_url: Annotated[str, Meta(min_length=1)] = "uploads"
    upload_threads: Annotated[int, Meta(ge=1, le=1_024)] = 16
    upload_queue: Count = 5_000
    drain_s: MaybeSeconds = 10.0
    wait_replicas: Annotated[int, Meta(ge=0, le=100)] = 0
    get_writes: Literal["on", "off"] = "on"
    api_keys_file: str = ""
    git_root: str = "repositories"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None, **overrides: Any) -> Settings:
        """Reads the environment; `overrides` that are not None win (command line flags).

        Raises:
            ConfigurationError: A value is of the wrong kind or out of bounds; the message names the variable.
        """
        source = os.environ if environment is None else environment
        given: dict[str, Any] = {}
        for name in cls.__struct_fields__:
            text = source.get(ENVIRONMENT_PREFIX + name.upper())
            if text is not None and text != "":
                given[name] = text
        given.update({name: value for name, value in overrides.items() if value is not None})
        try:
            settings = msgspec.convert(given, cls, strict=False)
        except msgspec.ValidationError as error:
            raise ConfigurationError(_sentence(error, given)) from None
        return settings._checked()

    def _checked(self) -> Settings:
        if self.wait_default_s > self.wait_max_s:
            raise ConfigurationError(
                f"BROKER_WAIT_DEFAULT_S ({self.wait_default_s:g}) is longer than BROKER_WAIT_MAX_S "
                f"({self.wait_max_s:g}): lower the first or raise the second."
            )
        return self


def _sentence(error: msgspec.ValidationError, given: Mapping[str, Any]) -> str:
    reason, _, path = str(error).partition(" - at `$.")
    name = path.rstrip("`")
    variable = ENVIRONMENT_PREFIX + name.upper()
    return f"{variable}={given.get(name)!r} cannot be used: {reason[0].lower()}{reason[1:]}."
