"""Which language a caller reads."""

from __future__ import annotations

import pytest

from broker.task import TaskState
from broker_services.api.messages import Language, preferred_language, repeated_message, state_message, unknown_task


@pytest.mark.parametrize(
    "accept",
    ["zh", "ZH", "zh-CN", "zh-Hans-SG", "en;q=0.2,zh;q=0.3", "en; q=0.1 , zh ; q=0.2", "zh;q=1.000"],
)
def test_chinese_when_it_is_preferred(accept: str) -> None:
    assert preferred_language(accept) is Language.CHINESE


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "en",
        "de",
        "*",
        "zha",
        "z",
        "en,zh",
        "zh;q=0",
        "zh;q=0.1,en",
        "zh;q=nan",
        "zh;q=-1",
        "zh;q=",
        "zh;Q=0",
        ",;=,",
    ],
)
def test_english_otherwise(accept: str) -> None:
    assert preferred_language(accept) is Language.ENGLISH


def test_a_very_long_header_is_not_read_to_its_end() -> None:
    assert preferred_language("x," * 1_000 + "zh") is Language.ENGLISH


@pytest.mark.parametrize("language", Language)
@pytest.mark.parametrize("state", TaskState)
def test_every_state_has_a_message_that_needs_no_escape(state: TaskState, language: Language) -> None:
    message = state_message(state, language).decode()

    assert message
    assert not set(message) & set('"\\')


@pytest.mark.parametrize("language", Language)
def test_the_other_messages_need_no_escape_either(language: Language) -> None:
    assert not set(repeated_message(language).decode() + unknown_task(language)) & set('"\\')
