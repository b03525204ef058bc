"""The jobs of a sweep: combinations of parameters, and templates that they are filled into."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kelpie.definitions import during_places
from kelpie.errors import DefinitionError

# Not ${NAME}, which is the shell's.
PLACEHOLDER = re.compile(r"(?<!\$)\{([A-Za-z_][A-Za-z0-9_]*)\}")
RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)")
Parameters = dict[str, Any]


def grid(**axes: Iterable[Any]) -> list[Parameters]:
    """Every combination of the values, the last axis fastest.

    `grid(lr=[1e-4, 3e-4], seed=range(10))` has twenty.
    """
    values = {name: list(axis) for name, axis in axes.items()}
    if empty := [name for name, axis in values.items() if not axis]:
        raise DefinitionError(f"The parameter {empty[0]} has no value, so there would be no job.")
    return [dict(zip(values, row, strict=True)) for row in itertools.product(*values.values())]


def parse_axis(text: str) -> tuple[str, list[str]]:
    """`lr=1e-4,3e-4` or `seed=0..9` (both ends included) as a name and its values. Raises DefinitionError."""
    name, equals, values = text.partition("=")
    if not equals or not PLACEHOLDER.fullmatch(f"{{{name}}}") or not values:
        raise DefinitionError(f"A parameter looks like lr=1e-4,3e-4 or seed=0..9, and this is {text!r}.")
    if found := RANGE.fullmatch(values):
        first, last = int(found[1]), int(found[2])
        step = 1 if last >= first else -1
        return name, [str(value) for value in range(first, last + step, step)]
    return name, values.split(",")


def read_csv(file: Path) -> list[Parameters]:
    """A row of a CSV file with a header for each job. Raises DefinitionError."""
    try:
        with file.open(newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            rows = list(reader)
            names = reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DefinitionError(f"{file} cannot be read as CSV: {error}.") from error
    if wrong := [name for name in names if not PLACEHOLDER.fullmatch(f"{{{name}}}")]:
        raise DefinitionError(f"The column {wrong[0]!r} of {file} is no name: letters, digits and _ only.")
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise DefinitionError(f"Line {number} of {file} has not as many values as the header has names.")
    if not rows:
        raise DefinitionError(f"{file} has no row below its header, so there would be no job.")
    return [dict(row) for row in rows]


def fill(template: Any, values: Mapping[str, Any]) -> Any:
    """The template with `{name}` replaced in all its strings; other braces stay. Raises DefinitionError."""
    if isinstance(template, str):
        return PLACEHOLDER.sub(lambda found: _value(found[1], values), template)
    if isinstance(template, Mapping):
        return {fill(key, values): fill(value, values) for key, value in template.items()}
    if isinstance(template, Sequence) and not isinstance(template, bytes):
        return [fill(part, values) for part in template]
    return template


def _value(name: str, values: Mapping[str, Any]) -> str:
    if name not in values:
        names = ", ".join(sorted(values))
        raise DefinitionError(f"{{{name}}} is no parameter of this sweep; there are {names}.")
    return str(values[name])


def refuse_shared_places(definitions: Sequence[Mapping[str, Any]]) -> None:
    """Raise DefinitionError if two jobs would keep their checkpoints at one place: each would resume from both."""
    seen: dict[tuple[str, str], int] = {}
    for index, made in enumerate(definitions):
        for bucket, prefix in during_places(made):
            other = seen.setdefault((bucket, prefix), index)
            if other != index:
                raise DefinitionError(
                    f"Jobs {other} and {index} would both keep their checkpoints at s3://{bucket}/{prefix} and"
                    " resume from each other's; put {index} or {name} into the prefix."
                )
