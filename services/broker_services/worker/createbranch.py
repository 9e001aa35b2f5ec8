"""The handler of the queue `createbranch`: makes a branch in a git repository below `BROKER_GIT_ROOT`.

The payload is `{"repository", "branch", "from"?}`, the result `{"repository", "branch", "commit", "created"}` with the
full id of the commit the branch is at.

A task may run more than once, and many may ask for the same branch: who comes later finds it and answers
`"created": false`. Without `from`, any existing branch of that name is what was asked for. With `from`, only one at
that commit is; a caller who names a moving branch there, and cannot bear that a repeated run compares with where
it has moved to, gives a commit id instead.

What ends a task as failed, by code:

- `invalid-payload`: not such an object; the message names the field.
- `invalid-branch-name`: git's rules, or the file system's, don't allow it.
- `unknown-repository`: no repository of exactly that path below the root, or one that leads out of it.
- `unsafe-repository`: it belongs to another user, so git refuses to work in it.
- `unknown-start-point`: `from` names no commit, or is absent and the repository has none yet.
- `branch-exists`: at another commit (`details.commit`), or another branch is in the way (`details.conflict`).
- `repository-busy`, `git-timeout`, `git-failed`: another attempt may help.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from broker.errors import TaskError
from broker.task import Task
from broker_services.worker.git_process import require_git
from broker_services.worker.git_repository import check_branch_name, open_repository, shown

__all__ = ["BranchCreator", "require_git"]


class BranchRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The payload. `start` is its `from`, which Python keeps for itself."""

    repository: str
    branch: str
    start: str | None = msgspec.field(name="from", default=None)


class BranchCreator:
    """Handles the tasks of the queue `createbranch`; one serves any number of tasks at once.

    Args:
        git_root: The folder the repositories are in. It is looked up at each task, so it may come later.
    """

    def __init__(self, git_root: Path) -> None:
        self._git_root = git_root.absolute()

    async def __call__(self, task: Task) -> dict[str, Any]:
        """Makes the branch, or finds it made, and returns the result.

        Raises:
            TaskError: With a code of the module's list.
        """
        request = read_request(task.payload)
        await check_branch_name(request.branch)
        repository = await open_repository(self._git_root, request.repository)
        if request.start is None:
            present = await repository.branch_commit(request.branch)
            if present is not None:
                return _result(request, present, created=False)
        start = await repository.start_commit(request.start)
        reason = f"branch: Created by task {task.uuid}"
        commit, created = await repository.create_branch(request.branch, start, reason)
        if request.start is not None and commit != start:
            raise _exists_elsewhere(request, commit, start)
        return _result(request, commit, created=created)


def read_request(payload: Any) -> BranchRequest:
    """Checks the shape of a payload.

    Raises:
        TaskError: `invalid-payload`; the message names the field.
    """
    try:
        return msgspec.convert(payload, BranchRequest)
    except msgspec.ValidationError as error:
        reason = str(error)[:200]
        message = f'The payload cannot be used ({reason}): send {{"repository", "branch"}} and, if you like, "from".'
        raise TaskError(message, code="invalid-payload") from None


def _result(request: BranchRequest, commit: str, *, created: bool) -> dict[str, Any]:
    return {"repository": request.repository, "branch": request.branch, "commit": commit, "created": created}


def _exists_elsewhere(request: BranchRequest, commit: str, start: str) -> TaskError:
    message = (
        f"The branch {shown(request.branch)} exists at {commit}, not at {start}: "
        "choose another name, or leave `from` out to take the branch as it is."
    )
    return TaskError(message, code="branch-exists", details={"commit": commit})
