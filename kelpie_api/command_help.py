"""The help of a command, read from its source: for a Python that has not the packages to import it."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).resolve().parent / "commands"


class Option(NamedTuple):
    names: str
    meaning: str


def outline(command: str) -> str:
    """What the command is for, its options, and for a group its commands with theirs."""
    tree = source_of(command)
    lines = [ast.get_docstring(tree) or ""]
    if commands := commands_of(tree):
        lines += ["", "Commands:", *(f"  {name:<20} {purpose_of(source_of(name))}" for name in commands)]
    for function in (node for node in tree.body if isinstance(node, ast.FunctionDef)):
        for decorator in calls(function, "command"):
            options = [option_of(call) for call in calls(function, "option", named_options(tree))]
            if name := texts(decorator):
                lines += ["", " ".join([command, *name, *arguments_of(function)]), f"  {purpose_of(function)}"]
            else:
                lines += ["", "Options:"]
                options.append(Option("-h, --help", "Show this message and exit."))
            lines += [f"  {option.names:<20} {option.meaning}" for option in options]
    return "\n".join(lines)


def source_of(command: str) -> ast.Module:
    return ast.parse((FOLDER / f"{command}.py").read_text())


def commands_of(tree: ast.Module) -> list[str]:
    """The names that the list COMMANDS of a module holds."""
    return [
        name
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "COMMANDS"
        for name in ast.literal_eval(node.value)
    ]


def calls(function: ast.FunctionDef, kind: str, named: dict[str, ast.Call] | None = None) -> Iterator[ast.Call]:
    """The decorators of this kind (`click.option`, `main.command`), also those that have a name of their own."""
    for decorator in function.decorator_list:
        call = (named or {}).get(decorator.id) if isinstance(decorator, ast.Name) else decorator
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == kind:
            yield call


def named_options(tree: ast.Module) -> dict[str, ast.Call]:
    return {
        target.id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def option_of(call: ast.Call) -> Option:
    names = ", ".join(text for text in texts(call) if text.startswith("-"))
    meanings = [ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg == "help"]
    return Option(names, "".join(meanings))


def arguments_of(function: ast.FunctionDef) -> list[str]:
    return [texts(call)[0].upper() for call in calls(function, "argument")]


def purpose_of(node: ast.Module | ast.FunctionDef) -> str:
    """The first line of its docstring."""
    return (ast.get_docstring(node) or "").partition("\n")[0]


def texts(call: ast.Call) -> list[str]:
    return [str(argument.value) for argument in call.args if isinstance(argument, ast.Constant)]
