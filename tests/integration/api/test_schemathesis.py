"""Requests made from the OpenAPI document, right and wrong ones: each is answered in time and as the document says."""

from __future__ import annotations

from typing import Any, Final

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from broker_services.api.openapi import openapi_document
from tests.integration.api.conftest import Deployment, Keys
from tests.support.api import ApiProcess

MOST_SECONDS: Final = 5.0
# Calls would be held for as long as the generated `wait` says, and that is often long.
SHORT_WAITS: Final = {"wait_default_s": "0.01", "wait_max_s": "0.02"}
# A schema cannot say all that makes a request acceptable: that fields go together, say.
UNKNOWN_TO_SCHEMAS: Final = [positive_data_acceptance]

schema = schemathesis.openapi.from_dict(openapi_document("test"))


@pytest.fixture(scope="session")
def swift_instance(deployment: Deployment, keys: Keys) -> ApiProcess:
    return deployment.start_instances(1, api_keys_file=str(keys.file), **SHORT_WAITS)[0]


@schema.parametrize()
@settings(max_examples=50, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_as_documented(case: Any, swift_instance: ApiProcess, keys: Keys) -> None:
    if case.path == "/taskEvents" and "uuid" in (case.query or {}):
        # A stream of an open task would go on.
        ending = {"uuid": str(case.query["uuid"])}
        httpx.post(f"{swift_instance.url}/cancelTask", json=ending, headers=keys.header("all"), trust_env=False)
    answer = case.call(base_url=swift_instance.url, timeout=MOST_SECONDS, headers=keys.header("all"))

    # With `raw`, parameters that are not ours may hold anything; of a head that is too long nothing is looked at.
    # A task of a batch that cannot be used is told of in the list.
    is_unread = "raw" in (case.query or {}) or answer.status_code == 431 or case.path == "/createTasks"
    ignored = [negative_data_rejection] if is_unread else []
    case.validate_response(answer, excluded_checks=[*UNKNOWN_TO_SCHEMAS, *ignored])
