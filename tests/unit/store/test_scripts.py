"""The Lua files as texts: headers that tell the truth, no globals, no copies, one caller each."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import redis

import broker
from broker import naming
from broker.store import scripts
from broker.store.codes import Code
from broker.store.scripts import Script

PACKAGE = Path(broker.__file__).parent
LUA = PACKAGE / "store" / "lua"
NAMES = sorted(path.stem for path in LUA.glob("*.lua"))
GATHERING = [script for script in scripts.ALL if "local function write_changes" in script.source]
FRAGMENTS = sorted(path.stem for path in (LUA / "fragments").glob("*.lua"))

KEYWORDS = {
    *("and", "break", "do", "else", "elseif", "end", "false", "for", "function", "if", "in", "local", "nil", "not"),
    *("or", "repeat", "return", "then", "true", "until", "while"),
}
# What Redis gives to scripts; anything else that is read or written without `local` is a leaked global.
LIBRARY = {
    *("redis", "KEYS", "ARGV", "math", "string", "table", "tonumber", "tostring", "ipairs", "pairs", "unpack", "type"),
    *("select", "next", "pcall", "error", "cmsgpack", "struct"),
}


def text_of(name: str) -> str:
    return (LUA / f"{name}.lua").read_text()


def header_of(name: str) -> str:
    """The comment lines on top."""
    lines = text_of(name).splitlines()[1:]
    end = next(number for number, line in enumerate(lines) if not line.startswith("--"))
    return "\n".join(lines[:end])


def code_of(text: str) -> str:
    """Without comments and strings."""
    without_strings = re.sub(r"'(?:[^'\\\n]|\\.)*'", "''", text)
    return re.sub(r"--.*", "", without_strings)


def test_every_file_is_a_script_that_is_loaded() -> None:
    assert sorted(script.name for script in scripts.ALL) == NAMES


def test_every_fragment_is_used() -> None:
    texts = [path.read_text() for path in LUA.rglob("*.lua")]
    lines = [line for text in texts for line in re.findall(r"^ *-- @include (.*)$", text, re.MULTILINE)]
    assert {name for line in lines for name in line.split()} == set(FRAGMENTS)


@pytest.mark.parametrize("name", NAMES)
def test_a_header_lists_keys_arguments_and_answers(name: str) -> None:
    header = header_of(name)
    for part in (r"^-- KEYS\[1\]\s+\S", r"^-- ARGV\s+\S", r"^-- returns\s+\S"):
        assert re.search(part, header, re.MULTILINE), f"{name}: {part}"


@pytest.mark.parametrize("name", NAMES)
def test_a_header_lists_every_argument_that_is_read(name: str) -> None:
    listed = {int(number) for number in re.findall(r"(?:ARGV|   )\s*(\d+) ", header_of(name))}
    read = {int(number) for number in re.findall(r"ARGV\[(\d+)\]", text_of(name))}
    assert read <= listed
    if read:
        assert listed == set(range(1, max(listed) + 1))


@pytest.mark.parametrize("name", NAMES)
def test_the_flags(name: str) -> None:
    """A full store takes no new tasks, and must drain by all other ways."""
    expected = {
        **dict.fromkeys(("create_tasks", "retry_task", "take_exclusive_wait", "publish_value"), "#!lua"),
        **dict.fromkeys(
            ("read_task", "read_tasks", "find_ended", "list_tasks", "read_queues", "may_hear"), "#!lua flags=no-writes"
        ),
        **dict.fromkeys(
            ("find_fileless", "read_values", "read_changes", "read_events", "find_events"), "#!lua flags=no-writes"
        ),
    }
    assert text_of(name).splitlines()[0] == expected.get(name, "#!lua flags=allow-oom")


@pytest.mark.parametrize("name", NAMES)
def test_the_key_is_the_first_of_one_slot(name: str) -> None:
    script = Script(name)
    arguments = script.command("{broker}:k", "a", 1, b"b", repeatable=False).arguments
    assert arguments == ("EVALSHA", script.digest, 1, "{broker}:k", "a", 1, b"b")
    assert len(script.digest) == 40


@pytest.mark.parametrize("name", NAMES)
def test_the_whole_text_is_sent_where_the_digest_is_unknown(name: str) -> None:
    script = Script(name)
    command = script.command("k", "a", repeatable=True)
    assert command.repeatable
    assert command.if_unknown is not None
    assert command.if_unknown() == ("EVAL", script.source, 1, "k", "a")


@pytest.mark.parametrize("path", sorted(LUA.rglob("*.lua")), ids=lambda path: path.stem)
def test_no_script_spells_a_name(path: Path) -> None:
    code = re.sub(r"--.*", "", path.read_text())
    assert naming.KEY_PREFIX not in code
    assert "broker" not in code
    assert naming.REQUEST_INFIX not in code
    assert naming.RESPONSE_INFIX not in code


@pytest.mark.parametrize("path", sorted(LUA.rglob("*.lua")), ids=lambda path: path.stem)
def test_no_script_decodes_json_or_searches_for_keys(path: Path) -> None:
    code = code_of(path.read_text())
    assert "cjson" not in code
    assert not re.search(r"'(KEYS|SCAN)'", path.read_text())


@pytest.mark.parametrize(
    ("text", "literal"),
    [
        ("return { CHANGED, nil }", f"return {{ {Code.CHANGED.value}, nil }}"),
        ("redis.call('HGET', TASKS, uuid)", "redis.call('HGET', '{broker}:tasks', uuid)"),
        ("queue .. REQUEST .. uuid", "queue .. '-request-' .. uuid"),
        ("record.queue = old.queue", "record[2] = old[2]"),
        ("limits.queue, MOST_DROPS, ARGV[1]", "limits.queue, MOST_DROPS, ARGV[1]"),
        ("'TASKS' -- TASKS record.queue", "'TASKS' -- TASKS record.queue"),
    ],
)
def test_names_codes_and_parts_of_records_become_literals(text: str, literal: str) -> None:
    assert scripts.with_literals(text) == literal


def test_an_unknown_part_of_a_record_is_no_script() -> None:
    with pytest.raises(KeyError, match="no_such_part"):
        scripts.with_literals("record.no_such_part")


def test_what_a_function_includes_is_made_only_when_it_runs() -> None:
    source = scripts.CLAIM_TASKS.source
    assert "\n  local function settle(" in source
    assert "\nlocal function settle(" not in source
    # What the whole script has already is not joined in again.
    assert source.count("local function read_record(") == 1


@pytest.mark.parametrize("script", scripts.ALL, ids=lambda script: script.name)
def test_no_fragment_is_joined_in_twice(script: Script) -> None:
    functions = re.findall(r"^local function (\w+)", script.source, re.MULTILINE)
    assert len(functions) == len(set(functions))


@pytest.mark.parametrize("script", scripts.ALL, ids=lambda script: script.name)
def test_no_script_leaks_a_global(script: Script) -> None:
    """The server refuses globals only when that line runs; here every line is looked at."""
    code = code_of(script.source.partition("\n")[2]).replace("..", " ")
    without_members = re.sub(r"\{[^{}]*\}", lambda table: re.sub(r"\w+\s*=(?!=)", "", table[0]), code)
    used = set(re.findall(r"(?<![.:\w])([A-Za-z_]\w*)", without_members))
    assert used - declared_in(code) - KEYWORDS - LIBRARY == set()


def declared_in(code: str) -> set[str]:
    """Locals, functions, parameters and loop variables."""
    lists = re.findall(r"\blocal\s+(?!function\b)([\w\s,]+?)(?:=|\n|$)", code)
    lists += re.findall(r"\bfor\s+([\w\s,]+?)\s*(?:=|\bin\b)", code)
    lists += re.findall(r"\blocal\s+function\s+(\w+)", code)
    lists += re.findall(r"\bfunction\s*\w*\s*\(([^)]*)\)", code)
    return {name.strip() for names in lists for name in names.split(",")}


@pytest.mark.parametrize("script", GATHERING, ids=lambda script: script.name)
def test_what_a_script_gathers_it_writes(script: Script) -> None:
    """Else a state would change and its indexes would not; those that change nothing cannot forget it."""
    if "no-writes" not in script.source.splitlines()[0]:
        assert "write_changes()" in code_of(text_of(script.name))


def test_every_script_compiles(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        for script in scripts.ALL:
            assert client.script_load(script.source) == script.digest


def test_each_script_has_one_caller() -> None:
    """A second one would be a second idea of its arguments."""
    sources = {path: path.read_text() for path in PACKAGE.rglob("*.py") if path.name != "scripts.py"}
    for name in NAMES:
        callers = [
            (path.name, count)
            for path, text in sources.items()
            if (count := len(re.findall(rf"scripts\.{name.upper()}\b(?!\.source)", text)))
        ]
        assert [count for _, count in callers] == [1], f"{name}: {callers}"
