"""Let container groups follow their queues: apply the scaling rules once, or every --interval seconds.

The exit code is not zero if a rule could not be applied; with --interval it is zero once the program is stopped.
Where the autoscaler runs already, on whatever host, this leaves the rules to it.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

import click

from kelpie_api import logs
from kelpie_api.config import Config
from kelpie_api.database_check import refuse_unfit_database
from kelpie_api.db import Database, Row
from kelpie_api.errors import ConfigError, KelpieError, SchemaError
from kelpie_api.salad.client import Salad
from kelpie_api.salad.request_budget import AUTOSCALER, RequestBudget
from kelpie_api.scaling.autoscaler import Autoscaler, RuleResult, RunInProgress, all_applied, repeat
from kelpie_api.scaling.decision import Action, Demand
from kelpie_api.scaling.groups import ContainerGroups

COLUMNS = ("group", "id", "active", "warm", "observed", "decision", "why")


@click.command(help=__doc__)
@click.option("--interval", type=click.IntRange(min=1), metavar="SECONDS", help="Run again and again.")
@click.option("--rule", type=click.UUID, metavar="ID", help="Apply the rule of one container group only.")
@click.option("--dry-run", is_flag=True, help="Print what would be decided; change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON line for each rule instead of a table.")
def main(interval: int | None, rule: UUID | None, dry_run: bool, as_json: bool) -> None:
    config = settings()
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    db = Database(config.database_url)
    salad, key = Salad(config.salad_api_url), config.salad_api_key or ""
    autoscaler = Autoscaler(db, ContainerGroups(salad, key, stopped, RequestBudget(db, AUTOSCALER)), stopped)

    def run() -> list[RuleResult]:
        results = autoscaler.dry_run(rule) if dry_run else autoscaler.run(rule)
        show("".join(lines(results, as_json)))
        return results

    db.open()
    try:
        if rule and not autoscaler.rule_exists(rule):
            raise click.ClickException(f"The container group {rule} has no scaling rule.")
        if interval:
            repeat(run, stopped, timedelta(seconds=interval))
        else:
            sys.exit(0 if all_applied(run()) and not stopped.is_set() else 1)
    except RunInProgress as elsewhere:
        click.echo(str(elsewhere), err=True)
    except KelpieError as error:
        raise click.ClickException(error.message) from None
    finally:
        db.close()


def settings() -> Config:
    try:
        config = Config.from_env(os.environ, needed=["SALAD_API_KEY"])
        logs.configure(config.log_level)
        refuse_unfit_database(config)
    except (ConfigError, SchemaError) as error:
        raise click.ClickException(str(error)) from None
    return config


def show(text: str) -> None:
    """Print a line. A closed output must not end the program, for the decisions are recorded already."""
    try:
        click.echo(text, nl=False)
    except OSError as error:
        logs.warning("output_lost", message=f"The output was closed: {error}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def lines(results: Sequence[RuleResult], as_json: bool) -> list[str]:
    if as_json:
        return [f"{json.dumps(result.as_row(), default=str)}\n" for result in results]
    rows = [COLUMNS, *(cells(result) for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() + "\n" for row in rows]


def cells(result: RuleResult) -> tuple[str, ...]:
    seen, demand, decision = result.observed, result.demand, result.decision
    return (
        str(result.rule["container_group_name"]),
        str(result.rule["container_group_id"]),
        str(demand.active) if demand else "?",
        str(demand.warm) if demand else "?",
        f"{seen.state}, {seen.replicas}" if seen else "?",
        "failed" if result.error else f"{decision.action}, {decision.replicas}" if decision else "?",
        why(result),
    )


def why(result: RuleResult) -> str:
    if result.error:
        return result.error
    if result.rule_moved:
        return "the rule was changed or removed meanwhile; the next run applies what it says then"
    if result.demand is None:
        return "Salad did not know the group in three runs"
    if result.decision and result.decision.action == Action.HOLD and not result.demand.leases:
        return "the group got something to do right before it was to be stopped"
    return reasons(result.demand, result.rule)


def reasons(demand: Demand, rule: Row) -> str:
    """The numbers that decided: what was wanted, and the limit that it met."""
    said = [f"{demand.active} active"]
    if demand.warm > demand.active:
        said.append(f"{demand.warm} warm")
    if demand.leases:
        said.append(f"{demand.leases} leases")
    if rule["min_replicas"]:
        said.append(f"at least {rule['min_replicas']}")
    said.append(f"at most {rule['max_replicas']}")
    return ", ".join(said)
