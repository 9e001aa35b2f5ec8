"""`MODULE:OBJECT` becomes a worker, or a sentence that says what is wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker.errors import ConfigurationError
from broker.worker import Worker
from broker_services.worker.loading import load_worker_object

Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a module into the current folder, a new one; all is forgotten afterwards."""
    modules, path = dict(sys.modules), list(sys.path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write_module(name: str, text: str) -> None:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    yield write_module
    sys.path[:] = path
    for name in set(sys.modules) - set(modules):
        if (getattr(sys.modules[name], "__file__", None) or "").startswith(str(tmp_path)):
            del sys.modules[name]


def test_a_worker_of_the_current_folder(write: Write) -> None:
    write("loaded_jobs.py", "from broker.worker import Worker\nworker = Worker()\n")
    assert isinstance(load_worker_object("loaded_jobs:worker"), Worker)


def test_dots_in_module_and_object(write: Write) -> None:
    write("loaded_app/__init__.py", "")
    write("loaded_app/jobs.py", "from broker.worker import Worker\nclass Holder:\n    worker = Worker()\n")
    assert isinstance(load_worker_object("loaded_app.jobs:Holder.worker"), Worker)


@pytest.mark.parametrize("target", ["jobs", "jobs:", ":worker", ""])
def test_another_form(target: str) -> None:
    with pytest.raises(ConfigurationError, match="write MODULE:OBJECT, for example `jobs:worker`"):
        load_worker_object(target)


@pytest.mark.parametrize("module", ["loaded_nowhere", "loaded_nowhere.jobs"])
def test_a_missing_module(write: Write, module: str) -> None:
    with pytest.raises(ConfigurationError, match=r"There is no module 'loaded_nowhere'.*was searched"):
        load_worker_object(f"{module}:worker")


@pytest.mark.parametrize("module", ["..jobs", ".", "a..b", "jobs.py/../x"])
def test_a_module_name_that_is_none(write: Write, module: str) -> None:
    with pytest.raises(ConfigurationError):
        load_worker_object(f"{module}:worker")


def test_a_missing_import_inside_the_module_is_named(write: Write) -> None:
    write("loaded_imports.py", "import loaded_elsewhere\n")
    with pytest.raises(ConfigurationError, match="'loaded_imports' failed: No module named 'loaded_elsewhere'"):
        load_worker_object("loaded_imports:worker")


def test_a_module_that_fails_is_told_with_its_line(write: Write) -> None:
    write("loaded_broken.py", "x = 1\ny = x / 0\n")
    with pytest.raises(ConfigurationError, match=r"ZeroDivisionError: division by zero \(.*loaded_broken.py, line 2\)"):
        load_worker_object("loaded_broken:worker")


def test_a_missing_object(write: Write) -> None:
    write("loaded_empty.py", "")
    with pytest.raises(ConfigurationError, match=r"'loaded_empty' .* has no 'worker'"):
        load_worker_object("loaded_empty:worker")


def test_an_object_of_another_kind(write: Write) -> None:
    write("loaded_other.py", "worker = 7\n")
    with pytest.raises(ConfigurationError, match=r"`loaded_other:worker` is a int, not a broker\.Worker"):
        load_worker_object("loaded_other:worker")
