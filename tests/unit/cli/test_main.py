"""The command `broker` itself: what it starts, with which settings, and how quickly it helps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest

from broker.settings import ENVIRONMENT_PREFIX, Settings
from broker_services.cli import processes
from broker_services.cli.exits import Exit
from broker_services.cli.flags import FLAGS
from broker_services.cli.main import COMMANDS, cli
from tests.unit.cli.conftest import Invoke

# What only some commands use, and those only when they run.
HEAVY = {"httpx", "fastapi", "starlette", "uvicorn", "redis", "hiredis", "fsspec", "PIL", "prometheus_client"}
# What each command needs for its flags, and the list of commands does not.
NEEDED_FOR_FLAGS = {"msgspec", "asyncio", "broker"}


class Started:
    """What a service's `run` was called with."""

    def __init__(self) -> None:
        self.settings: Settings | None = None
        self.arguments: dict[str, Any] = {}
        self.answer = 0

    def run(self, settings: Settings, **arguments: Any) -> int:
        self.settings, self.arguments = settings, arguments
        return self.answer


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Started:
    """Stands in for all services."""
    record = Started()
    for name in ("api.main", "worker.main", "cli.dev"):
        module = ModuleType(name)
        module.run = record.run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, f"broker_services.{name}", module)
    return record


def imported_by(*arguments: str) -> set[str]:
    """The packages that a command has imported when it ends."""
    program = (
        "import sys\nfrom broker_services.cli.main import cli\n"
        "try: cli(sys.argv[1:])\nexcept SystemExit: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    return {name.partition(".")[0] for name in done.stderr.split()}


def test_the_list_of_commands_imports_nothing_heavy() -> None:
    assert not (HEAVY | NEEDED_FOR_FLAGS) & imported_by("--help")


@pytest.mark.parametrize("name", [*COMMANDS, "task create"])
def test_the_help_of_a_command_imports_nothing_heavy(name: str) -> None:
    assert not HEAVY & imported_by(*name.split(), "--help")


@pytest.mark.parametrize(
    ("command", "used"),
    [
        ("keys new --name ci --scopes read", set()),
        ("bench --url http://127.0.0.1:9", set()),
        ("doctor --redis-url redis://127.0.0.1:9", {"redis", "hiredis"}),
    ],
)
def test_a_command_that_runs_imports_only_what_it_uses(command: str, used: set[str]) -> None:
    assert HEAVY & imported_by(*command.split()) == used


def test_the_module_can_be_run() -> None:
    command = [sys.executable, "-m", "broker_services.cli.main", "--version"]
    assert "0.1.0" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", [*COMMANDS, "task create", "task query", "task change", "task cancel"])
def test_every_command_has_help(broker: Invoke, name: str) -> None:
    result = broker(*name.split(), "--help")
    assert result.exit_code == Exit.OK
    assert result.stdout.startswith(f"Usage: broker {name}")


def test_every_flag_has_an_environment_variable() -> None:
    context = click.Context(cli, info_name="broker", auto_envvar_prefix="BROKER")
    for command, path in _commands(cli, context, "broker"):
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.name != "version":
                assert parameter.envvar or parameter.show_envvar, f"{path} {parameter.opts[0]}"


def test_every_setting_has_a_help_text() -> None:
    assert set(Settings.__struct_fields__) <= set(FLAGS)


@pytest.mark.parametrize("command", [processes.api, processes.worker, processes.dev])
def test_settings_are_flags_with_the_same_name(command: click.Command) -> None:
    flags = {parameter.name: parameter for parameter in command.params}
    assert "lease_s" in flags
    for name in set(Settings.__struct_fields__) & set(flags):
        assert flags[name].opts == ["--" + name.replace("_", "-")]
        assert flags[name].envvar == ENVIRONMENT_PREFIX + name.upper()


def test_api_starts_with_defaults(broker: Invoke, started: Started) -> None:
    assert broker("api").exit_code == Exit.OK
    assert started.settings == Settings.from_environment({})
    assert started.arguments == {"host": "127.0.0.1", "port": 8080}


def test_flags_beat_the_environment_which_beats_the_defaults(broker: Invoke, started: Started) -> None:
    environment = {"BROKER_DRAIN_S": "3", "BROKER_LEASE_S": "4", "BROKER_PORT": "81", "BROKER_HOST": "::1"}
    assert broker("api", "--drain-s", "2", "--get-writes", "off", **environment).exit_code == Exit.OK
    assert started.settings is not None
    assert (started.settings.drain_s, started.settings.lease_s, started.settings.get_writes) == (2.0, 4.0, "off")
    assert started.arguments == {"host": "::1", "port": 81}


def test_worker_passes_its_target_on(broker: Invoke, started: Started) -> None:
    assert broker("worker", "jobs:worker", "--concurrency", "8", "--git-root", "r").exit_code == Exit.OK
    assert started.settings is not None
    assert started.settings.git_root == "r"
    unserved = {"metrics_host": "127.0.0.1", "metrics_port": None}
    assert started.arguments == {"target": "jobs:worker", "concurrency": 8, **unserved}
    assert broker("worker", BROKER_CONCURRENCY="9").exit_code == Exit.OK
    assert started.arguments == {"target": None, "concurrency": 9, **unserved}


def test_worker_is_told_where_to_serve_metrics(broker: Invoke, started: Started) -> None:
    assert broker("worker", "--metrics-port", "9100", BROKER_METRICS_HOST="::1").exit_code == Exit.OK
    assert (started.arguments["metrics_host"], started.arguments["metrics_port"]) == ("::1", 9100)


def test_dev_has_a_data_folder(broker: Invoke, started: Started) -> None:
    assert broker("dev", "--data-folder", "here").exit_code == Exit.OK
    assert started.arguments == {"host": "127.0.0.1", "port": 8080, "data_folder": Path("here")}


def test_the_exit_code_of_a_service_is_the_command_s(broker: Invoke, started: Started) -> None:
    started.answer = 1
    assert broker("api").exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "environment", "sentence"),
    [
        (["--lease-s", "soon"], {}, "'soon' is not a valid float"),
        (["--lease-s", "-1"], {}, "error: BROKER_LEASE_S=-1.0 cannot be used"),
        ([], {"BROKER_WAIT_DEFAULT_S": "200"}, "error: BROKER_WAIT_DEFAULT_S (200) is longer than BROKER_WAIT_MAX_S"),
        (["--port", "99999"], {}, "99999 is not in the range"),
    ],
)
def test_a_wrong_setting_is_a_usage_error(
    broker: Invoke, started: Started, arguments: list[str], environment: dict[str, str], sentence: str
) -> None:
    result = broker("api", *arguments, **environment)
    assert result.exit_code == Exit.USAGE
    assert sentence in result.stderr
    assert started.settings is None


def test_an_unknown_command_is_a_usage_error(broker: Invoke) -> None:
    assert broker("fly").exit_code == Exit.USAGE


def test_ctrl_c_is_130(broker: Invoke, started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(settings: Settings, **arguments: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["broker_services.api.main"], "run", interrupted)
    assert broker("api").exit_code == Exit.INTERRUPTED


def _commands(command: click.Command, context: click.Context, path: str) -> list[tuple[click.Command, str]]:
    found = [(command, path)]
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            found += _commands(inner, context, f"{path} {name}")
    return found
