"""What `broker doctor` looks at: whether the broker can rely on a server, and this user may do there what it must."""

from __future__ import annotations

import asyncio
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError
from redis.retry import Retry

from broker import naming
from broker.errors import ConfigurationError, StoreUnavailableError
from broker.randomness import new_secret
from broker.store import doctor_replication, rights
from broker.store.embedded import OLDEST_VERSIONS
from broker.store.findings import Finding, Patient, Role, Status
from broker.store.server import Server
from broker.store.topology import Standalone, Topology

ANSWER_DEADLINE_S: Final = 3.0
DELIVERY_DEADLINE_S: Final = 2.0
PINGS: Final = 20
SLOW_PING_MS: Final = 5.0
SMALLEST_OUTPUT_BUFFER: Final = 8 * 2**20


def examine(
    url: str, queues: Sequence[str] = (naming.DEFAULT_QUEUE,), role: Role | None = None, wait_replicas: int = 0
) -> list[Finding]:
    """Looks at a server the way API instances and workers use it.

    Args:
        url: As `BROKER_REDIS_URL`, with the user whose rights are to be checked.
        queues: The queues that the user's channels are checked for.
        role: Whose rights the user must have. None: those of one of the two; that the others are missing is a warning.
        wait_replicas: How many replicas have to confirm.

    Raises:
        ConfigurationError: The URL or a queue's name cannot be used.
    """
    for queue in queues:
        if not naming.is_queue(queue):
            raise ConfigurationError(f"{queue!r} cannot be the name of a queue: it must match {naming.QUEUE_PATTERN}.")
    topology = Topology.from_url(url)
    found = doctor_replication.sentinels(topology)
    try:
        server = _master_of(topology)
    except StoreUnavailableError as error:
        return [*found, Finding("connection", "fail", f"{error} Check the URL, and that the sentinels run.")]
    client: Any
    with redis.Redis(
        **server.client_options(),
        protocol=3,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=ANSWER_DEADLINE_S,
        socket_connect_timeout=ANSWER_DEADLINE_S,
        decode_responses=True,
    ) as client:
        connection = _connection(client, server.address)
        if connection.status == "fail":
            return [*found, connection]
        user = server.username or "default"
        patient = Patient(client, server.address, user, queues, role, wait_replicas, topology.is_watched)
        return [
            *found,
            connection,
            *(finding for name, check in _checks.items() for finding in _checked(name, check, patient)),
        ]


def _master_of(topology: Topology) -> Server:
    return topology.server if isinstance(topology, Standalone) else asyncio.run(topology.locate())


def _connection(client: Any, address: str) -> Finding:
    """The first connection, which says HELLO 3 and logs in."""
    try:
        client.execute_command("PING")
    except (AuthenticationError, NoPermissionError) as error:
        return Finding(
            "connection", "fail", f"{address} refuses the login ({error}): check user and password in the URL."
        )
    except ResponseError as error:
        return Finding(
            "connection",
            "fail",
            f"{address} answers {str(error)!r} to HELLO 3 and PING: the broker needs a server that speaks RESP3, Redis "
            "7.0 or Valkey 7.2 and later.",
        )
    except RedisError as error:
        return Finding(
            "connection", "fail", f"Nothing answers at {address} ({error}): check the URL, and that the server runs."
        )
    return Finding("connection", "ok", f"{address} answers, lets this user in and speaks RESP3.")


def _checked(name: str, check: Callable[[Patient], Iterator[Finding]], patient: Patient) -> list[Finding]:
    """Runs one check to its end; what it is not allowed to look at is skipped."""
    try:
        return list(check(patient))
    except NoPermissionError as error:
        return [Finding(name, "skipped", f"Not visible to the user {patient.user} ({error}).")]
    except RedisError as error:
        return [Finding(name, "fail", f"{patient.address} broke off: {error}.")]


# Checks, in the order of the report -----------------------------------------------------------------------------------


def _version(patient: Patient) -> Iterator[Finding]:
    server = patient.info("server")
    kind = "Valkey" if "valkey_version" in server else "Redis"
    text = str(server.get("valkey_version") or server.get("redis_version"))
    oldest = OLDEST_VERSIONS[kind]
    named = ".".join(map(str, oldest))
    if _numbers(text) < oldest:
        yield Finding("version", "fail", f"{kind} {text} is too old: the scripts need {named} or later. Update it.")
    else:
        yield Finding("version", "ok", f"{kind} {text}; {named} or later is needed.")
    if server.get("redis_mode") == "cluster":
        yield Finding(
            "mode", "warn", "The server is part of a cluster, which is not supported yet: use a standalone one."
        )


def _role(patient: Patient) -> Iterator[Finding]:
    replication = patient.info("replication")
    if replication.get("role") == "master":
        yield Finding("role", "ok", f"It is a master with {replication.get('connected_slaves', 0)} replicas.")
    else:
        master = f"{replication.get('master_host')}:{replication.get('master_port')}"
        yield Finding("role", "fail", f"It is a replica, which takes no writes: give the URL of its master, {master}.")


def _latency(patient: Patient) -> Iterator[Finding]:
    median_ms = statistics.median(_ping_ms(patient.client) for _ in range(PINGS))
    if median_ms < SLOW_PING_MS:
        yield Finding("latency", "ok", f"PING takes {median_ms:.2f} ms.")
    else:
        yield Finding(
            "latency",
            "warn",
            f"PING takes {median_ms:.2f} ms, and every step of a task takes at least one: bring the processes closer "
            "to the server, or look for what keeps it busy (SLOWLOG GET).",
        )


def _eviction(patient: Patient) -> Iterator[Finding]:
    memory = patient.info("memory")
    policy, limit = str(memory.get("maxmemory_policy")), int(memory.get("maxmemory", 0))
    if policy == "noeviction":
        yield Finding("eviction", "ok", "maxmemory-policy is noeviction: nothing that was acknowledged is thrown away.")
        return
    yield Finding(
        "eviction",
        "fail" if limit and policy.startswith("allkeys") else "warn",
        f"maxmemory-policy is {policy}: when the memory is full ({limit or 'no'} limit), tasks that were acknowledged "
        "may vanish. Set it to noeviction.",
    )


def _persistence(patient: Patient) -> Iterator[Finding]:
    if int(patient.info("persistence").get("aof_enabled", 0)):
        yield Finding("persistence", "ok", "The append-only file is on.")
    else:
        yield Finding(
            "persistence",
            "warn",
            "The append-only file is off: tasks since the last snapshot are lost with the server. Set appendonly yes.",
        )


def _output_buffer(patient: Patient) -> Iterator[Finding]:
    name = "client-output-buffer-limit"
    limits = re.search(r"pubsub (\d+)", str(dict(patient.client.execute_command("CONFIG", "GET", name)).get(name, "")))
    hard = int(limits.group(1)) if limits else 0
    if hard == 0:
        text = "There is no limit for pubsub clients: one that stopped reading may fill the server's memory."
        yield Finding("output-buffer", "warn", f"{text} Set {name} pubsub 32mb 8mb 60.")
    elif hard < SMALLEST_OUTPUT_BUFFER:
        text = f"Pubsub clients are cut off at {hard} bytes of messages that they have not read yet."
        yield Finding(
            "output-buffer", "warn", f"{text} That is little for a busy queue: set {name} pubsub 32mb 8mb 60."
        )
    else:
        yield Finding("output-buffer", "ok", f"Pubsub clients may be {hard // 2**20} MiB behind.")


def _delivery(patient: Patient) -> Iterator[Finding]:
    """Listens to a channel of its own, publishes there, and waits for what must arrive."""
    channel = naming.probe_channel(f"{rights.SUBJECT}-{new_secret()}")
    with patient.client.pubsub(ignore_subscribe_messages=False) as listener:
        listener.subscribe(channel)
        if _heard(listener, "subscribe") is None:
            yield Finding(
                "delivery", "fail", "SUBSCRIBE is not answered: something between here and the server drops it."
            )
            return
        sent_at = time.perf_counter()
        patient.client.execute_command("PUBLISH", channel, "ping")
        if _heard(listener, "message") is None:
            yield Finding(
                "delivery",
                "fail",
                f"A message published by this user did not arrive within {DELIVERY_DEADLINE_S:g} s: every process must "
                "use the same server, and no proxy in between may spread its connections over several.",
            )
            return
        arrival_ms = (time.perf_counter() - sent_at) * 1_000
        yield Finding("delivery", "ok", f"Messages arrive: one took {arrival_ms:.2f} ms.")


def _rights(patient: Patient) -> Iterator[Finding]:
    """What is missing for scripts, then for each role."""
    user, queues = patient.user, ", ".join(patient.queues)
    try:
        common = _missing(patient, rights.common_rights)
    except NoPermissionError:
        rule = f"ACL SETUSER {user} +eval"
        yield Finding("rights", "fail", f"The user {user} may not run EVAL ({rule}): its other rights cannot be seen.")
        return
    if patient.wait_replicas:
        common += rights.missing(patient.client, patient.user, rights.confirmation_rights())
    yield _verdict("rights", user, common, "fail", f"The user {user} may run every script on the broker's keys.")
    missing: dict[Role, list[str]] = {
        "api": _missing(patient, rights.api_rights),
        "worker": _missing(patient, rights.worker_rights),
    }
    roles: tuple[Role, ...] = ("api", "worker") if patient.role is None else (patient.role,)
    # A user for each role is good practice: what the other one needs is no failure.
    severity: Status = "fail" if all(missing[role] for role in roles) else "warn"
    for role in roles:
        yield _verdict(f"rights-{role}", user, missing[role], severity, _fit_for[role].format(queues=queues))


_fit_for: Final[dict[Role, str]] = {
    "api": "It may hear the outcomes that API instances wait for ({queues}).",
    "worker": "It may hear the requests that workers serve ({queues}).",
}

_checks: Final[dict[str, Callable[[Patient], Iterator[Finding]]]] = {
    "version": _version,
    "role": _role,
    "replicas": doctor_replication.replicas,
    "latency": _latency,
    "eviction": _eviction,
    "persistence": _persistence,
    "output-buffer": _output_buffer,
    "delivery": _delivery,
    "rights": _rights,
}


def _missing(patient: Patient, wanted: Callable[[Sequence[str]], Iterator[rights.Right]]) -> list[str]:
    return rights.missing(patient.client, patient.user, wanted(patient.queues))


def _verdict(name: str, user: str, missing: list[str], severity: Status, good: str) -> Finding:
    if missing:
        return Finding(name, severity, f"The user {user} {'; '.join(missing)}.")
    return Finding(name, "ok", good)


# Small parts ----------------------------------------------------------------------------------------------------------


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def _ping_ms(client: Any) -> float:
    begin = time.perf_counter()
    client.execute_command("PING")
    return (time.perf_counter() - begin) * 1_000


def _heard(listener: Any, kind: str) -> Mapping[str, Any] | None:
    """The next message of that kind; None when it doesn't come in time."""
    end = time.monotonic() + DELIVERY_DEADLINE_S
    while (left_s := end - time.monotonic()) > 0:
        message: Mapping[str, Any] | None = listener.get_message(timeout=left_s)
        if message is not None and message["type"] == kind:
            return message
    return None
