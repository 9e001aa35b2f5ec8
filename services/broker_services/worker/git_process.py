"""Runs git as a child process: no shell, a clean environment, bounded in time and output, never left behind.

A repository's own configuration can name programs. None of them runs here: hooks and the file system monitor are
switched off, no pager is started, and every transport is forbidden, so that a partial clone fetches nothing.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from broker.errors import ConfigurationError, TaskError

TIME_LIMIT_S: Final = 20.0
STOP_GRACE_S: Final = 2.0
LOCK_WAIT_MS: Final = 1_000
OUTPUT_MAX_BYTES: Final = 16_384

# `rev-parse --path-format` came with 2.31, the youngest option that is used here.
OLDEST_GIT: Final = (2, 31)

_CHUNK_BYTES: Final = 8_192
_VERSION: Final = re.compile(r"git version (\d+)\.(\d+)")
_KEPT_VARIABLES: Final = ("PATH", "HOME", "XDG_CONFIG_HOME")


class GitResult(msgspec.Struct, frozen=True):
    """How a git command ended. The texts are cut after `OUTPUT_MAX_BYTES` bytes each."""

    code: int
    stdout: str
    stderr: str


def require_git() -> None:
    """Checks once, when a worker starts, that this machine has a git that can be used.

    Raises:
        ConfigurationError: There is no git on PATH, it doesn't start, or it is older than `OLDEST_GIT`.
    """
    wanted = "{}.{}".format(*OLDEST_GIT)
    program = shutil.which("git")
    if program is None:
        raise ConfigurationError(
            f"The queue createbranch needs git {wanted} or newer, and none is on PATH: install it."
        )
    version = _version(program)
    if version < OLDEST_GIT:
        found = "{}.{}".format(*version)
        raise ConfigurationError(
            f"The queue createbranch needs git {wanted}, and {program} is {found}: install a newer one."
        )


def _version(program: str) -> tuple[int, int]:
    try:
        # A fixed argument list, and the program that PATH names.
        answer = subprocess.run([program, "--version"], capture_output=True, check=True, timeout=TIME_LIMIT_S)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigurationError(f"{program} doesn't work ({error}): install git again.") from None
    match = _VERSION.match(answer.stdout.decode(errors="replace"))
    if match is None:
        raise ConfigurationError(f"{program} doesn't answer `--version` as git does: put git first on PATH.")
    return int(match[1]), int(match[2])


async def run_git(*arguments: str, folder: Path = Path(os.sep)) -> GitResult:
    """Runs one git command and returns how it ended, whatever its exit code.

    When the caller is cancelled or the time is over, git is stopped before this returns.

    Args:
        arguments: The command and its arguments, handed over as they are. They must be encodable and free of NUL.
        folder: Where it runs. A repository is looked for there and not in any folder above.

    Raises:
        TaskError: `git-timeout` after `TIME_LIMIT_S` seconds, `git-failed` when it cannot be started; both retryable.
    """
    # Starting is a task of its own: asyncio would answer a cancellation in its midst with SIGKILL (see `_stop`).
    starting = asyncio.ensure_future(_start(arguments, folder))
    output = asyncio.ensure_future(_collect(starting))
    try:
        async with asyncio.timeout(TIME_LIMIT_S):
            return await asyncio.shield(output)
    except TimeoutError:
        message = f"git {arguments[0]} took longer than {TIME_LIMIT_S:g} seconds and was stopped: try again later."
        raise TaskError(message, code="git-timeout", retry=True) from None
    finally:
        if not output.done():
            # A second cancellation must not leave git alive.
            stopping = asyncio.ensure_future(_stop(starting, output))
            await asyncio.shield(stopping)


async def _start(arguments: tuple[str, ...], folder: Path) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            "git",
            *_options(),
            *(argument.encode() for argument in arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=folder,
            env=_environment(folder),
            # A group of its own, so that what git starts can be stopped with it.
            start_new_session=True,
        )
    except OSError as error:
        message = f"git {arguments[0]} could not be started ({error.strerror}): try again later."
        raise TaskError(message, code="git-failed", retry=True) from None


def _options() -> list[str]:
    settings = (
        f"core.hooksPath={os.devnull}",
        "core.fsmonitor=false",
        f"core.filesRefLockTimeout={LOCK_WAIT_MS}",
        "safe.bareRepository=all",
    )
    return ["--no-pager", *(part for setting in settings for part in ("-c", setting))]


def _environment(folder: Path) -> dict[str, str]:
    """What git sees: HOME stays for the worker's own `safe.directory`, every GIT_ variable is set here or absent."""
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    return kept | {
        "LC_ALL": "C",  # its messages are read
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CEILING_DIRECTORIES": str(folder.parent),
        "GIT_ALLOW_PROTOCOL": "none",
        "GIT_NO_LAZY_FETCH": "1",
        # For the reflog: a container's user often has no name.
        "GIT_COMMITTER_NAME": "createbranch",
        "GIT_COMMITTER_EMAIL": "createbranch@localhost",
    }


async def _collect(starting: asyncio.Future[asyncio.subprocess.Process]) -> GitResult:
    process = await starting
    if process.stdout is None or process.stderr is None:
        raise RuntimeError("git was started without pipes.")
    stdout, stderr = await asyncio.gather(_beginning(process.stdout), _beginning(process.stderr))
    return GitResult(await process.wait(), stdout, stderr)


async def _beginning(stream: asyncio.StreamReader) -> str:
    """Reads to the end, since git would block on a full pipe, and keeps the beginning."""
    kept = bytearray()
    while chunk := await stream.read(_CHUNK_BYTES):
        kept += chunk[: OUTPUT_MAX_BYTES - len(kept)]
    return kept.decode(errors="replace")


async def _stop(starting: asyncio.Future[asyncio.subprocess.Process], output: asyncio.Future[GitResult]) -> None:
    """Ends git and waits for it. SIGTERM first: on it git removes its lock file, which would block the branch."""
    await asyncio.wait([starting])
    if starting.exception() is not None:
        return
    process = starting.result()
    _signal(process, signal.SIGTERM)
    await asyncio.wait([output], timeout=STOP_GRACE_S)
    if not output.done():
        _signal(process, signal.SIGKILL)
        await asyncio.wait([output])


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
