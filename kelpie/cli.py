"""`kelpie`, the command line: the table of its commands, and what their errors and exit codes are.

Exit codes: 0 fine or completed; 1 refused; 2 usage; 3 not found; 4 not allowed; 5 coordinator unreachable; 10 job
failed; 11 canceled; 12 timed out; 130 Ctrl-C, which never cancels a job.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from kelpie.errors import (
    DefinitionError,
    JobCanceled,
    JobFailed,
    KelpieError,
    NotAllowed,
    NotFound,
    SettingsError,
    TimedOut,
    Unreachable,
)
from kelpie_version import VERSION

EXIT_CODES: tuple[tuple[type[KelpieError], int], ...] = (
    (SettingsError, 2),
    (DefinitionError, 2),
    (NotFound, 3),
    (NotAllowed, 4),
    (Unreachable, 5),
    (JobFailed, 10),
    (JobCanceled, 11),
    (TimedOut, 12),
    (KelpieError, 1),
)
INTERRUPTED = 130

# Each command with the module that has it, and its line in the help, so that none is imported for the help.
COMMANDS: dict[str, tuple[str, str]] = {
    "submit": ("submit", "Submit a job."),
    "sweep": ("submit", "Submit a job for each set of parameters."),
    "ls": ("look", "List jobs."),
    "show": ("look", "Show one job, with its progress and attempts."),
    "why": ("look", "Say why a job is not running."),
    "logs": ("look", "Print what a job's command printed."),
    "events": ("look", "List the changes of a job."),
    "attempts": ("look", "List the handouts of a job, on a line of time."),
    "wait": ("look", "Wait until jobs have ended."),
    "cancel": ("steer", "End jobs."),
    "hold": ("steer", "Give jobs to no machine until they are resumed."),
    "resume": ("steer", "Let held jobs run again."),
    "interrupt": ("steer", "Have a machine save a job and give it back."),
    "rerun": ("steer", "Submit ended jobs anew."),
    "edit": ("steer", "Change a job's name, labels, priority or limits."),
    "checkpoints": ("files", "Show the newest checkpoint of a job."),
    "files": ("files", "List the files of a job in its buckets."),
    "pull": ("files", "Download the outputs or the checkpoint of a job."),
    "push": ("files", "Upload a directory."),
    "sweeps": ("manage", "List sweeps."),
    "machines": ("manage", "List the machines heard of."),
    "groups": ("manage", "Pause and resume container groups, and set their price."),
    "usage": ("manage", "Show what the machines' hours brought and cost."),
    "secrets": ("manage", "Keep values that only the jobs that name them get."),
    "keys": ("manage", "Make and remove API keys."),
    "login": ("setup", "Keep an address and a key."),
    "whoami": ("setup", "Say with which credential the coordinator is asked."),
    "profiles": ("setup", "List what login kept."),
    "rehearse": ("local", "Prove that a job resumes, on this machine alone."),
    "dev": ("local", "Run a whole Kelpie on this machine."),
    "api": ("tools", "Send a request to any route."),
    "open": ("tools", "Open the page of a job, or the first one."),
    "completion": ("tools", "Print the completion for a shell."),
    "worker": ("local", "Run the worker."),
    "doctor": ("local", "Check what the worker would meet on this machine."),
    "licenses": ("local", "Print the licences of what the worker brings along."),
}


class Lazy(click.Group):
    """A group that imports a command when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"kelpie.commands.{COMMANDS[cmd_name][0]}")
        found: click.Command = getattr(module, cmd_name)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_line) for name, (_, help_line) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command; for a word that is none, the one that may be meant."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise click.UsageError(f"There is no command {args[0]}.{hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--profile", metavar="NAME", help="The profile to take address and key from.")
@click.option("--api-url", metavar="URL", help="The coordinator's address.")
@click.version_option(VERSION, prog_name="kelpie")
@click.pass_context
def kelpie(ctx: click.Context, profile: str | None, api_url: str | None) -> None:
    """Get long jobs to their end on machines that may vanish.

    Data goes to standard output and messages to standard error. Tables are for terminals; a pipe gets tabs, --json
    JSON.
    """
    ctx.obj = {"profile": profile, "api_url": api_url}


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code; every error is one sentence on standard error."""
    sys.exit(run(arguments))


def show(error: click.ClickException) -> None:
    """Print an error of a call as one sentence that says where its use is told; for a group alone, its help."""
    if isinstance(error, getattr(click.exceptions, "NoArgsIsHelpError", ())):
        error.show()
        return
    context = getattr(error, "ctx", None)
    sentence = " ".join(error.format_message().split())
    hint = f" Its use: {context.command_path} --help" if context else ""
    click.echo(f"{sentence}{hint}", err=True)


def run(arguments: list[str] | None = None) -> int:
    """Run the command line; its exit code."""
    try:
        result: Any = kelpie.main(arguments, prog_name="kelpie", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        show(error)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("Stopped. Jobs run on; look again with: kelpie ls", err=True)
        return INTERRUPTED
    except KelpieError as error:
        from kelpie.show import plain

        click.echo(plain(error, lines=True), err=True)
        return next(code for kind, code in EXIT_CODES if isinstance(error, kind))
    except BrokenPipeError:
        # What read the output has ended, as `head` does; writing again at exit would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
