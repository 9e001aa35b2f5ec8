"""The SDK over HTTP: `BrokerClient` creates, follows, reads and settles tasks through any API instance."""

from broker.client.answers import Change, ClaimedTask, Heartbeat, Page, RemoteTask
from broker.client.client import BrokerClient

__all__ = ["BrokerClient", "Change", "ClaimedTask", "Heartbeat", "Page", "RemoteTask"]
