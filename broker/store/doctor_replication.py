"""What `broker doctor` says of sentinels and replicas: whether another server could take over, and with what."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Final

from broker import naming
from broker.store.findings import Finding, Patient
from broker.store.topology import Topology

WAIT_MS: Final = 1_000


def sentinels(topology: Topology) -> list[Finding]:
    """Whether they answer and agree; nothing where there are none."""
    if not topology.is_watched:
        return []
    from broker.store.sentinel import SentinelTopology

    assert isinstance(topology, SentinelTopology)  # noqa: S101 - the only one that is watched
    views = asyncio.run(topology.views())
    asked, named = len(topology.sentinels), {view.address for view in views}
    if len(views) * 2 <= asked:
        text = f"{len(views)} of {asked} sentinels answer and know the service {topology.service}"
        return [Finding("sentinels", "fail", f"{text}: most of them must. Check the URL, and that they run.")]
    if len(named) > 1:
        text = f"They name different masters: {', '.join(f'{host}:{port}' for host, port in sorted(named))}"
        return [Finding("sentinels", "warn", f"{text}. That passes while a failover is under way.")]
    if len(views) < asked:
        text = f"{len(views)} of {asked} sentinels answer: start the others before one more goes."
        return [Finding("sentinels", "warn", text)]
    return [Finding("sentinels", "ok", f"All {asked} sentinels answer and name the same master.")]


def replicas(patient: Patient) -> Iterator[Finding]:
    """Whether there are enough, and whether as many as have to confirm really do."""
    known = patient.info("replication")
    online = sum(
        isinstance(one, dict) and one.get("state") == "online"
        for name, one in known.items()
        if name.startswith("slave")
    )
    if not patient.wait_replicas:
        yield from _unconfirmed(patient, online)
        return
    needed = patient.wait_replicas
    pipeline: Any = patient.client.pipeline(transaction=False)
    confirmed = pipeline.execute_command("PUBLISH", naming.fence_channel(), "").wait(needed, WAIT_MS).execute()[1]
    if confirmed < needed:
        text = f"{confirmed} replicas confirm, and BROKER_WAIT_REPLICAS is {needed}: nothing would be answered but 503."
        yield Finding("replicas", "fail", f"{text} Start replicas, or lower it.")
    elif online == needed:
        text = (
            f"{online} replicas confirm, no more than BROKER_WAIT_REPLICAS: when one goes, nothing is answered but 503."
        )
        yield Finding("replicas", "warn", f"{text} Have one more.")
    else:
        yield Finding("replicas", "ok", f"{online} replicas are in step; {needed} have to confirm.")


def _unconfirmed(patient: Patient, online: int) -> Iterator[Finding]:
    if patient.is_watched and not online:
        yield Finding("replicas", "warn", "There are sentinels and no replica: nobody could take over. Start replicas.")
    elif online:
        text = f"{online} replicas are in step, and none has to confirm: a failover may lose the last writes."
        yield Finding("replicas", "ok", f"{text} BROKER_WAIT_REPLICAS=1 would not.")
