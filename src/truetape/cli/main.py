"""Entry point: one line for every fault, with the exit code of the contract."""

import sys
from typing import Annotated

import typer

from truetape import __version__
from truetape.cli import verbs
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


app.command("serve")(verbs.serve)
app.command("sync")(verbs.sync)
app.command("force")(verbs.force)
app.command("retry")(verbs.retry)
app.command("verify")(verbs.verify)
app.command("worker")(verbs.worker)
app.command("runs")(verbs.runs)
app.command("health")(verbs.health)
app.command("gaps")(verbs.gaps)
app.command("errors")(verbs.errors)
app.command("config")(verbs.config)
app.command("doctor")(verbs.doctor)
app.command("demo")(verbs.demo)


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
    except Exception as error:
        why = _why_unreachable(error)
        if why is None:
            raise
        _fail(f"a database cannot be reached: {why}.", 3)


def _why_unreachable(error: Exception) -> str | None:
    """What a fault says if it is one of reaching a database. Only drivers know theirs."""
    import psycopg
    from psycopg_pool import PoolTimeout

    from truetape.connect import first_line

    away = isinstance(error, psycopg.OperationalError | PoolTimeout | ConnectionError)
    return first_line(error) if away else None


def _fail(sentence: str, code: int) -> None:
    print(f"truetape: {sentence}", file=sys.stderr)
    sys.exit(code)
