"""Entry point: one line for every fault, with the exit code of the contract."""

import sys
from typing import Annotated

import psycopg
import typer
from psycopg_pool import PoolTimeout

from truetape import __version__
from truetape.cli import inspect, serving, story, work
from truetape.connect import first_line
from truetape.errors import TruetapeError

app = typer.Typer(
    name="truetape",
    help="Analytics that are provably true to a trading tape.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _say_version(wanted: bool) -> None:
    if wanted:
        print(f"truetape {__version__}")
        raise typer.Exit()


@app.callback()
def about(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_say_version, is_eager=True, help="Say the version, and end."
        ),
    ] = False,
) -> None:
    """Analytics that are provably true to a trading tape."""


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
        ended = app(sys.argv[1:] or ["--help"], standalone_mode=False)
        sys.exit(ended if isinstance(ended, int) else 0)
    except typer.Exit as error:
        sys.exit(error.exit_code)
    except typer.TyperException as error:
        said = error.format_message() if isinstance(error, typer.BadParameter) else str(error)
        _fail(f"{' '.join(said.split()).rstrip('.?')}. See: truetape --help", 2)
    except (KeyboardInterrupt, typer.Abort):
        _fail("stopped; nothing is lost.", 130)
    except TruetapeError as error:
        _fail(str(error), error.exit_code)
    except (psycopg.OperationalError, PoolTimeout, ConnectionError) as error:
        _fail(f"a database cannot be reached: {first_line(error)}.", 3)


def _fail(sentence: str, code: int) -> None:
    print(f"truetape: {sentence}", file=sys.stderr)
    sys.exit(code)
