"""Names and secrets: random, of the right letters, and never given out twice, not even by a child process."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

import pytest

from broker import naming
from broker.randomness import BLOCK_BYTES, NAME_BYTES, SECRET_LENGTH, new_secret, new_uuid


def test_names_are_uuids() -> None:
    assert all(re.fullmatch("[0-9a-f]{32}", new_uuid()) for _ in range(100))
    assert naming.is_uuid(new_uuid())


def test_secrets_need_no_escape_and_have_128_bits() -> None:
    secrets = [new_secret() for _ in range(3 * BLOCK_BYTES // SECRET_LENGTH)]
    assert all(re.fullmatch("[0-9A-Za-z_-]{22}", secret) for secret in secrets)


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
@pytest.mark.parametrize(("draw", "length"), [(new_uuid, 2 * NAME_BYTES), (new_secret, SECRET_LENGTH)])
def test_a_forked_child_gives_out_others(draw: Callable[[], str], length: int) -> None:
    draw()  # so that a block is begun
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, "".join(draw() for _ in range(10)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    theirs = {text[start : start + length] for start in range(0, len(text), length)}
    assert len(theirs) == 10
    assert theirs.isdisjoint({draw() for _ in range(BLOCK_BYTES // NAME_BYTES)})
