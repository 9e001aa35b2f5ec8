"""The wheel as users install it: every script is in it and loads, and only the packages that belong there are."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import redis

from broker.store import scripts

ROOT = Path(__file__).parents[2]
LUA = ROOT / "broker" / "store" / "lua"

# Run by a Python that sees the unzipped wheel before anything else.
LOAD_ALL = """
import sys, pathlib, redis
sys.path.insert(0, sys.argv[1])
from broker.store import scripts
assert pathlib.Path(scripts.__file__).is_relative_to(sys.argv[1]), scripts.__file__
with redis.Redis.from_url(sys.argv[2], decode_responses=True) as client:
    for script in scripts.ALL:
        assert client.script_load(script.source) == script.digest, script.name
        print(script.name)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, unzipped."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    (archive,) = folder.glob("*.whl")
    unzipped = folder / "unzipped"
    zipfile.ZipFile(archive).extractall(unzipped)
    return unzipped


def test_every_script_and_fragment_is_in_it(wheel: Path) -> None:
    packed = {str(path.relative_to(wheel / "broker/store/lua")) for path in (wheel / "broker").rglob("*.lua")}
    assert packed == {str(path.relative_to(LUA)) for path in LUA.rglob("*.lua")}


def test_every_script_loads_from_it(wheel: Path, redis_url: str) -> None:
    command = [sys.executable, "-I", "-B", "-c", LOAD_ALL, str(wheel), redis_url]
    done = subprocess.run(command, cwd=wheel, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [script.name for script in scripts.ALL]
    with redis.Redis.from_url(redis_url) as client:
        assert client.script_exists(*[script.digest for script in scripts.ALL]) == [True] * len(scripts.ALL)


def test_only_our_packages_are_in_it(wheel: Path) -> None:
    assert {path.name for path in wheel.iterdir() if not path.name.endswith(".dist-info")} == {
        "broker",
        "broker_services",
    }


def test_both_packages_are_typed(wheel: Path) -> None:
    for package in ("broker", "broker_services"):
        assert (wheel / package / "py.typed").is_file()


def test_no_leftovers_of_the_working_folder_are_in_it(wheel: Path) -> None:
    assert not [path for path in wheel.rglob("*") if path.suffix == ".pyc" or path.name == "__pycache__"]


def test_the_command_is_declared(wheel: Path) -> None:
    (entry_points,) = wheel.glob("*.dist-info/entry_points.txt")
    assert "broker = broker_services.cli.main:main" in entry_points.read_text()
