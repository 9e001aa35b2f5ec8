"""JSON as a command line takes it."""

from __future__ import annotations

from typing import Any, Final

import click


class JsonText(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic since click 8.4
    """JSON as it was typed, or `@file` for a file's content, or `@-` for the standard input. Never rewritten."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        """The bytes of the text."""
        if isinstance(value, bytes):
            return value
        text = str(value)
        return self._content(text[1:], param, ctx) if text.startswith("@") else text.encode("utf-8", "surrogateescape")

    def _content(self, file: str, param: click.Parameter | None, ctx: click.Context | None) -> bytes:
        try:
            with click.open_file(file, "rb") as stream:
                content: bytes = stream.read()
        except OSError as error:
            self.fail(f"{file} cannot be read: {error.strerror}.", param, ctx)
        return content.strip()


JSON: Final = JsonText()
