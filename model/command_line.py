"""How every command of the project ends.

Exit codes: 0 done, 1 a check that failed or a tool that ended with an error, 2 bad input (one line on stderr), 130 Ctrl-C or
SIGTERM.
"""
import signal
import sys
from collections.abc import Callable
from typing import Any

import typer

from model.errors import InputError

__all__ = ["command_line", "fail", "run_cli"]

STOPPED = 130
"""Exit code of a command that was stopped [1]."""


def command_line(help_text: str | None = None) -> typer.Typer:
    """A command line without shell completion, whose errors are ours."""
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None, help=help_text)


def run_cli(cli: typer.Typer, name: str, argv: list[str] | None, stopped: str, failures: tuple[type[Exception], ...] = (),
            act: Callable[[Any], int] | None = None) -> int:
    """Run a command; returns its exit code: what the command returns, or 0.

    name: as the user calls it; stopped: said at Ctrl-C and SIGTERM; failures: what a tool raises that failed, its text is shown;
    act: from what the command returns, if it is no number, to the exit code.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)         # also where the shell started us with SIGINT ignored
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        result: Any = typer.main.get_command(cli)(argv, prog_name=name, standalone_mode=False) or 0
        if result == STOPPED:                                        # what Typer makes of Ctrl-C, without a word
            raise KeyboardInterrupt
        return result if act is None or isinstance(result, int) else act(result)
    except InputError as error:
        return fail(str(error), 2)
    except typer.TyperException as error:
        return fail(error.format_message(), 2)
    except (KeyboardInterrupt, typer.Abort):
        return fail(stopped, STOPPED)
    except failures as error:
        print(f"crosstrain: {error}", file=sys.stderr)
        return 1


def fail(message: str, code: int) -> int:
    """Print one line; returns ``code``."""
    print("crosstrain: " + " ".join(message.split()), file=sys.stderr)
    return code
