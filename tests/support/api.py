"""API instances and workers as the processes that they are in a deployment."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import httpx

from broker.child_process import ChildProcess
from broker.store.embedded import free_port
from tests.support.processes import wait_until

ADDRESS: Final = "127.0.0.1"
HANDLERS: Final = "tests.support.handlers:worker"

_ROOT: Final = Path(__file__).parents[2]
_COMMAND: Final = (sys.executable, "-m", "broker_services.cli.main")
_LOG_TAIL_LINES: Final = 20
# A log that says this tells of a defect, whatever was sent.
_DEFECT: Final = "Traceback"


class ServiceProcess:
    """One process of a deployment. A context manager: started on entry, ended on exit.

    Args:
        arguments: Of the command `broker`.
        log: The file that takes what it writes.
        folder: Where it runs.
        command: What `broker` is.
        settings: `BROKER_…` variables, names without the prefix; nothing is taken over from this process's own. Uploads
            go beside the log.
    """

    def __init__(
        self,
        *arguments: str,
        log: Path,
        folder: Path | None = None,
        command: Sequence[str] = _COMMAND,
        **settings: str,
    ) -> None:
        self._command = [*command, *arguments]
        self._folder = folder or _ROOT
        self._log = log
        self._log_seen = 0
        self._environment = {name: text for name, text in os.environ.items() if not name.startswith("BROKER_")}
        settings = {"upload_url": str(log.parent / "uploads"), **settings}
        self._environment |= {f"BROKER_{name.upper()}": text for name, text in settings.items()}
        self._process: ChildProcess | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.stop()

    @property
    def process(self) -> ChildProcess:
        """The process, which must have been started."""
        assert self._process is not None, "not started"
        return self._process

    def start(self) -> None:
        """Starts it, without waiting until it is of use."""
        with self._log.open("ab") as output:
            self._process = ChildProcess(
                self._command, environment=self._environment, folder=self._folder, output=output
            )

    def terminate(self) -> None:
        """Sends SIGTERM, without waiting for the end."""
        self.process.send_signal(signal.SIGTERM)

    def assert_log_has_no_defect(self) -> None:
        """Fails the test when the process has logged an exception that nobody handled since the last call."""
        with self._log.open("rb") as log:
            log.seek(self._log_seen)
            written = log.read()
        self._log_seen += len(written)
        text = written.decode(errors="replace")
        assert _DEFECT not in text, text

    def log_text(self) -> str:
        """All that it wrote."""
        return self._log.read_text(errors="replace")

    def log_tail(self) -> str:
        """The end of what it wrote."""
        return "\n".join(self.log_text().splitlines()[-_LOG_TAIL_LINES:])

    def _wait_until_running(self, condition: Callable[[], object], what: str) -> None:
        def is_met() -> object:
            exit_code = self.process.wait(0)
            assert exit_code is None, f"ended with exit code {exit_code}"
            return condition()

        try:
            wait_until(is_met, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log_tail()}") from None


class ApiProcess(ServiceProcess):
    """One API instance on a free port.

    Args:
        redis_url: Where its store is.
        log: The file that takes what it writes.
        settings: As above.
    """

    def __init__(self, redis_url: str, *, log: Path, **settings: str) -> None:
        self.port = free_port()
        arguments = ("api", "--host", ADDRESS, "--port", str(self.port), "--redis-url", redis_url)
        super().__init__(*arguments, log=log, folder=None, **settings)

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_until_ready()
        except BaseException:
            self.process.kill()
            raise
        return self

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{ADDRESS}:{self.port}"

    def wait_until_ready(self) -> None:
        """Returns once outcomes reach the instance."""
        with httpx.Client(trust_env=False, base_url=self.url) as http:
            self._wait_until_running(lambda: _is_ready(http), "it is ready")


class WorkerProcess(ServiceProcess):
    """One worker with the handlers of `tests.support.handlers`.

    Args:
        redis_url: Where its store is.
        log: The file that takes what it writes.
        settings: As above.
    """

    def __init__(self, redis_url: str, *, log: Path, **settings: str) -> None:
        super().__init__("worker", HANDLERS, "--redis-url", redis_url, log=log, folder=None, **settings)


def stop_together(processes: Iterable[ServiceProcess]) -> None:
    """Ends several in the time of one."""
    running = list(processes)
    for one in running:
        one.terminate()
    for one in running:
        one.process.stop()


def _is_ready(http: httpx.Client) -> bool:
    try:
        return http.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False
