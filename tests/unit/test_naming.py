"""Every name, literally: other programs subscribe to the channels, and a renamed key is a lost task."""

from __future__ import annotations

import fnmatch
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker import naming

UUIDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}", fullmatch=True)
QUEUES = st.from_regex(r"[a-z0-9]([a-z0-9_.-]{0,62}[a-z0-9])?", fullmatch=True)
WORDS = st.text(st.sampled_from("aZ09_.- \n\0é/*[{:"), max_size=140)


@pytest.mark.parametrize(
    ("name", "literal"),
    [
        (naming.request_channel("createbranch", "084Tkjfh"), "createbranch-request-084Tkjfh"),
        (naming.request_pattern("createbranch"), "createbranch-request-*"),
        (naming.response_channel("createbranch", "084Tkjfh"), "createbranch-response-084Tkjfh"),
        (naming.probe_channel("1-a"), "broker:probe:1-a"),
        (naming.worker_channel_prefix(), "broker:worker:"),
        (naming.worker_channel("1-a"), "broker:worker:1-a"),
        (naming.events_channel_prefix(), "broker:events:"),
        (naming.events_channel("a-request-b_"), "broker:events:a.request.b_"),
        (naming.tasks_key(), "{broker}:tasks"),
        (naming.values_prefix(), "{broker}:values:"),
        (naming.values_key("t"), "{broker}:values:t"),
        (naming.events_prefix(), "{broker}:events:"),
        (naming.events_key("t"), "{broker}:events:t"),
        (naming.pending_prefix(), "{broker}:pending:"),
        (naming.pending_key("q"), "{broker}:pending:q"),
        (naming.delayed_key(), "{broker}:delayed"),
        (naming.leases_key(), "{broker}:leases"),
        (naming.expiring_key(), "{broker}:expiring"),
        (naming.ended_key(), "{broker}:ended"),
        (naming.retained_key(), "{broker}:retained"),
        (naming.retained_bytes_key(), "{broker}:retained-bytes"),
        (naming.sequence_key(), "{broker}:sequence"),
        (naming.idempotency_prefix(), "{broker}:idempotency:"),
        (naming.idempotency_key("d"), "{broker}:idempotency:d"),
        (naming.sweep_turn_key(), "{broker}:sweep-turn"),
        (naming.published_channel(), "broker:published"),
        (naming.published_prefix(), "{broker}:published:"),
        (naming.published_key("n"), "{broker}:published:n"),
        (naming.publications_key(), "{broker}:publications"),
        (naming.namespaces_key(), "{broker}:namespaces"),
        (naming.deleted_namespaces_key(), "{broker}:namespaces-deleted"),
    ],
)
def test_each_literal(name: str, literal: str) -> None:
    assert name == literal


@given(UUIDS)
def test_every_uuid_of_the_contract(uuid: str) -> None:
    assert naming.is_uuid(uuid)


@given(QUEUES)
def test_every_queue_of_the_contract(queue: str) -> None:
    infixes = (naming.REQUEST_INFIX, naming.RESPONSE_INFIX)
    assert naming.is_queue(queue) is not any(infix in f"{queue}-" for infix in infixes)


@given(WORDS)
def test_nothing_else_is_a_uuid_or_a_queue(word: str) -> None:
    assert naming.is_uuid(word) is bool(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}", word))
    is_pattern = re.fullmatch(r"[a-z0-9]([a-z0-9_.-]{0,62}[a-z0-9])?", word) is not None
    has_infix = "-request-" in f"{word}-" or "-response-" in f"{word}-"
    assert naming.is_queue(word) is (is_pattern and not has_infix)


@pytest.mark.parametrize("word", ["", "a" * 129, "-a", "_a", "a b", "a\n", "\na", "ä", "a/b", "a*", "a\0"])
def test_words_that_name_no_task(word: str) -> None:
    assert not naming.is_uuid(word)


@pytest.mark.parametrize(
    "word",
    [
        *("", "A", "a" * 65, "a-", ".a", "a_", "a\n", "a b", "a*"),
        *("a-request", "a-response", "a-request-b", "a-response-b-c"),
    ],
)
def test_words_that_name_no_queue(word: str) -> None:
    assert not naming.is_queue(word)


@pytest.mark.parametrize("word", ["a", "0", "request", "response", "request-a", "a-requests", "a.b_c-d", "a" * 64])
def test_words_that_name_a_queue(word: str) -> None:
    assert naming.is_queue(word)


@given(st.text(st.sampled_from("0123456789abcdef-"), min_size=1))
def test_internal_channels_are_never_taken_for_public_ones(name: str) -> None:
    for channel in (naming.probe_channel(name), naming.worker_channel(name), naming.published_channel()):
        assert "-request-" not in channel
        assert "-response-" not in channel


@given(UUIDS)
def test_no_uuid_makes_its_events_channel_a_public_one(uuid: str) -> None:
    assert "-" not in naming.events_channel(uuid)


@given(QUEUES.filter(naming.is_queue), QUEUES.filter(naming.is_queue), UUIDS)
def test_a_pattern_hears_its_own_queue_only(one: str, other: str, uuid: str) -> None:
    heard = fnmatch.fnmatchcase(naming.request_channel(other, uuid), naming.request_pattern(one))
    assert heard is (one == other)


@given(QUEUES.filter(naming.is_queue), UUIDS)
def test_a_channel_tells_its_queue_and_uuid(queue: str, uuid: str) -> None:
    for channel, infix in (
        (naming.request_channel(queue, uuid), naming.REQUEST_INFIX),
        (naming.response_channel(queue, uuid), naming.RESPONSE_INFIX),
    ):
        assert channel.split(infix, 1) == [queue, uuid]
