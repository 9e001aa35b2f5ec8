"""Three brokers with a defect each: the suite finds every one of them."""

from __future__ import annotations

from pathlib import Path

from tests.faults.broken import command
from tests.faults.plan import Fault
from tests.faults.run import Options, run


async def violated_rules(
    variant: str, folder: Path, *, seconds: float, stories: list[str], plan: list[Fault]
) -> set[str]:
    options = Options(
        seed=1,
        seconds=seconds,
        apis=2,
        workers=2,
        clients=16,
        lease_s=1.0,
        stories=stories,
        plan=plan,
        command=command(variant),
    )
    report, _ = await run(options, folder)
    return {violation.rule for violation in report.violations}


async def test_an_outcome_that_is_published_before_it_is_stored(tmp_path: Path) -> None:
    found = await violated_rules("announce-before-storing", tmp_path / "run", seconds=2, stories=["held"], plan=[])
    assert "one outcome" in found


async def test_a_reconnect_that_reads_before_it_subscribes(tmp_path: Path) -> None:
    """Of calls that wait for 5 s: longer than what is prompt, and no longer than the test has to be."""
    plan = [Fault(at, "kill-pubsub", "all") for at in (1.0, 1.6, 2.2, 2.8)]
    found = await violated_rules("read-before-subscribing", tmp_path / "run", seconds=3, stories=["keyed"], plan=plan)
    assert "told promptly" in found


async def test_a_settle_without_the_lease_check(tmp_path: Path) -> None:
    # Whichever listens has the tasks, so each worker is stalled in turn. Never both: the other has to claim what the
    # stalled one has lost, and to be at it when that goes on.
    plan = [Fault(0.5 + 3.5 * turn, "worker-stop", f"worker{1 + turn % 2}", 3.0) for turn in range(4)]
    variant = "settle-without-the-lease-check"
    found = await violated_rules(variant, tmp_path / "run", seconds=15, stories=["slow"], plan=plan)
    assert "the last claim decides" in found
