"""Every command and every file of the README, in order, in a fresh folder, against a real `broker dev`.

What differs from a reader's terminal:

- `./start dev` becomes `broker dev`, which is what it runs, without making an environment first. `.venv/bin/activate`
  puts this environment on PATH.
- The ports 8080, 8081, 8090 and 8091 become free ones, wherever they stand, and Redis's the one that `broker dev`
  prints. The command `broker task` learns the first from BROKER_URL, since its default port stands nowhere.
- Commands of Docker and `./start test` are not run, but compared with what they would run.
- A command that is not installed here, `redis-cli`, is left out with what it would hear.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from broker.child_process import ChildProcess
from broker.store.embedded import free_port
from tests.support.compose import COMPOSE_FILE, ROOT, read_compose, read_services
from tests.support.processes import wait_until
from tests.support.readme import README, Block, Readme, is_as_shown, is_json_as_shown

COMMAND_DEADLINE_S: Final = 30
PROBLEM: Final = "urn:createbranch-broker:problem:"
URLS: Final = ("http://127.0.0.1:8080", "http://127.0.0.1:8081", "redis://127.0.0.1:8379/0")
OWN_PORTS: Final = ("8090", "8091")
"""Of the reader's own application."""

_ready = re.compile(
    r"^Ready: two API instances, (\S+) and (\S+), and one worker.*export BROKER_REDIS_URL=(\S+)",
    re.MULTILINE | re.DOTALL,
)
_url = re.compile(r"http://[^\s']+")


class Background:
    """A command in a terminal of its own.

    Args:
        block: Where it stands.
        command: What runs.
        environment: Its whole environment.
        folder: Its current folder; what it prints goes to a file there.
    """

    def __init__(self, block: Block, command: list[str], environment: Mapping[str, str], folder: Path) -> None:
        self.block = block
        self._file = folder / f"printed-{block.file.replace('/', '-')}-{block.line}"
        with self._file.open("wb") as output:
            self.process = ChildProcess(command, environment=environment, folder=folder, output=output)

    @property
    def printed(self) -> str:
        """All of it, so far."""
        return self._file.read_text()


class Reader:
    """Does what the README says. A context manager; on leaving it everything is stopped.

    Args:
        folder: Stands for the clone.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._session = folder / "session"  # what a terminal remembers: the exported variables
        self._stack = ExitStack()
        self._urls: dict[str, str] = {}
        self._printed = ""
        self._held: Background | None = None
        self._servers: list[Background] = []
        self._left_out = False
        own = {name: text for name, text in os.environ.items() if not name.startswith("BROKER_")}
        self._environment = {**own, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}

    def __enter__(self) -> Reader:
        activate = self._folder / ".venv" / "bin" / "activate"
        activate.parent.mkdir(parents=True)
        activate.write_text(f'PATH="{Path(sys.executable).parent}:$PATH"\n')
        self._session.touch()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def follow(self, block: Block) -> None:
        """Does what one block says, or compares what it shows."""
        if block.kind not in ("text", "json"):
            self._check_not_refused()
        match block.kind:
            case "sh dev":
                self._start(block)
            case "sh":
                self._run(block)
            case "sh hold" | "sh serve":
                self._run_in_background(block)
            case "python" | "shell":
                (self._folder / block.note).write_text(self._localized(block.text))
            case "text" | "json":
                compare = is_as_shown if block.kind == "text" else is_json_as_shown
                assert compare(block.text, self._printed), self._printed
                self._printed = ""
            case "json held":
                self._check_held(block)
            case "json served":
                self._check_served(block)
            case _:
                assert block.kind in ("", "sh test", "sh docker"), block.kind

    def finish(self) -> None:
        """The README is at its end: nothing that it shows was left out, nothing that it started has broken down."""
        self._check_not_refused()
        assert self._held is None, f"nothing shows what the call of line {self._held.block.line} returned"
        for server in self._servers:
            assert server.process.running, server.printed

    def _check_not_refused(self) -> None:
        """The exit code of curl does not tell of a refused call, so it must be the README that shows it."""
        assert PROBLEM not in self._printed, f"refused: {self._printed}"

    def _start(self, block: Block) -> None:
        assert block.text == "./start dev\n"
        command = [sys.executable, "-m", "broker_services.cli.main", "dev", "--port", "0"]
        server = Background(block, command, self._environment, self._folder)
        self._stack.callback(server.process.stop)
        self._servers.append(server)
        wait_until(lambda: _ready.search(server.printed) or not server.process.running, "`broker dev` is ready")
        addresses = _ready.search(server.printed)
        assert addresses is not None, server.printed
        self._urls = dict(zip(URLS, addresses.groups(), strict=True)) | {port: str(free_port()) for port in OWN_PORTS}
        self._environment["BROKER_URL"] = self._urls[URLS[0]]

    def _run(self, block: Block) -> None:
        script = f". ./session\nset -e\n{self._localized(block.text)}\nexport -p > session"
        done = subprocess.run(
            ["sh", "-c", script],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=COMMAND_DEADLINE_S,
        )
        self._printed = done.stdout
        assert done.returncode == 0, done.stdout + done.stderr

    def _run_in_background(self, block: Block) -> None:
        words = block.text.split()
        self._left_out = words[0] != "broker" and shutil.which(words[0]) is None
        if self._left_out:
            return
        script = f". ./session\nexec {self._localized(block.text)}"
        background = Background(block, ["sh", "-c", script], self._environment, self._folder)
        self._stack.callback(background.process.stop)
        if block.kind == "sh serve":
            self._servers.append(background)
            sign = "running on" if words[0] == "uvicorn" else ""
            wait_until(lambda: background.printed and sign in background.printed, f"line {block.line} is at work")
        else:
            assert self._held is None, f"nothing shows what the call of line {self._held.block.line} returned"
            self._held = background
            wait_until(lambda: self._has_its_task(block.text), f"line {block.line} has made its task")

    def _check_held(self, block: Block) -> None:
        held, self._held = self._held, None
        assert held is not None, "no call is held"
        exit_code = held.process.wait(COMMAND_DEADLINE_S)
        assert exit_code == 0, held.printed
        assert is_json_as_shown(block.text, held.printed), held.printed

    def _check_served(self, block: Block) -> None:
        if not self._left_out:
            server = self._servers[-1]
            wait_until(
                lambda: any(is_json_as_shown(block.text, line) for line in server.printed.splitlines()),
                f"line {server.block.line} prints what is shown",
            )

    def _has_its_task(self, command: str) -> bool:
        """Whether the task of a held call is there: a reader is slower than that, this program is not. It is named by
        `uuid=`, or, in the reader's own application, by the end of the path.

        A held watch that names its version needs nothing to be there: it misses no publish.
        """
        found = _url.search(command)
        assert found is not None, command
        address = urlsplit(found[0])
        fields = parse_qs(address.query)
        if "version" in fields:
            return True
        uuid = fields.get("uuid", [address.path.rpartition("/")[2]])[0]
        url = self._environment["BROKER_URL"] + "/queryTaskState"
        return httpx.get(url, params={"uuid": uuid}, trust_env=False).status_code == 200

    def _localized(self, text: str) -> str:
        for url, address in self._urls.items():
            text = text.replace(url, address)
        return text


@pytest.fixture(scope="module")
def readme() -> Readme:
    """The English one; the other has the same blocks (tests/unit/test_readme_languages.py)."""
    return Readme(README)


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    """Somebody with an empty folder."""
    with Reader(tmp_path) as reader:
        yield reader


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_everything_does_what_it_says(readme: Readme, reader: Reader) -> None:
    for block in readme.blocks:
        try:
            reader.follow(block)
        except (AssertionError, subprocess.TimeoutExpired) as error:
            raise AssertionError(f"{block.file}, line {block.line}: {error}") from error
    reader.finish()


@pytest.mark.parametrize("command", ["dev", "test"])
def test_start_has_the_command(readme: Readme, command: str) -> None:
    (block,) = readme.of_kind(f"sh {command}")
    assert block.text == f"./start {command}\n"
    assert os.access(ROOT / "start", os.X_OK)
    help_text = subprocess.run([sys.executable, ROOT / "start", "--help"], capture_output=True, text=True, check=True)
    assert f"./start {command} " in help_text.stdout


# Docker ---------------------------------------------------------------------------------------------------------------


def docker_commands(text: str) -> list[str]:
    """One command an entry: lines that go on are joined, comments behind a command dropped."""
    joined = text.replace("\\\n", " ")
    return [" ".join(line.partition("#")[0].split()) for line in joined.splitlines() if line.strip()]


def test_docker_commands_are_those_of_the_compose_file(readme: Readme) -> None:
    header = COMPOSE_FILE.read_text().partition("\nname:")[0]
    known = docker_commands(re.sub(r"^# ?", "", header, flags=re.MULTILINE))
    for block in readme.of_kind("sh docker"):
        for command in docker_commands(block.text):
            assert command in known


def test_docker_commands_name_services_and_ports_that_exist(readme: Readme) -> None:
    text = "".join(block.text for block in readme.of_kind("sh docker"))
    named = re.findall(r"--scale (\w+)=|docker compose (?:exec|run --rm) (\w+)", text)
    assert named
    assert {name for pair in named for name in pair if name} <= set(read_services())
    published = read_compose()["services"]["proxy"]["ports"]
    assert {f"127.0.0.1:{port}:8080" for port in re.findall(r"localhost:(\d+)", text)} == set(published)
