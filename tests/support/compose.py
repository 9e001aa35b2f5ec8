"""docker-compose.yml without Docker: the same commands, environments and files, as processes of this machine.

Changed is only what containers would bring: names of hosts become 127.0.0.1 with a free port for each process, mounted
files become the files themselves, volumes and /tmp become folders, the image's `broker` becomes the one of this Python.
In nginx.conf that is the port it listens on, the addresses of the instances (and with them `resolve`, which needs
Docker's DNS and a newer nginx than many systems have) and its folder for temporary files; in redis.conf, which is not
touched, the port and the address, by options.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import yaml

from broker.child_process import ChildProcess
from broker.store.embedded import find_binary, free_port
from tests.support.processes import wait_until

ROOT: Final = Path(__file__).parents[2]
COMPOSE_FILE: Final = ROOT / "docker-compose.yml"
NGINX_FILE: Final = ROOT / "deploy" / "nginx.conf"
DOCKERFILE: Final = ROOT / "deploy" / "Dockerfile"

ADDRESS: Final = "127.0.0.1"
SERVERS: Final = ("redis", "redis-2", "redis-3")
SENTINELS: Final = ("sentinel-1", "sentinel-2", "sentinel-3")
PORTS: Final = {"api": 8000, "proxy": 8080, **dict.fromkeys(SERVERS, 6379), **dict.fromkeys(SENTINELS, 26379)}
"""What each service listens on inside its container."""

BROKER: Final = (sys.executable, "-m", "broker_services.cli.main")
HAS_NGINX: Final = shutil.which("nginx") is not None
READY_DEADLINE_S: Final = 60.0
LOG_TAIL_LINES: Final = 20

# What a healthcheck asks with; where it is not installed, a port that accepts connections has to do.
_HEALTH_PROGRAMS: Final = ("redis-cli", "wget", "python")
_variable = re.compile(r"\$\$|\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}")
_duration = re.compile(r"(\d+)(s|m)")


# Reading --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Service:
    """One entry of `services`, as far as a process needs it."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    mounts: Mapping[str, str]
    """Where in the container → a file of the repository, or the name of a volume."""
    replicas: int
    depends_on: Sequence[str]
    health: Sequence[str]
    stop_signal: signal.Signals
    stop_grace_s: float
    profiles: Sequence[str]


def read_compose(environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The whole file, with variables filled in from `environment` (default: none is set) or their own defaults."""
    document = _filled_in(yaml.safe_load(COMPOSE_FILE.read_text()), environment or {})
    assert isinstance(document, dict)
    return document


def read_services(environment: Mapping[str, str] | None = None) -> dict[str, Service]:
    """The services by name."""
    return {name: _service(name, entry) for name, entry in read_compose(environment)["services"].items()}


def image_entrypoint() -> list[str]:
    """What the image of the broker runs, in front of a service's command."""
    lines = re.findall(r"^ENTRYPOINT (\[.*\])$", DOCKERFILE.read_text(), re.MULTILINE)
    words: list[str] = yaml.safe_load(lines[-1])
    return words


def seconds(duration: str) -> float:
    """A duration of the compose file: `20s`, `1m`."""
    match = _duration.fullmatch(duration)
    assert match is not None, duration
    return float(match[1]) * (60 if match[2] == "m" else 1)


def _service(name: str, entry: Mapping[str, Any]) -> Service:
    entrypoint = entry.get("entrypoint") or image_entrypoint()
    return Service(
        name=name,
        command=[*entrypoint, *entry.get("command", [])],
        environment=entry.get("environment", {}),
        mounts=dict(_mount(text) for text in entry.get("volumes", [])),
        replicas=entry.get("deploy", {}).get("replicas", 1),
        depends_on=list(entry.get("depends_on", {})),
        health=entry.get("healthcheck", {}).get("test", []),
        stop_signal=signal.Signals[entry.get("stop_signal", "SIGTERM")],
        stop_grace_s=seconds(entry.get("stop_grace_period", "10s")),
        profiles=entry.get("profiles", []),
    )


def _mount(text: str) -> tuple[str, str]:
    source, target, *_ = text.split(":")
    return target, source


def _filled_in(value: Any, environment: Mapping[str, str]) -> Any:
    match value:
        case dict():
            return {key: _filled_in(entry, environment) for key, entry in value.items()}
        case list():
            return [_filled_in(entry, environment) for entry in value]
        case str():
            return _variable.sub(lambda found: _replacement(found, environment), value)
        case _:
            return value


def _replacement(found: re.Match[str], environment: Mapping[str, str]) -> str:
    if found["name"] is None:
        return "$"
    return environment.get(found["name"]) or found["default"] or ""


# nginx ----------------------------------------------------------------------------------------------------------------


def localized_nginx(port: int, instance_ports: Iterable[int], folder: Path) -> str:
    """The balancer's configuration for processes of this machine; see the module's first lines for what changes."""
    text = NGINX_FILE.read_text()
    text = _replaced(r"\blisten 8080\b", f"listen {ADDRESS}:{port}", text)
    server = re.search(rf"^ *server api:{PORTS['api']} resolve (.*;)$", text, re.MULTILINE)
    assert server is not None, "nginx.conf names the instances in another way than this module knows"
    servers = [f"        server {ADDRESS}:{instance} {server[1]}" for instance in instance_ports]
    text = text.replace(server[0], "\n".join(servers))
    return text.replace("/tmp/nginx", str(folder / "nginx"))


def _replaced(pattern: str, replacement: str, text: str) -> str:
    text, count = re.subn(pattern, replacement, text)
    assert count == 1, f"{pattern} is there {count} times"
    return text


# Running --------------------------------------------------------------------------------------------------------------


@dataclass
class Instance:
    """One process of a service: what would be one container."""

    service: Service
    number: int
    port: int
    folder: Path
    """What is /tmp in the container."""
    process: ChildProcess | None = field(default=None)

    @property
    def name(self) -> str:
        """As Docker would name it, without the project."""
        return f"{self.service.name}-{self.number}"

    @property
    def url(self) -> str:
        """Where it answers HTTP."""
        return f"http://{ADDRESS}:{self.port}"

    @property
    def log(self) -> Path:
        """All that it wrote."""
        return self.folder / "log"

    @property
    def running_process(self) -> ChildProcess:
        """The process, which must have been started."""
        assert self.process is not None, f"{self.name} was not started"
        return self.process


class Deployment:
    """The services of docker-compose.yml, running. A context manager; on leaving it everything is stopped.

    Args:
        folder: Takes volumes, temporary files and logs.
        only: The services to run; all of them by default, without the balancer where nginx is not installed.
        environment: What stands in `.env`; its COMPOSE_PROFILES names the services that run only if asked for.
    """

    def __init__(
        self, folder: Path, *, only: Sequence[str] | None = None, environment: Mapping[str, str] | None = None
    ) -> None:
        self._folder = folder
        self._environment_file = environment
        services = read_services(environment)
        profile = (environment or {}).get("COMPOSE_PROFILES")
        chosen = [name for name, service in services.items() if not service.profiles or profile in service.profiles]
        names = only or [name for name in chosen if name != "proxy" or HAS_NGINX]
        self.services = {name: services[name] for name in names}
        self.instances = {name: self._instances_of(service) for name, service in self.services.items()}

    def __enter__(self) -> Self:
        try:
            self.start(*self.services)
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where callers go: the balancer, or an API instance where there is none."""
        return self.instances["proxy" if "proxy" in self.instances else "api"][0].url

    @property
    def repositories(self) -> Path:
        """The volume that the workers share."""
        return self._volume("repositories")

    def start(self, *names: str) -> None:
        """Starts these services, those that others depend on first; returns when all are healthy."""
        for name in sorted(names, key=lambda name: len(self.services[name].depends_on)):
            for dependency in self.services[name].depends_on:
                if dependency not in self.services:
                    continue
                self._wait_until_healthy(dependency)
            for instance in self.instances[name]:
                self._start(instance)
        for name in names:
            self._wait_until_healthy(name)

    def stop(self, *names: str) -> dict[str, int | None]:
        """Stops services (default: all) as `docker compose down` would: dependents first, then what they depend on.

        Returns:
            The exit code of each process that was running; None for one that had to be killed.
        """
        chosen = [self.services[name] for name in names or self.services]
        codes: dict[str, int | None] = {}
        for together in (
            [service for service in chosen if not _is_needed(service, chosen)],
            [service for service in chosen if _is_needed(service, chosen)],
        ):
            codes.update(self._stop_together(together))
        return codes

    def redis_url(self, user: str, password: str) -> str:
        """The store, as one of its users sees it."""
        return f"redis://{user}:{password}@{ADDRESS}:{self.instances['redis'][0].port}/0"

    def environment_of(self, name: str) -> dict[str, str]:
        """What an instance of a service gets, whether the service runs here or not."""
        service = self.services.get(name) or read_services(self._environment_file)[name]
        return {key: self._with_addresses(text) for key, text in service.environment.items()}

    def _instances_of(self, service: Service) -> list[Instance]:
        instances = []
        for number in range(1, service.replicas + 1):
            folder = self._folder / f"{service.name}-{number}"
            folder.mkdir(parents=True, exist_ok=True)
            instances.append(Instance(service, number, free_port(), folder))
        return instances

    def _start(self, instance: Instance) -> None:
        with instance.log.open("ab") as output:
            instance.process = ChildProcess(
                self._command(instance),
                environment=self._environment(instance),
                folder=instance.folder,
                output=output,
            )

    def _command(self, instance: Instance) -> list[str]:
        words = instance.service.command
        if list(words[: len(image_entrypoint())]) == image_entrypoint():
            words = [*BROKER, *words[len(image_entrypoint()) :]]
        localized = [self._localized(word, instance) for word in words]
        if instance.service.name in SERVERS:
            localized += ["--port", str(instance.port), "--bind", ADDRESS]
        return localized

    def _environment(self, instance: Instance) -> dict[str, str]:
        """Nothing of this process's own, but where programs are."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(instance.folder),
            "TMPDIR": str(instance.folder),
            "REDIS_SERVER": str(find_binary()),
            **{name: self._localized(text, instance) for name, text in instance.service.environment.items()},
        }

    def _localized(self, text: str, instance: Instance) -> str:
        text = self._with_addresses(text.replace("0.0.0.0", ADDRESS))
        if instance.service.name in PORTS:
            text = re.sub(rf"\b{PORTS[instance.service.name]}\b", str(instance.port), text)
        for target, source in instance.service.mounts.items():
            if target in text:
                text = text.replace(target, str(self._mounted(source, instance)))
        return text

    def _with_addresses(self, text: str) -> str:
        """With the addresses of this machine's servers and sentinels."""
        for name in (*SERVERS, *SENTINELS):
            if name in self.instances:
                pattern = rf"(?<![\w-]){name}:{PORTS[name]}\b"
                text = re.sub(pattern, f"{ADDRESS}:{self.instances[name][0].port}", text)
        return text

    def _mounted(self, source: str, instance: Instance) -> Path:
        if not source.startswith("./"):
            return self._volume(source)
        file = ROOT / source
        if file != NGINX_FILE:
            return file
        localized = instance.folder / "nginx.conf"
        ports = [api.port for api in self.instances["api"]]
        localized.write_text(localized_nginx(instance.port, ports, instance.folder))
        return localized

    def _volume(self, name: str) -> Path:
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        return folder

    def _wait_until_healthy(self, name: str) -> None:
        for instance in self.instances[name]:
            try:
                wait_until(lambda one=instance: self._is_healthy(one), f"{instance.name} is healthy", READY_DEADLINE_S)  # type: ignore[misc]
            except AssertionError as error:
                raise AssertionError(f"{error}\n{_tail(instance.log)}") from None

    def _is_healthy(self, instance: Instance) -> bool:
        """Asks as the compose file says; fails the test at once when the process has ended."""
        exit_code = instance.running_process.wait(0)
        if exit_code is not None:
            raise AssertionError(f"{instance.name} ended with exit code {exit_code}")
        question = self._health_command(instance)
        if question is None:
            return instance.service.name not in PORTS or _accepts_connections(instance.port)
        environment = self._environment(instance)
        return subprocess.run(question, env=environment, capture_output=True, check=False).returncode == 0

    def _health_command(self, instance: Instance) -> list[str] | None:
        kind, *words = instance.service.health or ["NONE"]
        text = shlex.join(words)
        program = next((name for name in _HEALTH_PROGRAMS if name in text), None)
        if kind == "NONE" or program is None or (program != "python" and shutil.which(program) is None):
            return None
        localized = [self._localized(word, instance) for word in words]
        if kind == "CMD-SHELL":
            return ["sh", "-c", *localized]
        return [sys.executable if word == "python" else word for word in localized]

    def _stop_together(self, services: Iterable[Service]) -> dict[str, int | None]:
        running = [
            instance
            for service in services
            for instance in self.instances[service.name]
            if instance.process is not None and instance.process.running
        ]
        for instance in running:
            instance.running_process.send_signal(instance.service.stop_signal)
        started = time.monotonic()
        codes = {instance.name: _exit_code(instance, started) for instance in running}
        for instance in running:
            instance.running_process.kill()
        return codes

    def kill(self) -> None:
        """Ends all processes at once."""
        for instances in self.instances.values():
            for instance in instances:
                if instance.process is not None:
                    instance.process.kill()


def _is_needed(service: Service, others: Iterable[Service]) -> bool:
    return any(service.name in other.depends_on for other in others)


def _exit_code(instance: Instance, started: float) -> int | None:
    left_s = started + instance.service.stop_grace_s - time.monotonic()
    return instance.running_process.wait(max(left_s, 0.0))


def _accepts_connections(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((ADDRESS, port)) == 0


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])
