"""One git repository below a root folder: found without leaving the root, read, and given branches.

Branches are read and written by their full names (`refs/heads/…`), never by git's search rules, which would find
a branch called `refs/heads/x` where `x` was meant.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import stat
from pathlib import Path
from typing import Final

from broker.errors import TaskError
from broker_services.worker.git_process import GitResult, run_git

log = logging.getLogger("broker.createbranch")

# Git has no limit of its own and makes a folder of every `/`.
NAME_MAX_BYTES: Final = 1_024

_BRANCHES: Final = "refs/heads/"
# "" as the old value: git's way to say that the reference must not exist yet, whatever the length of its ids.
_ABSENT: Final = ""
_SHOWN_CHARS: Final = 100
_LOGGED_CHARS: Final = 2_000

_object_id = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
# No reference name contains these (git-check-ref-format), but expressions such as `main~3` or `:/text` do.
_revision_syntax = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{")
_control_character = re.compile(r"[\x00-\x1f\x7f]")
_conflict = re.compile(r"'refs/heads/(\S+)' exists; cannot create '")
_lock_held = re.compile(r"\.lock': File exists")
_name_too_long = re.compile(r"File ?name too long")


async def check_branch_name(branch: str) -> None:
    """Applies git's rules for the name of a branch, the same for every repository.

    Raises:
        TaskError: `invalid-branch-name`.
    """
    if not await _is_branch_name(branch):
        message = f"{shown(branch)} cannot name a branch: see `git help check-ref-format`, and try feature/login."
        raise TaskError(message, code="invalid-branch-name")


async def _is_branch_name(branch: str) -> bool:
    # The two rules that `git branch` adds. Its `--branch` check would also expand `@{-1}`.
    if branch.startswith("-") or branch == "HEAD" or not _can_be_argument(branch):
        return False
    return (await run_git("check-ref-format", _BRANCHES + branch)).code == 0


async def open_repository(git_root: Path, name: str) -> GitRepository:
    """Finds a repository by its path below the root, such as `app`, `team/app` or `app.git`, taken literally.

    It must be a repository itself, with its git directory (`.git`, or the folder itself when bare) inside: nothing that
    leads elsewhere is followed, be it a symbolic link, a `.git` file (linked worktrees, submodules) or a `commondir`.

    Raises:
        TaskError: `unknown-repository` for all of that, in the same words whether or not something exists there;
            `unsafe-repository` when it belongs to another user; `git-failed` when git cannot read it.
    """
    # In a thread, since the root may be a slow network file system.
    folder = await asyncio.to_thread(_folder, git_root, name)
    if folder is None:
        raise _unknown_repository(name)
    result = await run_git("rev-parse", "--path-format=absolute", "--git-dir", "--git-common-dir", folder=folder)
    if result.code != 0:
        raise _unusable(name, result)
    own = {str(folder), str(folder / ".git")}
    if not own.issuperset(result.stdout.splitlines()):
        raise _unknown_repository(name)
    return GitRepository(name, folder)


def _folder(git_root: Path, name: str) -> Path | None:
    """The real folder of that name below the root, or None. The root itself may be a link: it is the operator's."""
    parts = name.split("/")
    if _control_character.search(name) or any(part.lower() in {"", ".", "..", ".git"} for part in parts):
        return None
    try:
        folder = Path(os.path.realpath(git_root))
        for part in parts:
            folder /= part
            if not stat.S_ISDIR(folder.lstat().st_mode):
                return None
        return folder if _keeps_its_git_directory(folder) else None
    except (OSError, ValueError):
        return None


def _keeps_its_git_directory(folder: Path) -> bool:
    try:
        return stat.S_ISDIR((folder / ".git").lstat().st_mode)
    except FileNotFoundError:
        return True  # bare, or no repository at all: git will tell


class GitRepository:
    """A repository that `open_repository` found."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self._folder = folder

    async def branch_commit(self, branch: str) -> str | None:
        """The full id of the commit that a branch is at, or None when there is no such branch."""
        return await self._read(_BRANCHES + branch)

    async def start_commit(self, start: str | None) -> str:
        """The full id of the commit to start a branch at.

        Args:
            start: A branch, a tag or a commit id, full or short, as git resolves it (a tag before a branch of the same
                name). None: the repository's HEAD. Expressions such as `main~3` are not taken.

        Raises:
            TaskError: `unknown-start-point`.
        """
        if start is None:
            commit = await self._read("HEAD")
            problem = f"The repository {shown(self.name)} has no commit at its HEAD: push one, or give `from`."
        else:
            commit = await self._resolve(start)
            problem = (
                f"{shown(start)} names no commit in the repository {shown(self.name)}: "
                "give an existing branch, tag or commit id in `from`."
            )
        if commit is None:
            raise TaskError(problem, code="unknown-start-point")
        return commit

    async def create_branch(self, branch: str, commit: str, reason: str) -> tuple[str, bool]:
        """Creates a branch unless it exists. Of several at once, in whatever processes, exactly one creates it.

        Args:
            branch: Its name, which `check_branch_name` took.
            commit: The full id to start at.
            reason: A line for the branch's reflog, where the repository keeps one.

        Returns:
            The full id that the branch is at now, and whether it was created by this call.

        Raises:
            TaskError: `branch-exists` when another branch is in the way (`a` of `a/b`, or the other way round),
                `invalid-branch-name` when the file system cannot hold the name, and, retryable, `repository-busy`
                when another process holds the branch's lock and `git-failed` for all else.
        """
        # --no-deref: where a symbolic reference leads nowhere, nothing but the branch that was asked for is written.
        command = ("update-ref", "--no-deref", "-m", reason, _BRANCHES + branch, commit, _ABSENT)
        result = await run_git(*command, folder=self._folder)
        if result.code == 0:
            return commit, True
        present = await self.branch_commit(branch)
        if present is None:
            raise self._not_created(branch, result)
        return present, False

    async def _read(self, reference: str) -> str | None:
        """Reads exactly this reference. What git cannot read counts as absent: creating it is what decides."""
        return _id_in(await run_git("show-ref", "--verify", "--hash", "--", reference, folder=self._folder))

    async def _resolve(self, start: str) -> str | None:
        if start.startswith("-") or _revision_syntax.search(start) or not _can_be_argument(start):
            return None
        command = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{start}^{{commit}}")
        return _id_in(await run_git(*command, folder=self._folder))

    def _not_created(self, branch: str, result: GitResult) -> TaskError:
        in_the_way = _conflict.search(result.stderr)
        if in_the_way is not None:
            message = f"The branch {shown(branch)} cannot exist beside {shown(in_the_way[1])}: choose another name."
            return TaskError(message, code="branch-exists", details={"conflict": in_the_way[1]})
        if _name_too_long.search(result.stderr):
            message = f"The branch name {shown(branch)} is too long for the file system: choose a shorter one."
            return TaskError(message, code="invalid-branch-name")
        if _lock_held.search(result.stderr):
            message = (
                f"Another process holds the lock of the branch {shown(branch)}: it is tried again. "
                f"If no git is running there, remove its .lock file from the repository {shown(self.name)}."
            )
            return TaskError(message, code="repository-busy", retry=True)
        return _failed(self.name, f"create the branch {shown(branch)}", result)


def shown(text: str) -> str:
    """A caller's text as it may stand in a message: quoted, cut, and free of control characters."""
    cut = text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "…"
    return json.dumps(cut.encode(errors="replace").decode(), ensure_ascii=False)


def _can_be_argument(text: str) -> bool:
    """Whether a program can be given `text` at all, and it is no longer than a name may be."""
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        return False
    return b"\0" not in encoded and len(encoded) <= NAME_MAX_BYTES


def _id_in(result: GitResult) -> str | None:
    text = result.stdout.strip()
    return text if result.code == 0 and _object_id.fullmatch(text) else None


def _unknown_repository(name: str) -> TaskError:
    message = (
        f"There is no git repository {shown(name)} below the folder BROKER_GIT_ROOT: "
        "name it by its exact path there, such as team/app or app.git."
    )
    return TaskError(message, code="unknown-repository")


def _unusable(name: str, result: GitResult) -> TaskError:
    if "dubious ownership" in result.stderr:
        message = (
            f"The repository {shown(name)} belongs to another user than the worker, so git refuses it: give it to the "
            "worker's user, or run `git config --global --add safe.directory FOLDER` as that user, with HOME set."
        )
        return TaskError(message, code="unsafe-repository")
    if "not a git repository" in result.stderr:
        return _unknown_repository(name)
    return _failed(name, "read it", result)


def _failed(name: str, intention: str, result: GitResult) -> TaskError:
    """For what nobody foresaw, such as a full disk. What git printed is only logged: it tells paths of this machine."""
    said = result.stderr[:_LOGGED_CHARS]
    log.warning("In the repository %s, git could not %s (exit %d): %r", shown(name), intention, result.code, said)
    message = f"In the repository {shown(name)}, git could not {intention}: the worker's log tells why."
    return TaskError(message, code="git-failed", retry=True)
