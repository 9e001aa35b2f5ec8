"""Names and secrets: random, of the right letters, and never given out twice, not even by a child process."""

from __future__ import annotations

import os
import re

import pytest

from broker import naming, randomness
from broker.randomness import BLOCK_BYTES, NAME_BYTES, new_secret, new_uuid


def test_names_are_uuids() -> None:
    assert all(re.fullmatch("[0-9a-f]{32}", new_uuid()) for _ in range(100))
    assert naming.is_uuid(new_uuid())


def test_secrets_need_no_escape_and_have_128_bits() -> None:
    assert all(re.fullmatch("[0-9a-f]{32}", new_secret()) for _ in range(100))


def test_none_comes_twice_over_many_blocks() -> None:
    count = 5 * BLOCK_BYTES // NAME_BYTES
    assert len({new_uuid() for _ in range(count)}) == count
    assert len({new_secret() for _ in range(count)}) == count


def test_every_bit_varies() -> None:
    ones = zeros = 0
    for _ in range(200):
        number = int(new_uuid(), 16)
        ones |= number
        zeros |= ~number
    assert ones == zeros & (2**128 - 1) == 2**128 - 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="This system has no fork.")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_gives_out_others() -> None:
    new_uuid()  # so that a block is begun
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, "".join(randomness.new_uuid() for _ in range(10)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    theirs = {text[start : start + 32] for start in range(0, len(text), 32)}
    assert len(theirs) == 10
    assert theirs.isdisjoint({new_uuid() for _ in range(BLOCK_BYTES // NAME_BYTES)})
