"""The functions of sql/functions: applied when their text is new, beside a release that calls them already."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Sequence
from pathlib import Path

import psycopg
import pytest

from kelpie_api.app import create_app
from kelpie_api.config import Config
from kelpie_api.db import SQL_FOLDER, Database
from kelpie_api.errors import SchemaError
from kelpie_api.migrations import Function, Migration, known, known_functions, migrate, problem
from local_stack.schema import dump
from tests.helpers import at_once, claimed_id, make_job, make_tenant

NEXT = len(known()) + 1
ANSWER = "create or replace function answer() returns integer language sql immutable as 'select {}'"
# The last release whose migrations held the functions: its sql/migrations, from `git archive`.
EARLIER = Path(__file__).parent / "migrations_with_functions.tar.gz"


def answers(number: int) -> Function:
    """A function of the same name and signature for every number."""
    return Function("answer", ANSWER.format(number))


def apply(
    url: str, functions: Sequence[Function] | None = None, migrations: Sequence[Migration] | None = None
) -> list[str]:
    """What a run applied."""
    return [line.removeprefix("applied ") for line in said(url, functions, migrations)[:-1]]


def said(
    url: str, functions: Sequence[Function] | None = None, migrations: Sequence[Migration] | None = None
) -> list[str]:
    lines: list[str] = []
    migrate(url, lines.append, migrations, functions)
    return lines


def by_hand(url: str, statement: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(statement.encode())


def asked(url: str, question: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(question.encode()).fetchone()
    return row and row[0]


def refusal(url: str, function: Function) -> str:
    with pytest.raises(SchemaError) as refused:
        apply(url, [function])
    return str(refused.value)


@pytest.fixture
def migrated(empty_database: str) -> str:
    """A migrated database with one function more, which answers 1."""
    apply(empty_database, [*known_functions(), answers(1)])
    return empty_database


def test_a_function_is_applied_once_until_its_text_changes(migrated: str) -> None:
    assert apply(migrated, [answers(1)]) == []
    assert apply(migrated, [answers(2)]) == ["function answer"]
    assert asked(migrated, "select answer()") == 2


def test_an_earlier_release_that_migrates_puts_no_older_text_back(migrated: str) -> None:
    apply(migrated, [answers(2)])
    assert apply(migrated, [answers(1)]) == []
    assert asked(migrated, "select answer()") == 2


def test_a_text_that_is_left_out_because_a_later_one_is_there_is_named(migrated: str) -> None:
    """Be it an earlier release that migrates, or a release that went back to an earlier text."""
    apply(migrated, [answers(2)])
    (line,) = said(migrated, [answers(1)])
    assert f"version {len(known())}; left as a later text made them: answer; to go back" in line
    assert said(migrated, [answers(2)]) == [f"the schema is at version {len(known())}"]
    assert apply(migrated, [Function("answer", answers(1).text + " -- again")]) == ["function answer"]
    assert asked(migrated, "select answer()") == 1


@pytest.mark.parametrize(
    "change",
    [
        "drop function answer()",
        ANSWER.format(7),
        ANSWER.format(1).replace("immutable", "volatile"),
        "alter function answer() set work_mem = '64kB'",
        "drop function answer(); create function answer() returns integer return 1",
    ],
)
def test_a_function_that_was_dropped_or_replaced_by_hand_is_applied_again(migrated: str, change: str) -> None:
    wanted = sources(migrated)
    by_hand(migrated, change)
    assert apply(migrated, [*known_functions(), answers(1)]) == ["function answer"]
    assert sources(migrated) == wanted
    assert apply(migrated, [*known_functions(), answers(1)]) == []


def test_a_function_that_was_dropped_by_hand_is_applied_by_an_earlier_release_too(migrated: str) -> None:
    apply(migrated, [answers(2)])
    by_hand(migrated, "drop function answer()")
    assert apply(migrated, [answers(1)]) == ["function answer"]
    assert asked(migrated, "select answer()") == 1


def test_functions_of_which_a_former_release_noted_no_more_than_the_text_are_applied_once_more(
    migrated: str,
) -> None:
    by_hand(migrated, "alter table schema_functions drop column made")
    by_hand(migrated, ANSWER.format(7))
    assert "function answer" in apply(migrated, [answers(1)])
    assert apply(migrated, [answers(1)]) == []
    assert asked(migrated, "select answer()") == 1


def test_a_run_with_nothing_to_do_waits_for_no_backup(migrated: str) -> None:
    with psycopg.connect(migrated) as backup:
        backup.execute("lock table schema_migrations, schema_functions in access share mode")
        assert apply(migrated, [*known_functions(), answers(1)]) == []


def test_functions_and_the_last_step_are_applied_together_or_not_at_all(migrated: str) -> None:
    step = Migration(NEXT, "of_the_future", "create table future (only_row integer)")
    uses_it = Function(
        "answer", "create or replace function answer() returns integer language sql as 'select only_row from {}'"
    )
    broken = Function("answer", uses_it.text.format("nowhere"))
    with pytest.raises(psycopg.errors.UndefinedTable):
        apply(migrated, [broken], [*known(), step])
    assert asked(migrated, "select to_regclass('future')") is None
    assert asked(migrated, "select max(version) from schema_migrations") == len(known())
    assert asked(migrated, "select answer()") == 1
    mended = Function("answer", uses_it.text.format("future"))
    assert apply(migrated, [mended], [*known(), step]) == ["of_the_future", "function answer"]


def test_functions_may_call_each_other_in_any_order(migrated: str) -> None:
    first = Function("a", "create or replace function a() returns integer language sql as 'select z() + 1'")
    last = Function("z", "create or replace function z() returns integer language sql as 'select 1'")
    apply(migrated, [first, last])
    assert asked(migrated, "select a()") == 2


def test_hosts_that_migrate_at_once_apply_a_function_once(migrated: str) -> None:
    said = at_once([lambda: apply(migrated, [answers(2)])] * 6)
    assert sorted(said) == [[]] * 5 + [["function answer"]]


@pytest.mark.parametrize(
    "changed",
    [
        "create or replace function answer() returns bigint language sql as 'select 1::bigint'",
        "create or replace function answer(n integer) returns integer language sql as 'select n'",
        "create or replace function answer(n integer default 1) returns integer language sql as 'select n'",
    ],
)
def test_a_changed_signature_is_refused_with_a_sentence(migrated: str, changed: str) -> None:
    sentence = refusal(migrated, Function("answer", changed))
    assert sentence.startswith(
        "functions/answer.sql changes the arguments or the result of answer, which the running"
    )
    assert "give the changed function a new name." in sentence
    assert asked(migrated, "select answer()") == 1


def test_a_function_with_another_signature_that_was_made_by_hand_is_refused(migrated: str) -> None:
    by_hand(migrated, "drop function answer(); create function answer() returns text return 'one'")
    assert "If the one that is there was made by hand, drop it instead." in refusal(migrated, answers(1))


def test_a_renamed_argument_is_a_changed_signature(migrated: str) -> None:
    text = "create or replace function twice({0} integer) returns integer language sql as 'select 2 * {0}'"
    apply(migrated, [Function("twice", text.format("n"))])
    assert "changes the arguments" in refusal(migrated, Function("twice", text.format("number")))


def test_a_file_that_creates_another_function_than_it_is_named_after_is_refused(migrated: str) -> None:
    assert refusal(migrated, Function("other", ANSWER.format(1))) == (
        "functions/other.sql creates no function of that name."
    )


class TestAProgram:
    def config(self, url: str) -> Config:
        return Config(database_url=url, secret_key="x" * 32)

    def test_does_not_start_where_a_function_that_it_calls_is_missing(self, migrated: str) -> None:
        with psycopg.connect(migrated) as connection:
            connection.execute("drop function claims_ended")
        with pytest.raises(
            SchemaError, match=r"lacks claims_ended, which this release calls; run scripts/migrate"
        ):
            create_app(self.config(migrated))

    def test_goes_on_beside_a_function_that_a_newer_release_applied(self, migrated: str) -> None:
        lapsed = (SQL_FOLDER / "functions" / "lapsed.sql").read_text()
        apply(migrated, [Function("lapsed", lapsed + "-- changed"), answers(2)])
        with psycopg.connect(migrated) as connection:
            assert problem(connection) is None

    def test_claims_and_reports_while_functions_are_applied(self, migrated: str) -> None:
        """The running release: its sessions keep their plans until a function changes under them."""
        db = Database(migrated, connections=2)
        db.open()
        tenant = make_tenant(db, "acme", "default")
        for turn in range(3):
            job_id = make_job(db, tenant)
            changed = [Function(each.name, f"{each.text}-- turn {turn}") for each in known_functions()]
            assert len(apply(migrated, changed)) == len(changed)
            assert claimed_id(db, tenant, f"m{turn}") == job_id
        db.close()


def earlier_migrations() -> list[Migration]:
    with tarfile.open(EARLIER) as archive:
        files = [member for member in archive.getmembers() if member.isfile()]
        texts = {Path(file.name).stem: archive.extractfile(file).read().decode() for file in files}  # type: ignore[union-attr]
    return [Migration(int(name[:4]), name, text) for name, text in sorted(texts.items())]


def sources(url: str) -> dict[str, str]:
    """Each function of a database as Postgres knows it, body and settings."""
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "select oid::regprocedure::text, pg_get_functiondef(oid) from pg_proc"
            " where pronamespace = 'public'::regnamespace"
        )
        return dict(found.fetchall())


def schema(url: str) -> str:
    with psycopg.connect(url) as connection:
        return dump(connection)


@pytest.mark.parametrize("applied", [6, 12, 18])
def test_a_database_of_the_release_before_becomes_what_a_new_one_is(
    migrated_url: str, empty_database: str, applied: int
) -> None:
    """Six: before there were lanes, which a migration fills in by itself."""
    apply(empty_database, [], earlier_migrations()[:applied])
    apply(empty_database)
    assert schema(empty_database) == schema(migrated_url)
    assert sources(empty_database) == sources(migrated_url)


@pytest.mark.parametrize("function", known_functions(), ids=lambda function: function.name)
def test_a_file_has_one_function_which_may_be_applied_anew(function: Function) -> None:
    assert re.findall(r"^create .*?(\w+)\(", function.text, re.MULTILINE) == [function.name]
    assert f"create or replace function {function.name}(" in function.text


def test_no_migration_after_that_has_the_source_of_a_function() -> None:
    """A function of a trigger or a view is declared where that is made, with a body that does nothing."""
    for step in known():
        for declared in re.findall(r"create (?:or replace )?function.*", step.text):
            assert re.fullmatch(
                r"create function \w+\(\) returns trigger language plpgsql as 'begin return (new|null); end';"
                r"|create function \w+\([\w, ]+\) returns (\S+) language sql stable as 'select null::\2';",
                declared,
            ), step.name
