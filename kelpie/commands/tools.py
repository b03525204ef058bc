"""api, open, completion."""

from __future__ import annotations

import json
import sys
import webbrowser
from typing import Any

import click
from click.shell_completion import get_completion_class

from kelpie.commands.common import client, page
from kelpie.commands.look import found_newest
from kelpie.errors import DefinitionError, KelpieError
from kelpie.exchange import require
from kelpie.show import on_terminal


@click.command()
@click.argument(
    "method", metavar="METHOD", type=click.Choice(["GET", "POST", "PUT", "PATCH", "DELETE"], case_sensitive=False)
)
@click.argument("path", metavar="/PATH")
@click.option("-d", "--data", metavar="JSON", help="The body; - reads standard input.")
def api(method: str, path: str, data: str | None) -> None:
    """Send a request to any route and print its JSON: kelpie api GET /jobs?page_size=1"""
    if not path.startswith("/"):
        raise click.UsageError(f"A path begins with a slash: /{path}")
    with client() as there:
        answer = there.request(method, path, body_of(data))
        if answer is not None:
            click.echo(json.dumps(answer, indent=2 if on_terminal() else None, ensure_ascii=False))


def body_of(data: str | None) -> Any:
    if data is None:
        return None
    try:
        return json.loads(sys.stdin.read() if data == "-" else data)
    except ValueError as error:
        raise DefinitionError(f"The body is no JSON: {error}.") from error


@click.command("open")
@click.argument("reference", metavar="[REF]", required=False)
@click.option("--print", "print_wanted", is_flag=True, help="Print the address, and open nothing.")
def open_(reference: str | None, print_wanted: bool) -> None:
    """Open the page of a job, or the first page, in a browser; without a terminal print its address."""
    with client() as there:
        there.do(require(there.server, "pages", "pages for people"))
        place = f"/jobs/{found_newest(there, reference).id}" if reference else ""
        address = page(there.server, place) or ""
    if print_wanted or not on_terminal() or not webbrowser.open(address):
        click.echo(address)


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion for a shell: eval "$(kelpie completion bash)\""""
    kind = get_completion_class(shell)
    root = click.get_current_context().find_root().command
    if kind is None:
        raise KelpieError(f"There is no completion for {shell}.")
    click.echo(kind(root, {}, "kelpie", "_KELPIE_COMPLETE").source())


# What click looks for under the name of the command.
globals()["open"] = open_
