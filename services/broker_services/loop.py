"""The event loop, the garbage collector and the log that every service process runs with."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable
from typing import Final

GC_THRESHOLDS: Final = (50_000, 20, 50)
"""Held calls are many objects without cycles: Python's default of 700 spent a tenth of the CPU in looking at them."""


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """uvloop's loop where it exists (everywhere but on Windows), else asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    return uvloop.new_event_loop


def tune_garbage_collector() -> None:
    """Leaves what was imported out of every later collection, and collects less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def configure_log() -> None:
    """One line per event on standard error."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
