"""nginx with the module nchan: two instances over one Redis, the reference for waking a held call across instances.

Long polling as its documentation shows it; a message published on one instance answers the subscriber of the other.
A channel has one message, so that a subscriber who comes late for it (`oldest`, the default) gets it nevertheless.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from broker.child_process import ChildProcess
from broker.store.embedded import EmbeddedServer, free_port
from tests.bench import processes

MODULES: Final = (
    Path("/usr/lib/nginx/modules/ngx_nchan_module.so"),
    Path("/usr/share/nginx/modules/ngx_nchan_module.so"),
)
INSTALL: Final = "Install nginx with the module nchan (on Debian libnginx-mod-nchan)."

_CONFIGURATION: Final = """
load_module {module};
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log error;
events {{ worker_connections 10000; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream store {{ nchan_redis_server {redis_url}; }}
    server {{
        listen 127.0.0.1:{port};
        keepalive_requests 100000000;
        location ~ ^/subscribe/(\\w+)$ {{
            nchan_subscriber longpoll;
            nchan_channel_id $1;
            nchan_redis_pass store;
            nchan_subscriber_first_message oldest;
        }}
        location ~ ^/publish/(\\w+)$ {{
            nchan_publisher;
            nchan_channel_id $1;
            nchan_redis_pass store;
            nchan_message_timeout 60s;
        }}
    }}
}}
"""


class Nchan(NamedTuple):
    """Two instances that run."""

    redis: EmbeddedServer
    instances: tuple[ChildProcess, ChildProcess]
    urls: tuple[str, str]


@contextmanager
def pair() -> Iterator[Nchan]:
    """Two instances and their Redis. Raises RuntimeError when the module is not installed."""
    module = next((path for path in MODULES if path.is_file()), None)
    if module is None:
        raise RuntimeError(INSTALL)
    with ExitStack() as stack:
        redis = stack.enter_context(processes.server())
        first, first_url = stack.enter_context(_instance(module, redis.url))
        second, second_url = stack.enter_context(_instance(module, redis.url))
        yield Nchan(redis, (first, second), (first_url, second_url))


@contextmanager
def _instance(module: Path, redis_url: str) -> Iterator[tuple[ChildProcess, str]]:
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="broker-bench-") as name:
        folder = Path(name)
        configuration = folder / "nginx.conf"
        url = redis_url.removesuffix("/0")
        configuration.write_text(_CONFIGURATION.format(module=module, folder=folder, redis_url=url, port=port))
        command = ["nginx", "-p", name, "-c", str(configuration)]
        with processes.listening(command, port, os.environ) as child:
            yield child, f"http://127.0.0.1:{port}"
