"""List the environment variables that the programs of the coordinator read: meaning, kind, default.

Values are not shown, for some are secret.
"""

from textwrap import wrap

import click

from kelpie_api.config import VARIABLES, Variable

WIDTH = 100


@click.command(help=__doc__)
@click.option("--markdown", is_flag=True, help="Print the table that docs/operating.md has.")
def main(markdown: bool) -> None:
    lines = table() if markdown else [line for variable in VARIABLES.values() for line in described(variable)]
    click.echo("\n".join(lines))


def described(variable: Variable) -> list[str]:
    sentence = f"{plain(variable.meaning)}. {plain(variable.kind.words)}. {default(variable)}."
    return [variable.name, *(f"    {line}" for line in wrap(sentence, WIDTH - 4, break_on_hyphens=False))]


def default(variable: Variable) -> str:
    if variable.is_required:
        return "Required"
    return f"Default: {variable.default or variable.shown or 'none'}"


def plain(text: str) -> str:
    """As a sentence on a terminal."""
    return (text[0].upper() + text[1:]).replace("`", "")


def table() -> list[str]:
    """The table in Markdown, line by line."""
    return ["| variable | kind | default | meaning |", "|---|---|---|---|", *map(row, VARIABLES.values())]


def row(variable: Variable) -> str:
    return f"| `{variable.name}` | {variable.kind.words} | {cell(variable)} | {variable.meaning} |"


def cell(variable: Variable) -> str:
    if variable.is_required:
        return "required"
    return f"`{variable.default}`" if variable.default else variable.shown
