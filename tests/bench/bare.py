"""`python -m tests.bench.bare PORT`: bare uvicorn that answers a constant, with the settings of the API service."""

from __future__ import annotations

import sys
from typing import Any

import uvicorn


async def constant(_scope: Any, _receive: Any, send: Any) -> None:
    """Two bytes for whatever was asked."""
    headers = [(b"content-type", b"text/plain"), (b"content-length", b"2")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"ok"})


if __name__ == "__main__":
    uvicorn.run(
        constant,
        port=int(sys.argv[1]),
        access_log=False,
        log_level="warning",
        lifespan="off",
        ws="none",
        server_header=False,
        proxy_headers=False,
    )
