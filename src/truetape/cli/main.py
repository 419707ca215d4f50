"""Entry point: one line for every fault, with the exit code of the contract."""

import sys

import click
import psycopg
import typer
from psycopg_pool import PoolTimeout

from truetape.cli import inspect, serving, story, work
from truetape.connect import first_line
from truetape.errors import TruetapeError

app = typer.Typer(
    name="truetape",
    help="Analytics that are provably true to a trading tape.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command("serve")(serving.serve)
app.command("sync")(work.sync)
app.command("force")(work.force)
app.command("retry")(work.retry)
app.command("verify")(work.verify)
app.command("health")(inspect.health)
app.command("gaps")(inspect.gaps)
app.command("errors")(inspect.errors)
app.command("config")(inspect.config)
app.command("doctor")(inspect.doctor)
app.command("demo")(story.demo)


def main() -> None:
    """Runs a verb. Exit codes: 0 good, 1 the answer is bad, 2 wrong usage, 3 unreachable."""
    try:
        app(standalone_mode=False)
    except click.exceptions.Exit as ended:
        sys.exit(ended.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        _fail(f"{error.format_message().rstrip('.')}. See: truetape --help", 2)
    except (KeyboardInterrupt, click.Abort):
        _fail("stopped; nothing is lost.", 130)
    except TruetapeError as error:
        _fail(str(error), error.exit_code)
    except (psycopg.OperationalError, PoolTimeout, ConnectionError) as error:
        _fail(f"a database cannot be reached: {first_line(error)}.", 3)
    except ExceptionGroup as group:
        _fail(first_line(group.exceptions[0]), 1)


def _fail(sentence: str, code: int) -> None:
    print(f"truetape: {sentence}", file=sys.stderr)
    sys.exit(code)
