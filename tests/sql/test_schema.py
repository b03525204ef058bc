"""What is generated from the migrations is current."""

import re

import psycopg

from kelpie_api.db import SQL_FOLDER
from local_stack.schema import drawing, dump, redrawn
from tests.helpers import EMPTY


def test_schema_sql_is_what_the_migrations_make(migrated_url: str) -> None:
    with psycopg.connect(migrated_url) as connection:
        assert (SQL_FOLDER / "schema.sql").read_text() == dump(connection), "run scripts/schema"


def test_the_drawing_of_the_states_is_the_table_of_transitions(migrated_url: str) -> None:
    page = (SQL_FOLDER / "README.md").read_text()
    with psycopg.connect(migrated_url) as connection:
        assert page == redrawn(page, drawing(connection)), "run scripts/schema"


def test_every_table_is_emptied_before_a_test(migrated_url: str) -> None:
    with psycopg.connect(migrated_url) as connection:
        tables = connection.execute("select tablename from pg_tables where schemaname = 'public'").fetchall()
    stay = {"schema_migrations", "schema_functions", "job_transitions", "coordinator", "since_crash"}
    assert {name for (name,) in tables if not re.search(rf"delete from {name}\b", EMPTY)} == stay
