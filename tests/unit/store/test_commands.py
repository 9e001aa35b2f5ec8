"""Commands as bytes."""

from __future__ import annotations

import hiredis
import pytest

from broker.store.commands import pack, pack_names


@pytest.mark.parametrize("names", [[b"a"], [b"a", b"b", b"c"], [b"bb", b"a", b"", b"cc", b"d"], [b"x" * 300, b"\r\n"]])
def test_many_names_make_one_command(names: list[bytes]) -> None:
    reader = hiredis.Reader()
    reader.feed(pack_names("SUBSCRIBE", names))
    word, *packed = reader.gets()
    assert word == b"SUBSCRIBE"
    assert sorted(packed) == sorted(names)
    assert not reader.has_data()


def test_names_of_one_length_keep_their_order() -> None:
    names = [b"q-response-2", b"q-response-1", b"q-response-3"]
    assert pack_names("UNSUBSCRIBE", names) == pack(("UNSUBSCRIBE", *names))
