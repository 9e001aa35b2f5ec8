"""What is read from a task's document without parsing it."""

from __future__ import annotations

import pytest

from broker.store.completions import Changed
from broker.task import TaskState
from broker_services.api.task_body import queue_of


@pytest.mark.parametrize("more", [b"", b',"result":"\\"queue\\":\\"x\\""', b',"result":{"queue":"x"}'])
def test_the_queue_is_the_documents_own(more: bytes) -> None:
    document = b'{"uuid":"084Tkjfh","queue":"a.b_c-d","state":"failed"%s,"attempt":1}' % more

    assert queue_of(Changed("084Tkjfh", True, TaskState.FAILED, document)) == "a.b_c-d"
