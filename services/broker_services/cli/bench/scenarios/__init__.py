"""What `broker bench` can load a deployment with, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from broker_services.cli.bench.scenario import Options, Scenario
from broker_services.cli.bench.scenarios.callback import Callback
from broker_services.cli.bench.scenarios.claim import Claim
from broker_services.cli.bench.scenarios.hold import Hold
from broker_services.cli.bench.scenarios.roundtrip import Roundtrip
from broker_services.cli.bench.scenarios.watch import Watch

SCENARIOS: Final[Mapping[str, Callable[[Options], Scenario]]] = {
    "roundtrip": Roundtrip,
    "callback": Callback,
    "hold": Hold,
    "watch": Watch,
    "claim": Claim,
}
