"""Both READMEs are one document, and their tables say what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from broker import handlers, requests
from broker.requests import DEFAULT_MAX_ATTEMPTS
from broker.settings import ENVIRONMENT_PREFIX, Settings
from broker_services.api.operations import OPERATIONS
from broker_services.api.problems import PROBLEMS
from broker_services.api_keys import SCOPES
from broker_services.cli.bench.command import SCENARIO_NAMES
from broker_services.cli.main import cli
from broker_services.worker import git_process
from tests.support.readme import LANGUAGES, README, ROOT, Readme

UNITS = {"_s": ("s", "秒"), "_mb": ("MiB",), "_bytes": ("bytes", "字节")}
SERVICES = ROOT / "services" / "broker_services"
CREATEBRANCH = SERVICES / "worker"
# Files in the folder of a reader who follows the README.
READERS_FILES = ("ask.py", "create.py", "many.py", "jobs.py", "shop.py", "test_shop.py", "app.git")
SYSTEMS = 7
"""That the project takes the place of."""


@pytest.fixture(params=LANGUAGES, ids=lambda paths: paths[0].name)
def readme(request: pytest.FixtureRequest) -> Readme:
    """Each of them."""
    paths: tuple[Path, ...] = request.param
    return Readme(paths)


@pytest.fixture(scope="module")
def english() -> Readme:
    """The one that the other is compared with."""
    return Readme(README)


def test_headings_have_the_same_structure(readme: Readme, english: Readme) -> None:
    assert readme.heading_levels == english.heading_levels


def test_code_blocks_are_the_same(readme: Readme, english: Readme) -> None:
    assert [(block.kind, block.note, block.text) for block in readme.blocks] == [
        (block.kind, block.note, block.text) for block in english.blocks
    ]


def test_tables_have_the_same_rows(readme: Readme, english: Readme) -> None:
    assert [re.findall("`[^`]+`", row[0]) for row in readme.rows(".*`.*")] == [
        re.findall("`[^`]+`", row[0]) for row in english.rows(".*`.*")
    ]


def test_what_it_links_to_exists(readme: Readme) -> None:
    assert readme.links
    for file, heading in readme.links:
        assert (ROOT / file).is_file(), file
        assert not heading or heading in readme.headings_of(file), heading


def test_each_system_has_a_row_with_an_example(readme: Readme) -> None:
    rows = [row for row in readme.rows(".+") if row[-1].startswith("[")]
    assert len(rows) == SYSTEMS


def test_files_it_names_exist(readme: Readme) -> None:
    named = [text for text in readme.quoted if re.fullmatch(r"[\w./-]+\.(yml|conf|acl|example|py)", text)]
    assert "docker-compose.yml" in named
    for name in named:
        assert name in READERS_FILES or (ROOT / name).is_file(), name


def test_settings_table_is_complete_and_right(readme: Readme) -> None:
    rows = readme.rows(r"`BROKER_\w+`")
    expected = zip(Settings.__struct_fields__, Settings.__struct_defaults__, strict=True)
    assert [(row[0], row[1]) for row in rows] == [
        (f"`{ENVIRONMENT_PREFIX}{name.upper()}`", shown(default)) for name, default in expected
    ]
    for name, _, unit, meaning in rows:
        suffix = next((suffix for suffix in UNITS if name.strip("`").lower().endswith(suffix)), None)
        assert unit in UNITS[suffix] if suffix else not unit, name
        assert meaning, name


def shown(default: object) -> str:
    """A default as one would type it, in backticks; nothing where there is none."""
    text = f"{default:.0f}" if isinstance(default, float) else str(default)
    return f"`{text}`" if text else ""


def test_settings_it_names_exist(readme: Readme) -> None:
    names = set(re.findall(rf"\b{ENVIRONMENT_PREFIX}[A-Z_]+[A-Z]\b", readme.prose))
    flags = {option.envvar for command in commands() for option in command.params if isinstance(option, click.Option)}
    assert names <= flags | {f"{ENVIRONMENT_PREFIX}{name.upper()}" for name in Settings.__struct_fields__}


def test_codes_table_is_complete_and_right(readme: Readme) -> None:
    rows = [row for row in readme.rows(r"`[a-z-]+`") if row[1].isdigit()]
    expected = [(f"`{code}`", str(problem.status)) for code, problem in PROBLEMS.items() if code != "internal-error"]
    assert [(code, status) for code, status, _ in rows] == expected


def test_every_operation_is_in_the_table(readme: Readme) -> None:
    calls = {row[0].strip("`") for row in readme.rows(r"`[A-Z]+ /[\w/{}]+`")}
    assert calls == {f"{operation.methods[0]} {operation.path}" for operation in OPERATIONS}


def test_every_field_is_in_its_row(readme: Readme) -> None:
    rows = {row[0].strip("`"): row[1] for row in readme.rows(r"`[A-Z]+ /[\w/{}]+`")}
    for operation in OPERATIONS:
        fields = set(operation.request.__struct_fields__) if operation.request else set()
        row = rows[f"{operation.methods[0]} {operation.path}"]
        assert fields <= set(re.findall("`([^`]+)`", row)), operation.name


@pytest.mark.parametrize(
    ("pattern", "number"),
    [
        (r"`timeout`\*\*[ （(]+(\d+)", handlers.DEFAULT_TIMEOUT_S),
        (r"`concurrency`[ （(]+(\d+)", handlers.DEFAULT_CONCURRENCY),
        (r"1[,、] ?2[,、] ?4 \W* ?(\d+)", requests.BACKOFF_MOST_S),
        (r"(?:else|否则为) (\d+)[.。]", DEFAULT_MAX_ATTEMPTS),
        (r"`git-timeout` \| \D+(\d+)", git_process.TIME_LIMIT_S),
    ],
)
def test_numbers_are_right(readme: Readme, pattern: str, number: float) -> None:
    (found,) = re.findall(pattern, readme.prose)
    assert float(found) == number


def test_every_command_is_in_the_table(readme: Readme) -> None:
    listed = {word for row in readme.rows("`broker .*") for word in re.findall(r"`(?:broker )?([a-z ]+)`", row[0])}
    assert {name.split()[-1] for name in listed} == {command.name for command in commands()}


def commands() -> list[click.Command]:
    """Every command that is not a group."""
    context = click.Context(cli)
    found: list[click.Command] = []
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        found += command.commands.values() if isinstance(command, click.Group) else [command]
    return found


def test_codes_of_the_createbranch_worker_are_complete(readme: Readme) -> None:
    listed = {row[0].strip("`") for row in readme.rows(r"`[a-z-]+`") if len(row) == 2}
    listed -= {*SCOPES, *SCENARIO_NAMES}
    sources = "".join(source.read_text() for source in CREATEBRANCH.glob("*.py"))
    assert listed == set(re.findall(r'\bcode="([a-z-]+)"', sources))


def test_every_metric_is_in_the_table(readme: Readme) -> None:
    rows = {row[0].strip("`") for row in readme.rows(r"`broker_\w+(\{[\w,]+\})?`")}
    sources = "".join((SERVICES / name).read_text() for name in ("metrics.py", "api/metrics.py", "worker/metrics.py"))
    counted = re.findall(r'(gauges?|counters?|histograms|_durations)\(\s*"(broker_\w+)"', sources)
    assert {name for _, name in counted} == set(re.findall(r'"(broker_\w+)"', sources))
    assert {row.partition("{")[0] for row in rows} == {
        name + "_total" * kind.startswith("counter") for kind, name in counted
    }


def test_every_scope_is_in_the_table_with_its_operations(readme: Readme) -> None:
    rows = {row[0].strip("`"): set(re.findall("`([^`]+)`", row[1])) for row in readme.rows(f"`({'|'.join(SCOPES)})`")}
    assert rows == {scope: {operation.name for operation in OPERATIONS if operation.scope == scope} for scope in SCOPES}


def test_every_scenario_of_bench_is_in_the_table(readme: Readme) -> None:
    assert set(SCENARIO_NAMES) <= {row[0].strip("`") for row in readme.rows("`[a-z]+`")}


def test_only_known_kinds_of_blocks(readme: Readme) -> None:
    known = {"", "sh", "sh dev", "sh test", "sh docker", "sh hold", "sh serve"}
    known |= {"text", "json", "json held", "json served", "python", "shell"}
    assert {block.kind for block in readme.blocks} <= known
