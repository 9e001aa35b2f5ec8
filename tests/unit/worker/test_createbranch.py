"""The queue `createbranch`, on real repositories with the real git."""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
from asyncio.subprocess import Process
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from broker.errors import ConfigurationError, TaskError
from broker.task import Task, TaskState
from broker_services.worker import git_process
from broker_services.worker.createbranch import BranchCreator
from broker_services.worker.git_process import OUTPUT_MAX_BYTES, GitResult, require_git, run_git

IDENTITY = {f"GIT_{role}_{field}": "test" for role in ("AUTHOR", "COMMITTER") for field in ("NAME", "EMAIL")}


@pytest.fixture(autouse=True)
def no_configuration_of_the_developer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture
def app(root: Path) -> Path:
    return make_repository(root / "app")


def git(folder: Path, *arguments: str) -> str:
    environment = {"PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull, **IDENTITY}
    command = ["git", *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()


def make_repository(folder: Path, *options: str, commits: int = 2) -> Path:
    folder.mkdir(parents=True)
    git(folder, "init", "--quiet", "--initial-branch=main", *options)
    for number in range(commits):
        add_commit(folder, f"commit {number}")
    return folder


def add_commit(folder: Path, message: str) -> str:
    """Works in bare repositories too, and leaves hooks alone."""
    tree = git(folder, "hash-object", "-t", "tree", "-w", "--stdin")
    parents = [part for parent in git(folder, "rev-list", "--max-count=1", "--all").split() for part in ("-p", parent)]
    commit = git(folder, "commit-tree", tree, *parents, "-m", message)
    git(folder, "update-ref", "refs/heads/main", commit)
    return commit


def commit_of(folder: Path, revision: str) -> str:
    return git(folder, "rev-parse", "--verify", revision)


def branches(folder: Path) -> set[str]:
    return {line.removeprefix("refs/heads/") for line in git(folder, "for-each-ref", "--format=%(refname)").split()}


def configure(text: str) -> None:
    """Writes the global configuration of the worker's user."""
    Path(os.environ["HOME"], ".gitconfig").write_text(text)


def task_with(payload: Any, uuid: str = "084Tkjfh") -> Task:
    return Task(uuid=uuid, queue="createbranch", state=TaskState.RUNNING, attempt=1, payload=payload)


async def create(root: Path, branch: str, start: str | None = None, repository: str = "app") -> dict[str, Any]:
    payload = {"repository": repository, "branch": branch} | ({} if start is None else {"from": start})
    return await BranchCreator(root)(task_with(payload))


async def failure(root: Path, branch: str, start: str | None = None, repository: str = "app") -> TaskError:
    with pytest.raises(TaskError) as caught:
        await create(root, branch, start, repository)
    return caught.value


# What it does ---------------------------------------------------------------------------------------------------------


async def test_a_branch_starts_at_the_head(root: Path, app: Path) -> None:
    head = commit_of(app, "HEAD")
    assert await create(root, "x") == {"repository": "app", "branch": "x", "commit": head, "created": True}
    assert commit_of(app, "refs/heads/x") == head


async def test_the_same_request_again_finds_the_branch(root: Path, app: Path) -> None:
    first = await create(root, "x", "main")
    assert await create(root, "x", "main") == first | {"created": False}


async def test_without_a_start_an_existing_branch_is_taken_wherever_it_stands(root: Path, app: Path) -> None:
    git(app, "branch", "x", "main~1")
    result = await create(root, "x")
    assert (result["commit"], result["created"]) == (commit_of(app, "main~1"), False)


async def test_a_null_start_is_no_start(root: Path, app: Path) -> None:
    result = await BranchCreator(root)(task_with({"repository": "app", "branch": "x", "from": None}))
    assert result["created"]


@pytest.mark.parametrize("start", ["old", "refs/heads/old", "v1", "v1-annotated", "FULL", "SHORT"])
async def test_a_branch_starts_at_a_branch_a_tag_or_a_commit(root: Path, app: Path, start: str) -> None:
    old = commit_of(app, "main~1")
    git(app, "branch", "old", old)
    git(app, "tag", "v1", old)
    git(app, "tag", "-a", "-m", "annotated", "v1-annotated", old)
    result = await create(root, "x", {"FULL": old, "SHORT": old[:8]}.get(start, start))
    assert (result["commit"], result["created"]) == (old, True)


@pytest.mark.parametrize(
    ("name", "options"),
    [("team/app", []), ("app.git", ["--bare"]), ("with space:and colon", []), ("应用", []), ("-dash", [])],
)
async def test_a_repository_is_named_by_its_path_below_the_root(root: Path, name: str, options: list[str]) -> None:
    folder = make_repository(root / name, *options)
    assert (await create(root, "x", repository=name))["commit"] == commit_of(folder, "refs/heads/x")


async def test_an_operator_who_forbids_bare_repositories_elsewhere_has_them_here(root: Path) -> None:
    make_repository(root / "app", "--bare")
    configure("[safe]\n\tbareRepository = explicit\n")
    assert (await create(root, "x"))["created"]


async def test_the_root_itself_may_be_a_link(root: Path, app: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    assert (await create(tmp_path / "link", "x"))["created"]


async def test_a_repository_of_sha256_objects_answers_with_its_long_ids(root: Path) -> None:
    make_repository(root / "app", "--object-format=sha256")
    results = [await create(root, "x", "main"), await create(root, "x", "main")]
    assert [(len(result["commit"]), result["created"]) for result in results] == [(64, True), (64, False)]


async def test_a_packed_branch_is_found(root: Path, app: Path) -> None:
    git(app, "branch", "x")
    git(app, "pack-refs", "--all")
    assert not (await create(root, "x", "main"))["created"]


async def test_the_reflog_tells_the_task(root: Path, app: Path) -> None:
    await create(root, "x")
    assert git(app, "reflog", "show", "--format=%gs", "x") == "branch: Created by task 084Tkjfh"


async def test_a_branch_called_like_a_full_reference_is_not_mistaken_for_it(root: Path, app: Path) -> None:
    assert (await create(root, "refs/heads/x"))["created"]
    assert (await create(root, "x"))["created"]
    assert branches(app) == {"main", "x", "refs/heads/x"}


async def test_only_the_branch_asked_for_is_written_where_a_link_leads_nowhere(root: Path, app: Path) -> None:
    git(app, "symbolic-ref", "refs/heads/x", "refs/heads/elsewhere")
    assert (await create(root, "x"))["created"]
    assert branches(app) == {"main", "x"}


# Races ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [None, "main"])
async def test_of_equal_requests_at_once_exactly_one_creates(root: Path, app: Path, start: str | None) -> None:
    results = await asyncio.gather(*(create(root, "x", start) for _ in range(8)))
    assert Counter(result["created"] for result in results) == {True: 1, False: 7}
    assert {result["commit"] for result in results} == {commit_of(app, "x")}


async def test_of_two_starting_points_at_once_exactly_one_wins(root: Path, app: Path) -> None:
    starts = [commit_of(app, "main"), commit_of(app, "main~1")] * 3
    outcomes = await asyncio.gather(*(create(root, "x", start) for start in starts), return_exceptions=True)
    winner = commit_of(app, "x")
    for start, outcome in zip(starts, outcomes, strict=True):
        if start == winner:
            assert isinstance(outcome, dict)
            assert outcome["commit"] == winner
        else:
            assert isinstance(outcome, TaskError)
            assert (outcome.code, outcome.details) == ("branch-exists", {"commit": winner})
    assert sum(isinstance(outcome, dict) and outcome["created"] for outcome in outcomes) == 1


async def test_a_held_lock_is_worth_another_attempt(root: Path, app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git_process, "LOCK_WAIT_MS", 0)
    lock = app / ".git/refs/heads/x.lock"
    lock.touch()
    error = await failure(root, "x")
    assert (error.code, error.retry) == ("repository-busy", True)
    lock.unlink()
    assert (await create(root, "x"))["created"]


# What it refuses ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "named"),
    [
        (None, "object"),
        ([], "object"),
        ("text", "object"),
        ({"branch": "x"}, "repository"),
        ({"repository": "app"}, "branch"),
        ({"repository": 1, "branch": "x"}, "repository"),
        ({"repository": "app", "branch": None}, "branch"),
        ({"repository": "app", "branch": "x", "from": 7}, "from"),
        ({"repository": "app", "branch": "x", "start": "main"}, "start"),
    ],
)
async def test_a_payload_of_another_shape_is_refused_by_the_name_of_the_field(
    root: Path, payload: Any, named: str
) -> None:
    with pytest.raises(TaskError, match=f"`([$].)?{named}") as caught:
        await BranchCreator(root)(task_with(payload))
    assert (caught.value.code, caught.value.retry) == ("invalid-payload", False)


@pytest.mark.parametrize(
    "branch",
    [
        "", "--help", "-d", "-", "HEAD", "a..b", "a b", "@{-1}", "x@{1}", "a/", "/a", "a//b", ".a", "a/.b", "a.",
        "a.lock", "a~1", "a^", "a:b", "a?", "a*", "a[b", "a\\b", "a\nb", "a\x7fb", "a\0b", "\ud800", "n" * 300,
        "n/" * 600 + "n", "n" * 200_000,
    ],
)  # fmt: skip
async def test_what_git_would_not_call_a_branch_is_refused(root: Path, app: Path, branch: str) -> None:
    error = await failure(root, branch)
    assert (error.code, error.retry) == ("invalid-branch-name", False)
    assert len(str(error)) < 400
    str(error).encode()
    assert branches(app) == {"main"}


@pytest.mark.parametrize("branch", ["refs/heads/x", "功能/登录", "a-b", "head", "@", "tags/v1", "$(touch${IFS}x)'\""])
async def test_unusual_but_valid_names_are_taken(root: Path, app: Path, branch: str) -> None:
    assert (await create(root, branch))["created"]
    assert branches(app) == {"main", branch}


@pytest.mark.parametrize(
    "start",
    [
        "", "nowhere", "0" * 40, "f" * 40, "--help", "-", "^main", "main^{tree}", "main~1", ":/commit", "@{-1}",
        "main@{0}", "main..main", "a\0b", "\ud800", "HEAD:", "blob", "m" * 200_000,
    ],
)  # fmt: skip
async def test_a_start_that_is_no_commit_is_refused(root: Path, app: Path, start: str) -> None:
    git(app, "tag", "blob", git(app, "hash-object", "-w", "--stdin"))
    error = await failure(root, "x", start)
    assert (error.code, error.retry) == ("unknown-start-point", False)
    assert branches(app) == {"main", "refs/tags/blob"}


async def test_a_repository_without_commits_has_nothing_to_start_at(root: Path) -> None:
    make_repository(root / "app", commits=0)
    error = await failure(root, "x")
    assert error.code == "unknown-start-point"
    assert "no commit" in str(error)


async def test_a_tag_called_head_is_not_the_head(root: Path, app: Path) -> None:
    git(app, "tag", "HEAD", "main")
    git(app, "symbolic-ref", "HEAD", "refs/heads/unborn")
    assert (await failure(root, "x")).code == "unknown-start-point"


async def test_a_branch_at_another_commit_is_in_the_way(root: Path, app: Path) -> None:
    git(app, "branch", "x", "main~1")
    error = await failure(root, "x", "main")
    assert (error.code, error.retry) == ("branch-exists", False)
    assert error.details == {"commit": commit_of(app, "main~1")}


@pytest.mark.parametrize(("present", "asked"), [("a", "a/b"), ("a", "a/b/c"), ("a/b", "a")])
@pytest.mark.parametrize("packed", [False, True])
async def test_a_branch_that_would_have_to_be_a_folder_is_in_the_way(
    root: Path, app: Path, present: str, asked: str, packed: bool
) -> None:
    git(app, "branch", present)
    if packed:
        git(app, "pack-refs", "--all")
    error = await failure(root, asked)
    assert (error.code, error.retry, error.details) == ("branch-exists", False, {"conflict": present})
    assert f'"{present}"' in str(error)


async def test_a_repository_of_another_user_is_explained_to_the_operator(
    root: Path, app: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = git_process._environment
    foreign = {"GIT_TEST_ASSUME_DIFFERENT_OWNER": "1"}
    monkeypatch.setattr(git_process, "_environment", lambda folder: clean(folder) | foreign)
    error = await failure(root, "x")
    assert (error.code, error.retry) == ("unsafe-repository", False)
    assert "safe.directory" in str(error)
    configure(f'[safe]\n\tdirectory = "{app}"\n')
    assert (await create(root, "x"))["created"]


async def test_what_nobody_foresaw_is_logged_and_worth_another_attempt(
    root: Path, app: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (app / ".git/refs/heads/x").write_text("not an id\n")
    with caplog.at_level(logging.WARNING, "broker.createbranch"):
        error = await failure(root, "x")
    assert (error.code, error.retry) == ("git-failed", True)
    assert str(root) not in str(error)
    assert "broken" in caplog.text


async def test_a_repository_that_git_cannot_read_is_not_called_unknown(root: Path, app: Path) -> None:
    (app / ".git/config").write_text("[junk\n")
    assert (await failure(root, "x")).code == "git-failed"


# Staying below the root -----------------------------------------------------------------------------------------------


@pytest.fixture
def outside(tmp_path: Path, app: Path) -> Path:
    """A repository beside the root, and everything below the root that leads to it."""
    root = app.parent
    outside = make_repository(tmp_path / "outside")
    make_repository(outside / "nested")
    (root / "link").symlink_to(outside)
    (root / "link-inside").symlink_to(app)
    (root / "plain").mkdir()
    (root / "file").touch()
    (root / "git-link").mkdir()
    (root / "git-link/.git").symlink_to(outside / ".git")
    (root / "git-file").mkdir()
    (root / "git-file/.git").write_text(f"gitdir: {outside / '.git'}\n")
    (root / "empty-git/.git").mkdir(parents=True)
    # Git would tell that it cannot read this one, and so that something is there.
    broken = make_repository(tmp_path / "broken", commits=0)
    (broken / ".git/config").write_text("[junk\n")
    (root / "broken-link").symlink_to(broken)
    (root / "broken-git-link").mkdir()
    (root / "broken-git-link/.git").symlink_to(broken / ".git")
    (root / "broken-git-file").mkdir()
    (root / "broken-git-file/.git").write_text(f"gitdir: {broken / '.git'}\n")
    (app / "folder").mkdir()
    (app / "folder-with-git/.git").mkdir(parents=True)
    shared = make_repository(root / "shared")
    (shared / ".git/commondir").write_text(f"{outside / '.git'}\n")
    git(outside, "worktree", "add", "--quiet", str(root / "worktree"))
    return outside


@pytest.mark.parametrize(
    "repository",
    [
        "", ".", "..", "../outside", "app/../../outside", "app/..", "./app", "app/", "/app", "app//", "OUTSIDE",
        "missing", "missing/app", "link", "link/nested", "link-inside", "plain", "file", "file/app", "git-link",
        "git-file", "empty-git", "shared", "worktree", "app/folder", "app/folder-with-git", "app/.git", "app/.GIT",
        "app/.git/refs", "app.git", "ap", "app\0", "app\n", "\ud800", "~", "$HOME", "*", "n" * 300, "n/" * 3_000,
        "--help", "broken-link", "broken-git-link", "broken-git-file",
    ],
)  # fmt: skip
async def test_nothing_but_a_repository_below_the_root_is_known(root: Path, outside: Path, repository: str) -> None:
    name = str(outside) if repository == "OUTSIDE" else repository
    before = branches(outside)
    error = await failure(root, "x", repository=name)
    assert (error.code, error.retry) == ("unknown-repository", False)
    str(error).encode()
    assert branches(outside) == before
    assert branches(root / "app") == {"main"}


async def test_a_refusal_does_not_tell_whether_something_is_there(root: Path, outside: Path) -> None:
    present, absent = [str(await failure(root, "x", repository=f"../{name}")) for name in ("outside", "nothing")]
    assert present.replace("outside", "…") == absent.replace("nothing", "…")


async def test_a_plain_folder_in_an_outer_repository_is_none(tmp_path: Path) -> None:
    outer = make_repository(tmp_path / "outer:with-colon")
    (outer / "root/plain").mkdir(parents=True)
    assert (await failure(outer / "root", "x", repository="plain")).code == "unknown-repository"
    assert branches(outer) == {"main"}


async def test_a_root_that_does_not_exist_holds_nothing(tmp_path: Path) -> None:
    assert (await failure(tmp_path / "missing", "x")).code == "unknown-repository"


# Nothing else runs ----------------------------------------------------------------------------------------------------


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program that leaves a file `program.ran` beside it."""
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\ntouch $0.ran\n")
    program.chmod(0o755)
    return program


def has_run(program: Path) -> bool:
    return program.with_name("program.ran").exists()


async def test_no_program_of_the_repository_runs(root: Path, app: Path, program: Path) -> None:
    (app / ".git/hooks").mkdir(exist_ok=True)
    (app / ".git/hooks/reference-transaction").symlink_to(program)
    keys = (
        "core.fsmonitor",
        "core.pager",
        "core.sshCommand",
        "pager.show-ref",
        "gpg.program",
        "core.alternateRefsCommand",
    )
    for key in keys:
        git(app, "config", key, str(program))
    assert (await create(root, "x", "main"))["created"]
    assert (await failure(root, "y", "nowhere")).code == "unknown-start-point"
    assert not has_run(program)


async def test_a_partial_clone_fetches_nothing(root: Path, app: Path, program: Path) -> None:
    for key, value in {
        "core.repositoryFormatVersion": "1",
        "extensions.partialClone": "origin",
        "remote.origin.promisor": "true",
        "remote.origin.url": f"ext::{program} %S",
        "remote.origin.fetch": "+refs/heads/*:refs/remotes/origin/*",
        "protocol.ext.allow": "always",
    }.items():
        git(app, "config", key, value)
    assert (await failure(root, "x", "1" * 40)).code == "unknown-start-point"
    assert not has_run(program)


async def test_git_variables_of_the_worker_are_not_inherited(
    root: Path, app: Path, outside: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(outside / ".git"))
    monkeypatch.setenv("GIT_TRACE", str(root / "trace"))
    assert (await create(root, "x"))["created"]
    assert "x" in branches(app)
    assert "x" not in branches(outside)
    assert not (root / "trace").exists()


# The child process ----------------------------------------------------------------------------------------------------


@pytest.fixture
def fake_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGit:
    return FakeGit(tmp_path / "bin", monkeypatch)


class FakeGit:
    """A shell script that stands before git on PATH; it may tell its process id through a named pipe."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder.mkdir()
        self._script = folder / "git"
        self._pipe = folder / "pid"
        os.mkfifo(self._pipe)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def does(self, commands: str) -> None:
        self._script.write_text(f"#!/bin/sh\ntell_pid() {{ echo $$ > {self._pipe}; }}\n{commands}\n")
        self._script.chmod(0o755)

    async def process_id(self) -> int:
        return int(await asyncio.to_thread(self._pipe.read_text))


def is_alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


HANGS = "tell_pid; exec sleep 600"
IGNORES_SIGTERM = "trap '' TERM; tell_pid; sleep 600; sleep 600"


@pytest.mark.parametrize("commands", [HANGS, IGNORES_SIGTERM])
async def test_cancellation_ends_git(fake_git: FakeGit, monkeypatch: pytest.MonkeyPatch, commands: str) -> None:
    monkeypatch.setattr(git_process, "STOP_GRACE_S", 0.05)
    fake_git.does(commands)
    running = asyncio.create_task(run_git("version"))
    process_id = await fake_git.process_id()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not is_alive(process_id)


async def test_cancellation_while_git_starts_ends_it_too(fake_git: FakeGit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git_process, "STOP_GRACE_S", 0.05)
    cancelled = asyncio.Event()
    start = git_process._start

    async def start_slowly(arguments: tuple[str, ...], folder: Path) -> Process:
        process = await start(arguments, folder)
        await cancelled.wait()
        return process

    monkeypatch.setattr(git_process, "_start", start_slowly)
    fake_git.does(IGNORES_SIGTERM)
    running = asyncio.create_task(run_git("version"))
    process_id = await fake_git.process_id()
    running.cancel()
    cancelled.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert not is_alive(process_id)


async def test_cancellation_before_a_start_that_fails_stays_a_cancellation(tmp_path: Path) -> None:
    running = asyncio.create_task(run_git("version", folder=tmp_path / "gone"))
    asyncio.get_running_loop().call_soon(running.cancel)
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_second_cancellation_does_not_leave_git_behind(
    fake_git: FakeGit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git_process, "STOP_GRACE_S", 0.05)
    stopping = asyncio.Event()
    stop = git_process._stop

    async def tell_and_stop(starting: asyncio.Future[Process], output: asyncio.Future[GitResult]) -> None:
        stopping.set()
        await stop(starting, output)

    monkeypatch.setattr(git_process, "_stop", tell_and_stop)
    fake_git.does(IGNORES_SIGTERM)
    running = asyncio.create_task(run_git("version"))
    process_id = await fake_git.process_id()
    running.cancel()
    await stopping.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    async with asyncio.timeout(10):
        await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()})
    assert not is_alive(process_id)


async def test_a_git_that_takes_too_long_is_ended(fake_git: FakeGit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git_process, "TIME_LIMIT_S", 0.05)
    fake_git.does("exec sleep 600")
    with pytest.raises(TaskError, match="was stopped") as caught:
        await run_git("version")
    assert (caught.value.code, caught.value.retry) == ("git-timeout", True)


async def test_a_long_output_is_read_to_its_end_and_cut(fake_git: FakeGit) -> None:
    fake_git.does("head -c 1000000 /dev/zero; head -c 1000000 /dev/zero >&2; exit 3")
    result = await run_git("version")
    assert (result.code, len(result.stdout), len(result.stderr)) == (3, OUTPUT_MAX_BYTES, OUTPUT_MAX_BYTES)


async def test_a_folder_that_has_just_gone_is_worth_another_attempt(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="could not be started") as caught:
        await run_git("version", folder=tmp_path / "gone")
    assert (caught.value.code, caught.value.retry) == ("git-failed", True)


def test_the_git_of_this_machine_is_good_enough() -> None:
    require_git()


def test_a_machine_without_git_is_told_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="none is on PATH"):
        require_git()


@pytest.mark.parametrize(
    ("commands", "sentence"),
    [
        ("echo git version 2.30.9", "install a newer one"),
        ("echo something else", "doesn't answer"),
        ("exit 1", "doesn't work"),
    ],
)
def test_a_git_that_cannot_be_used_is_told_at_the_start(fake_git: FakeGit, commands: str, sentence: str) -> None:
    fake_git.does(commands)
    with pytest.raises(ConfigurationError, match=sentence):
        require_git()


# Whatever a caller sends ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shared") / "root"
    make_repository(root / "app")
    make_repository(root / "team/app")
    make_repository(root.parent / "outside")
    (root / "link").symlink_to(root.parent / "outside")
    return root


def outcome(root: Path, repository: str, branch: str, start: str | None) -> dict[str, Any] | str:
    try:
        return asyncio.run(create(root, branch, start, repository))
    except TaskError as error:
        return error.code


@settings(max_examples=60, deadline=None, database=None)
@given(name=st.text(st.sampled_from("ab./-@{}~^:HEAD\\ \n*[é功\x00"), max_size=8) | st.text(max_size=30))
@example(name="a/b")
def test_a_name_is_taken_exactly_when_git_takes_it(shared_root: Path, name: str) -> None:
    app = shared_root / "app"
    result = outcome(shared_root, "app", name, "main")
    if isinstance(result, dict):
        assert commit_of(app, f"refs/heads/{name}") == commit_of(app, "main")
        git(app, "update-ref", "-d", f"refs/heads/{name}") if name != "main" else None
    else:
        assert result == "invalid-branch-name"
        with pytest.raises((subprocess.CalledProcessError, ValueError)):
            git(app, "branch", "--", name, "main")


parts = st.sampled_from(["", ".", "..", "app", "team", "link", "outside", ".git", "root", "app.git"])


@settings(max_examples=40, deadline=None, database=None)
@given(path=st.lists(parts, max_size=5).map("/".join))
def test_no_path_leads_out_of_the_root(shared_root: Path, path: str) -> None:
    result = outcome(shared_root, path, "x", None)
    assert path in {"app", "team/app"} if isinstance(result, dict) else result == "unknown-repository"
    assert "x" not in branches(shared_root.parent / "outside")


@settings(max_examples=40, deadline=None, database=None)
@given(start=st.text(st.sampled_from("main@{-1}~^:/HEAD0f.\x00 "), max_size=8) | st.text(max_size=30))
def test_no_start_breaks_it(shared_root: Path, start: str) -> None:
    result = outcome(shared_root, "team/app", "y", start)
    assert isinstance(result, dict) or result == "unknown-start-point"
