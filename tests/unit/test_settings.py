"""Settings: read once, checked, refused with a sentence that names the variable."""

from __future__ import annotations

import pytest

from broker.errors import ConfigurationError
from broker.settings import Settings


def test_the_defaults_are_the_contracts() -> None:
    settings = Settings.from_environment({})
    assert settings == Settings()
    assert (settings.wait_default_s, settings.wait_max_s, settings.lease_s) == (55, 100, 30)
    assert (settings.task_ttl_s, settings.retention_s) == (86_400, 86_400)
    assert (settings.finished_max, settings.finished_max_mb) == (1_000_000, 1_024)
    assert (settings.max_body_bytes, settings.drain_s, settings.get_writes) == (262_144, 10, "on")


def test_each_setting_has_a_variable() -> None:
    texts = {
        "redis_url": "redis://h:1/2",
        "git_root": "elsewhere",
        "get_writes": "off",
        "queue_full": "drop-oldest",
        **dict.fromkeys(("max_waiters", "queue_max_pending", "namespaces_max"), "9"),
        **dict.fromkeys(("wait_default_s", "wait_max_s", "lease_s", "task_ttl_s", "retention_s", "drain_s"), "7"),
    }
    settings = Settings.from_environment({f"BROKER_{name.upper()}": text for name, text in texts.items()})
    for name, text in texts.items():
        assert str(getattr(settings, name)).removesuffix(".0") == text


def test_an_override_beats_the_environment_and_none_does_not() -> None:
    environment = {"BROKER_DRAIN_S": "3", "BROKER_LEASE_S": "4"}
    settings = Settings.from_environment(environment, drain_s=5.0, lease_s=None)
    assert (settings.drain_s, settings.lease_s) == (5.0, 4.0)


def test_an_empty_variable_is_none() -> None:
    assert Settings.from_environment({"BROKER_DRAIN_S": ""}).drain_s == Settings().drain_s


def test_other_variables_are_nobodys_business() -> None:
    assert Settings.from_environment({"BROKER_NO_SUCH": "1", "DRAIN_S": "2", "broker_drain_s": "3"}) == Settings()


def test_the_environment_is_read_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROKER_DRAIN_S", "2.5")
    assert Settings.from_environment().drain_s == 2.5


def test_settings_do_not_change() -> None:
    with pytest.raises(AttributeError):
        Settings().drain_s = 1.0  # type: ignore[misc]


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("BROKER_DRAIN_S", "ten"),
        ("BROKER_QUEUE_FULL", "drop"),
        ("BROKER_MAX_WAITERS", "0"),
        ("BROKER_QUEUE_MAX_PENDING", "many"),
        ("BROKER_DRAIN_S", "-1"),
        ("BROKER_DRAIN_S", "nan"),
        ("BROKER_DRAIN_S", "inf"),
        ("BROKER_WAIT_MAX_S", "inf"),
        ("BROKER_LEASE_S", "0"),
        ("BROKER_LEASE_S", "inf"),
        ("BROKER_RETENTION_S", "1e12"),
        ("BROKER_FINISHED_MAX", "1.5"),
        ("BROKER_FINISHED_MAX", "0"),
        ("BROKER_MAX_BODY_BYTES", "many"),
        ("BROKER_GET_WRITES", "maybe"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_name(variable: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=variable) as refused:
        Settings.from_environment({variable: text})
    assert str(refused.value).endswith(".")


def test_an_override_that_cannot_be_used() -> None:
    with pytest.raises(ConfigurationError, match="BROKER_DRAIN_S"):
        Settings.from_environment({}, drain_s=-1)


def test_a_default_wait_beyond_the_longest() -> None:
    with pytest.raises(ConfigurationError, match="BROKER_WAIT_DEFAULT_S"):
        Settings.from_environment({"BROKER_WAIT_DEFAULT_S": "20", "BROKER_WAIT_MAX_S": "10"})
