"""What stands in docker-compose.yml and deploy/ agrees with itself, with the settings and with the command line."""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest

from broker import naming
from broker.settings import ENVIRONMENT_PREFIX, Settings
from broker.store.sentinel import SentinelTopology
from broker.store.topology import Topology
from broker_services.api.server import KEEP_ALIVE_S
from broker_services.cli.main import cli
from tests.support.compose import (
    COMPOSE_FILE,
    DOCKERFILE,
    HAS_NGINX,
    NGINX_FILE,
    PORTS,
    ROOT,
    SENTINELS,
    SERVERS,
    image_entrypoint,
    localized_nginx,
    read_compose,
    read_services,
)

DEPLOY = ROOT / "deploy"
NGINX = NGINX_FILE.read_text()
# Read from the environment by a command itself, beside the settings.
FLAGS_WITHOUT_SETTING = {
    "BROKER_HOST",
    "BROKER_PORT",
    "BROKER_CONCURRENCY",
    "BROKER_METRICS_HOST",
    "BROKER_METRICS_PORT",
}
UNITS = {"": 1, "k": 2**10, "m": 2**20}


def entries() -> dict[str, dict[str, Any]]:
    """The services as the file has them, variables filled in with their defaults."""
    services: dict[str, dict[str, Any]] = read_compose()["services"]
    return services


def nginx_value(directive: str) -> str:
    """What the balancer's directive is set to; it must be set exactly once, or the same everywhere."""
    values = set(re.findall(rf"^\s*{directive}\s+([^;]+);", NGINX, re.MULTILINE))
    assert len(values) == 1, f"{directive}: {values}"
    return str(values.pop())


def nginx_seconds(directive: str) -> float:
    """A time of the balancer."""
    return float(nginx_value(directive).removesuffix("s"))


def nginx_bytes(text: str) -> int:
    """A size of the balancer: `24m`, `64k`."""
    match = re.fullmatch(r"(\d+)([km]?)", text)
    assert match is not None, text
    return int(match[1]) * UNITS[match[2]]


def setting(name: str, until_then: float) -> float:
    """A setting's default; `until_then` is the contract's number, for a setting that is still to come."""
    defaults = dict(zip(Settings.__struct_fields__, Settings.__struct_defaults__, strict=True))
    return float(defaults.get(name, until_then))


# The compose file -----------------------------------------------------------------------------------------------------


def test_images_are_pinned() -> None:
    tags = [entry["image"].partition(":")[2] for entry in entries().values()]
    assert all(tag not in ("", "latest") for tag in tags), tags


@pytest.mark.parametrize("name", ["api", "worker"])
def test_commands_use_flags_that_the_command_has(name: str) -> None:
    command, *words = entries()[name]["command"]
    known = cli.get_command(click.Context(cli), command)
    assert known is not None
    flags = {flag for parameter in known.params for flag in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= flags


def test_every_broker_variable_is_one_that_a_process_reads() -> None:
    known = {ENVIRONMENT_PREFIX + name.upper() for name in Settings.__struct_fields__} | FLAGS_WITHOUT_SETTING
    named = {name for entry in entries().values() for name in entry.get("environment", {})}
    named |= set(re.findall(r"\bBROKER_\w+(?==)", DOCKERFILE.read_text()))
    assert {name for name in named if name.startswith(ENVIRONMENT_PREFIX)} <= known


@pytest.mark.parametrize("name", ["api", "worker"])
def test_settings_of_a_service_are_accepted(name: str) -> None:
    settings = Settings.from_environment(entries()[name]["environment"])
    assert settings.redis_url.endswith("@redis:6379/0")


@pytest.mark.parametrize("name", ["api", "worker", "proxy"])
def test_a_stopping_process_gets_longer_than_it_may_take(name: str) -> None:
    environment = entries()[name].get("environment", {})
    drain_s = float(environment.get("BROKER_DRAIN_S", setting("drain_s", 10)))
    assert read_services()[name].stop_grace_s > drain_s


def test_the_balancer_is_stopped_together_with_the_instances_and_not_before() -> None:
    assert read_services()["proxy"].depends_on == []
    assert entries()["proxy"]["stop_signal"] == "SIGQUIT"


def test_only_the_balancer_is_published_and_only_to_this_machine() -> None:
    published = {name: entry["ports"] for name, entry in entries().items() if "ports" in entry}
    assert published == {"proxy": [f"127.0.0.1:8080:{PORTS['proxy']}"]}


def test_redis_can_only_be_reached_by_those_who_need_it() -> None:
    assert read_compose()["networks"]["store"] == {"internal": True}
    reaching = {name for name, entry in entries().items() if "store" in entry["networks"]}
    assert reaching == {*SERVERS, *SENTINELS, "api", "worker"}
    assert all(entries()[name]["networks"] == ["store"] for name in (*SERVERS, *SENTINELS))


@pytest.mark.parametrize("chosen", [{}, {"REDIS_API_PASSWORD": "one", "REDIS_WORKER_PASSWORD": "two"}])
def test_passwords_are_the_same_for_server_and_clients(chosen: dict[str, str]) -> None:
    services = read_services(chosen)
    passwords = services["redis"].environment
    assert {**passwords, **chosen} == passwords
    for name in ("api", "worker"):
        password = passwords[f"REDIS_{name.upper()}_PASSWORD"]
        assert f"//broker-{name}:{password}@" in services[name].environment["BROKER_REDIS_URL"]


def test_the_example_environment_names_every_variable() -> None:
    used = set(re.findall(r"(?<!\$)\$\{(\w+)", COMPOSE_FILE.read_text()))
    # That one is for docker compose itself.
    assert used | {"COMPOSE_PROFILES"} == set(re.findall(r"^(\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))


def test_services_run_unprivileged_on_a_read_only_root() -> None:
    for name, entry in entries().items():
        assert entry["read_only"] is True, name
        assert entry["cap_drop"] == ["ALL"], name
        assert entry.get("user", image_user()) not in ("", "root", "0"), name


# The image ------------------------------------------------------------------------------------------------------------


def image_user() -> str:
    """Who runs the image of the broker."""
    users: list[str] = re.findall(r"^USER (\S+)$", DOCKERFILE.read_text(), re.MULTILINE)
    return users[-1]


def test_the_image_runs_the_command_behind_an_init_process() -> None:
    assert image_entrypoint() == ["tini", "--", "broker"]


def test_what_the_image_copies_is_there_and_not_ignored() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    let_through = [line[1:] for line in lines if line.startswith("!")]
    assert "*" in lines
    copied = [
        source
        for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE.read_text(), re.MULTILINE)
        for source in sources.split()
    ]
    assert copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(fnmatch.fnmatch(source, pattern) for pattern in let_through), source


def test_the_image_installs_only_what_the_lock_file_lists() -> None:
    text = DOCKERFILE.read_text()
    assert "--require-hashes --no-deps -r deploy/requirements.txt" in text
    assert "--no-deps --no-index /wheels/" in text


# The balancer ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not HAS_NGINX, reason="nginx is not installed")
def test_nginx_accepts_its_configuration(tmp_path: Path) -> None:
    file = tmp_path / "nginx.conf"
    file.write_text(localized_nginx(18080, [18001, 18002, 18003], tmp_path))
    done = subprocess.run(["nginx", "-e", "stderr", "-t", "-c", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_holds_end_before_the_balancer_loses_patience() -> None:
    longest_hold_s = max(setting("wait_max_s", 100), float(entries()["api"]["environment"]["BROKER_WAIT_MAX_S"]))
    assert nginx_seconds("proxy_read_timeout") > longest_hold_s + 10
    assert nginx_seconds("proxy_send_timeout") > longest_hold_s + 10


def test_idle_connections_are_closed_by_the_balancer_first() -> None:
    upstream = NGINX[NGINX.index("upstream api {") :]
    kept = re.search(r"keepalive_timeout (\d+)s;", upstream)
    assert kept is not None
    assert int(kept[1]) < KEEP_ALIVE_S - 5


def test_no_call_is_repeated() -> None:
    assert nginx_value("proxy_next_upstream") == "off"


def test_limits_of_the_instances_are_met_before_those_of_the_balancer() -> None:
    assert nginx_bytes(nginx_value("client_max_body_size")) > max(
        setting("max_body_bytes", 262_144),
        setting("max_batch_bytes", 16_777_216),
        setting("upload_max_bytes", 20_971_520) + 2**20,  # what multipart adds
    )
    header_bytes = nginx_bytes(nginx_value("large_client_header_buffers").split()[1])
    assert header_bytes > setting("max_header_bytes", 32_768)
    assert nginx_seconds("client_body_timeout") > setting("body_timeout_s", 20)


def test_there_are_connections_for_every_held_call() -> None:
    connections = int(nginx_value("worker_connections"))
    held = setting("max_waiters", 15_000) * read_services()["api"].replicas
    assert int(nginx_value("worker_processes")) * connections > 2 * held
    assert entries()["proxy"]["ulimits"]["nofile"] > connections
    assert entries()["api"]["ulimits"]["nofile"] > 2 * setting("max_waiters", 15_000)


def test_errors_of_the_balancer_are_problems_with_codes_of_the_api() -> None:
    problems = re.findall(r"return (\d+) '(\{.*\})\\n';", NGINX)
    assert [status for status, _ in problems] == ["413", "431", "503"]
    for status, problem in problems:
        assert f'"status":{status},' in problem
        assert re.search(r'"code":"(payload-too-large|headers-too-large|draining)"', problem)
    assert NGINX.count("default_type application/problem+json;") == len(problems)


# Redis ----------------------------------------------------------------------------------------------------------------


def redis_settings() -> list[list[str]]:
    """The lines of redis.conf, as words."""
    lines = (DEPLOY / "redis.conf").read_text().splitlines()
    return [line.split() for line in lines if line and not line.startswith("#")]


def test_redis_keeps_what_it_acknowledged() -> None:
    settings = {words[0]: words[1:] for words in redis_settings()}
    assert settings["appendonly"] == ["yes"]
    assert settings["maxmemory-policy"] == ["noeviction"]
    assert settings["timeout"] == ["0"]


def test_the_users_cover_the_names_that_are_used() -> None:
    text = (DEPLOY / "users.acl").read_text()
    worker = text[text.index("user broker-worker") :]
    assert f"&{naming.request_pattern(naming.DEFAULT_QUEUE)}\n" in worker
    assert text.count(f"~{naming.KEY_PREFIX}*") == 3
    for channel in (naming.probe_channel("x"), naming.worker_channel("x")):
        assert fnmatch.fnmatch(channel, "broker:*")


@pytest.mark.parametrize(
    ("password", "complaint"),
    [
        ("", "REDIS_API_PASSWORD is not set."),
        ("a b", "REDIS_API_PASSWORD may hold letters, digits, - and _ only: it is also part of a URL."),
        ("x/y@z", "REDIS_API_PASSWORD may hold letters, digits, - and _ only: it is also part of a URL."),
    ],
)
def test_redis_does_not_start_with_a_password_that_cannot_work(tmp_path: Path, password: str, complaint: str) -> None:
    done = start_redis(tmp_path, api=password, server="/bin/echo")
    assert done.returncode == 1
    assert complaint in done.stderr
    assert done.stdout == ""


def test_the_users_file_holds_hashes_and_is_for_one_reader_only(tmp_path: Path) -> None:
    done = start_redis(tmp_path, api="s3cret", server="/bin/echo")
    assert done.returncode == 0, done.stderr
    file = tmp_path / "users.acl"
    assert done.stdout.split() == [str(tmp_path / "redis.conf"), "--aclfile", str(file), "--port", "1"]
    lines = file.read_text().splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["user", name] for name in ("default", "broker-api", "broker-worker", "broker-monitor", "broker-replication")
    ]
    assert all(re.search(r" on #[0-9a-f]{64} ", line) for line in lines[1:])
    assert "s3cret" not in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_server_starts_with_what_the_repository_says_and_its_place_among_the_others(tmp_path: Path) -> None:
    place = {"REDIS_ANNOUNCE": "redis-2:6379", "REDIS_REPLICA_OF": "redis:6379"}
    assert start_redis(tmp_path, api="s3cret", server="/bin/echo", **place).returncode == 0
    file = tmp_path / "redis.conf"
    own = file.read_text().removeprefix((DEPLOY / "redis.conf").read_text())
    assert own.splitlines() == [
        "masteruser broker-replication",
        "masterauth r3plica",
        "replica-announce-ip redis-2",
        "replica-announce-port 6379",
        "replicaof redis 6379",
    ]
    assert file.stat().st_mode & 0o777 == 0o600


def test_the_sentinels_come_with_their_profile_and_the_url_that_names_them() -> None:
    chosen = {
        "COMPOSE_PROFILES": "sentinel",
        "REDIS_SCHEME": "redis+sentinel",
        "REDIS_SERVERS": "sentinel-1:26379,sentinel-2:26379,sentinel-3:26379/broker/0",
        "BROKER_WAIT_REPLICAS": "1",
    }
    example = (ROOT / ".env.example").read_text()
    assert all(f"#   {name}={value}\n" in example for name, value in chosen.items())
    services = read_services(chosen)
    assert {name for name, service in services.items() if service.profiles} == {*SERVERS[1:], *SENTINELS}
    for name in ("api", "worker"):
        settings = Settings.from_environment(services[name].environment)
        topology = Topology.from_url(settings.redis_url)
        assert isinstance(topology, SentinelTopology)
        assert [host for host, _ in topology.sentinels] == list(SENTINELS)
        assert settings.wait_replicas == 1
        assert f"sentinel monitor {topology.service} " in (DEPLOY / "sentinel-start.sh").read_text()


def test_redis_is_told_when_a_password_is_the_published_one(tmp_path: Path) -> None:
    done = start_redis(tmp_path, api="local-only-api", server="/bin/echo")
    assert "REDIS_API_PASSWORD is the well-known default." in done.stderr
    assert "REDIS_WORKER_PASSWORD" not in done.stderr


def start_redis(folder: Path, *, api: str, server: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs the start script with another program in the place of redis-server."""
    command = [
        shutil.which("sh") or "sh",
        str(DEPLOY / "redis-start.sh"),
        str(DEPLOY / "redis.conf"),
        str(DEPLOY / "users.acl"),
    ]
    environment = {
        "PATH": "/usr/bin:/bin",
        "TMPDIR": str(folder),
        "REDIS_SERVER": server,
        "REDIS_API_PASSWORD": api,
        "REDIS_WORKER_PASSWORD": "w0rker",
        "REDIS_MONITOR_PASSWORD": "m0nitor",
        "REDIS_REPLICATION_PASSWORD": "r3plica",
        **variables,
    }
    return subprocess.run([*command, "--port", "1"], env=environment, capture_output=True, text=True)
