"""`./start`: when the environment is made, that half of one is never used, and what the lock files contain."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import threading
import tomllib
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

Calls = list[str]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module whose project is an empty one below `tmp_path`."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    loader = SourceFileLoader("start_script", str(ROOT / "start"))
    spec = importlib.util.spec_from_loader("start_script", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    venv = tmp_path / ".venv"
    paths = {
        "ROOT": tmp_path,
        "VENV": venv,
        "VENV_PYTHON": venv / "bin" / "python",
        "STAMP": venv / "made-from.json",
        "PROJECT": tmp_path / "pyproject.toml",
        "RUNTIME_LOCK": tmp_path / "deploy" / "requirements.txt",
        "LOCK": tmp_path / "tests" / "requirements.txt",
    }
    for name, path in paths.items():
        monkeypatch.setattr(module, name, path)
    (tmp_path / "pyproject.toml").write_text('[build-system]\nrequires = ["hatchling"]\n')
    for folder in ("tests", "deploy"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "requirements.txt").write_text("a==1 --hash=sha256:0\n")
    return module


@pytest.fixture
def calls(start: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Calls:
    """Notes what would be done to the environment, and does none of it but to make an empty folder."""
    made: Calls = []

    def make_empty_environment() -> list[str]:
        made.append("empty")
        start.remove_environment()
        start.VENV_PYTHON.parent.mkdir(parents=True)
        start.VENV_PYTHON.touch()
        return ["installer"]

    monkeypatch.setattr(start, "make_empty_environment", make_empty_environment)
    monkeypatch.setattr(start, "installer", lambda: ["installer"])
    monkeypatch.setattr(start, "install_packages", lambda _: made.append("packages"))
    monkeypatch.setattr(start, "install_project", lambda _: made.append("project"))
    return made


# The environment ------------------------------------------------------------------------------------------------------


def test_the_first_use_makes_everything(start: ModuleType, calls: Calls) -> None:
    start.make_environment()
    assert calls == ["empty", "packages", "project"]


def test_the_second_use_makes_nothing(start: ModuleType, calls: Calls) -> None:
    start.make_environment()
    calls.clear()
    start.make_environment()
    assert calls == []


def test_another_lock_file_makes_everything_again(start: ModuleType, calls: Calls) -> None:
    start.make_environment()
    calls.clear()
    start.LOCK.write_text("a==2 --hash=sha256:1\n")
    start.make_environment()
    assert calls == ["empty", "packages", "project"]


def test_another_python_makes_everything_again(
    start: ModuleType, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    start.make_environment()
    calls.clear()
    monkeypatch.setattr(sys, "base_prefix", "/another/python")
    start.make_environment()
    assert calls == ["empty", "packages", "project"]


def test_a_python_that_is_gone_makes_everything_again(start: ModuleType, calls: Calls) -> None:
    start.make_environment()
    calls.clear()
    start.VENV_PYTHON.unlink()
    start.make_environment()
    assert calls == ["empty", "packages", "project"]


def test_a_changed_project_file_installs_the_project_only(start: ModuleType, calls: Calls) -> None:
    start.make_environment()
    calls.clear()
    start.PROJECT.write_text("[project]\n")
    start.make_environment()
    assert calls == ["project"]


@pytest.mark.parametrize("step", ["install_packages", "install_project"])
def test_an_interrupted_attempt_is_made_again(
    start: ModuleType, calls: Calls, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def interrupt(_: list[str]) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(start, step, interrupt)
        with pytest.raises(KeyboardInterrupt):
            start.make_environment()
    calls.clear()
    start.make_environment()
    assert calls == ["empty", "packages", "project"]


@pytest.mark.parametrize("content", ["", "[]", '{"packages": ['])
def test_a_stamp_that_cannot_be_read_counts_as_none(start: ModuleType, calls: Calls, content: str) -> None:
    start.make_environment()
    calls.clear()
    start.STAMP.write_text(content)
    start.make_environment()
    assert calls == ["empty", "packages", "project"]


def test_of_two_at_once_one_makes_it(start: ModuleType, calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def install_packages(_: list[str]) -> None:
        calls.append("packages")
        begun.set()
        assert go_on.wait(10)

    monkeypatch.setattr(start, "install_packages", install_packages)
    both = [threading.Thread(target=start.make_environment) for _ in range(2)]
    for one in both:
        one.start()
    assert begun.wait(10)
    go_on.set()
    for one in both:
        one.join(10)
    assert calls == ["empty", "packages", "project"]


def test_a_linked_environment_is_left_alone(start: ModuleType, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    start.VENV.symlink_to(elsewhere)
    with pytest.raises(start.StartError, match="is a symbolic link: remove it"):
        start.remove_environment()
    assert elsewhere.exists()


# Installers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("works", "expected"),
    [
        (lambda command: "--python" not in command, "own"),
        (lambda command: "--python" in command, "of this Python"),
        (lambda command: False, "uv"),
    ],
)
def test_the_first_installer_that_works_is_taken(
    start: ModuleType, monkeypatch: pytest.MonkeyPatch, works: Any, expected: str
) -> None:
    monkeypatch.setattr(start, "succeeds", works)
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    command = start.installer()
    kind = "uv" if command[0] == "uv" else "of this Python" if command[0] == sys.executable else "own"
    assert kind == expected
    assert str(start.VENV_PYTHON) in command


def test_without_an_installer_it_says_what_to_install(start: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "succeeds", lambda _: False)
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(start.StartError, match="apt install python3-venv"):
        start.installer()


def test_a_python_without_ensurepip_makes_an_environment_without_pip(
    start: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(start, "call", lambda command, _: commands.append(command))
    monkeypatch.setattr(start, "installer", lambda: ["installer"])
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert start.make_empty_environment() == ["installer"]
    assert "--without-pip" in commands[0]


def test_packages_are_compared_with_their_hashes(start: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    monkeypatch.setattr(start, "call", lambda command, _: commands.append(command))
    start.install_packages(["installer"])
    start.install_project(["installer"])
    assert {"--require-hashes", "--no-deps"} <= set(commands[0])
    assert {"--no-deps", "--no-build-isolation"} <= set(commands[1])


# Commands -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def checks(start: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The checks that `./start test` runs. None of them really; mypy fails when the list holds ("fail",)."""
    done: list[tuple[str, ...]] = []

    def run(command: list[str], **_: Any) -> int:
        check = (Path(command[0]).name, *command[1:])
        failing = ("fail",) in done and check[0] == "mypy"
        done.append(check)
        return 7 if failing else 0

    monkeypatch.chdir(start.ROOT)
    monkeypatch.setattr(start, "make_environment", lambda: None)
    monkeypatch.setattr("subprocess.call", run)
    return done


def test_the_gate_runs_every_check_in_order(start: ModuleType, checks: list[tuple[str, ...]]) -> None:
    assert start.main(["test"]) == 0
    assert [check[0] for check in checks] == ["ruff", "ruff", "mypy", "mypy", "lint-imports", "python"]
    assert "--cov" not in checks[-1]


def test_the_gate_stops_at_the_first_failure(start: ModuleType, checks: list[tuple[str, ...]]) -> None:
    checks.append(("fail",))
    assert start.main(["test"]) == 7
    assert checks[-1] == ("mypy",)


def test_a_part_of_the_tests_can_be_chosen(start: ModuleType, checks: list[tuple[str, ...]]) -> None:
    assert start.main(["test", "-k", "one"]) == 0
    assert checks[-1][-2:] == ("-k", "one")


def test_the_coverage_is_measured_by_a_command_of_its_own(
    start: ModuleType, checks: list[tuple[str, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert start.main(["coverage"]) == 0
    assert [check[0] for check in checks] == ["python"]
    assert {"--cov", *start.TESTS[1:]} <= set(checks[0])
    checks.clear()
    assert start.main(["coverage", "-k", "one"]) == 1
    assert not checks
    assert "takes no arguments" in capsys.readouterr().err


def test_dev_becomes_the_installed_command(start: ModuleType, calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    executed: list[Any] = []
    monkeypatch.setattr("os.execv", lambda *command: executed.extend(command))
    start.dev(["--port", "9000"])
    assert executed == [start.VENV / "bin" / "broker", ["broker", "dev", "--port", "9000"]]
    assert calls[-1] == "project"


def test_an_unknown_command_shows_the_help(start: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert start.main(["unknown"]) == 2
    assert start.main([]) == 0
    assert "./start test" in capsys.readouterr().out


def test_a_problem_is_a_sentence_and_exit_code_1(
    start: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert start.main(["lock"]) == 1
    assert capsys.readouterr().err.startswith("./start: uv makes the lock files, and there is none on PATH")


def test_a_command_that_fails_is_a_problem(start: ModuleType) -> None:
    with pytest.raises(start.StartError, match="It failed; what it printed tells why"):
        start.call([sys.executable, "-c", "raise SystemExit(3)"], "It failed")


def test_an_old_python_hands_over_to_a_newer_one(start: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    executed: list[Any] = []
    monkeypatch.setattr(sys, "version_info", (3, 9, 2))
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(start, "succeeds", lambda command: command[0] == "/bin/python3.12")
    monkeypatch.setattr("os.execv", lambda *command: executed.append(command[0]))
    with pytest.raises(start.StartError):  # where the real execv does not return
        start.use_new_enough_python()
    assert executed == ["/bin/python3.12"]


def test_an_old_python_alone_is_told(start: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 2))
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(start.StartError, match=r"This is Python 3\.9, and 3\.11 or later is needed"):
        start.use_new_enough_python()


def test_the_script_can_be_executed() -> None:
    done = subprocess.run([ROOT / "start", "--help"], capture_output=True, text=True, check=True)
    assert "./start dev" in done.stdout


# Lock files -----------------------------------------------------------------------------------------------------------


def test_a_lock_that_would_name_a_host_is_refused(start: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "call", lambda *_, **__: None)
    start.LOCK.write_text("a @ https://example.org/a.whl\n")
    with pytest.raises(start.StartError, match="names a host"):
        start.compile_lock(start.LOCK, [], "pyproject.toml")


def test_both_lock_files_are_made_runtime_first(start: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, str]] = []

    def call(command: list[str], _: str, *, typed: str = "") -> None:
        made.append((command[command.index("--output-file") + 1], typed))

    monkeypatch.chdir(start.ROOT)
    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setattr(start, "call", call)
    assert start.main(["lock", "--upgrade"]) == 0
    assert made == [("deploy/requirements.txt", ""), ("tests/requirements.txt", "hatchling")]


def pinned(path: str) -> dict[str, str]:
    """Name → version of a lock file."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / path).read_text(), re.MULTILINE))


@pytest.mark.parametrize("path", ["deploy/requirements.txt", "tests/requirements.txt"])
def test_a_lock_file_names_no_host_and_no_folder(path: str) -> None:
    text = (ROOT / path).read_text()
    assert "://" not in text
    assert not re.search(r"^ *--(index|extra-index|find-links|trusted)", text, re.MULTILINE)
    assert not re.search(r"(^|[\s=])/[a-z]", text)


@pytest.mark.parametrize("path", ["deploy/requirements.txt", "tests/requirements.txt"])
def test_every_pinned_package_has_a_hash(path: str) -> None:
    requirements = (ROOT / path).read_text().replace("\\\n", " ").splitlines()
    pins = [line for line in requirements if line[:1].isalnum()]
    assert pins
    assert all("--hash=sha256:" in line for line in pins)


def test_the_image_gets_the_versions_that_are_tested() -> None:
    runtime, tested = pinned("deploy/requirements.txt"), pinned("tests/requirements.txt")
    assert runtime.items() <= tested.items()


def test_the_lock_files_cover_what_the_project_requires() -> None:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project = document["project"]
    groups = [*project["optional-dependencies"].values(), document["dependency-groups"]["dev"]]
    assert names(project["dependencies"]) <= pinned("deploy/requirements.txt").keys()
    everything = [*document["build-system"]["requires"], *(name for group in groups for name in group)]
    assert names(everything) <= pinned("tests/requirements.txt").keys()


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[^A-Za-z0-9-]", requirement)[0].lower() for requirement in requirements}
