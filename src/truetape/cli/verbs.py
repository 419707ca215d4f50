"""The verbs as people write them: options and help.

What a verb does is imported when it is called: ``--help`` needs nothing of it, no verb needs all of it,
and cron and scripts start verbs again and again.
"""

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
AcceptNewSource = Annotated[
    bool, typer.Option(help="Go on with another source than these analytics were made from.")
]


def serve(
    demo: Annotated[
        bool, typer.Option("--demo", help="Everything embedded, with a demo exchange trading.")
    ] = False,
    accept_new_source: AcceptNewSource = False,
) -> None:
    """Follow the source, catch up what was missed, answer over HTTP.

    Example: PONDER_DATABASE_URL=postgresql://… truetape serve
    """
    from truetape.cli import serving

    serving.serve(demo=demo, accept_new_source=accept_new_source)


def sync(
    comprehensive: Annotated[bool, typer.Option(help="Compare all history by digest.")] = False,
    accept_deletions: Annotated[
        bool, typer.Option(help="Retract held rows that the source no longer has.")
    ] = False,
    accept_new_source: AcceptNewSource = False,
    as_json: Json = False,
) -> None:
    """Process everything that is missing, changed or vanished.

    Example: truetape sync
    """
    from truetape.cli import work

    work.sync(
        comprehensive=comprehensive, accept_deletions=accept_deletions,
        accept_new_source=accept_new_source, as_json=as_json,
    )  # fmt: skip


def force(
    start: Annotated[
        str,
        typer.Option("--from", metavar="UNIX_SECONDS", help="For example 1754400000."),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    as_json: Json = False,
) -> None:
    """Reprocess every trade from a time on and rebuild all that they feed.

    Example: truetape force --from 1754400000 --dry-run
    """
    from truetape.cli import work

    work.force(start, dry_run=dry_run, as_json=as_json)


def retry(
    trade_id: Annotated[str | None, typer.Argument(help="Only this one.")] = None,
    as_json: Json = False,
) -> None:
    """Put quarantined trades back and sync.

    Example: truetape retry
    """
    from truetape.cli import work

    work.retry(trade_id, as_json=as_json)


def verify(
    repair: Annotated[bool, typer.Option(help="Mend what is found.")] = False,
    as_json: Json = False,
) -> None:
    """Read the rows of both sides, and the rollups against the tape: proof.

    Example: truetape verify
    """
    from truetape.cli import work

    work.verify(repair=repair, as_json=as_json)


def worker(as_json: Json = False) -> None:
    """Help whoever leads: take slices of runs from the queue and do them, on this machine.

    Any number of workers may run, anywhere. One that dies gives its slice back.

    Example: truetape worker
    """
    from truetape.cli import working

    working.worker(as_json=as_json)


def runs(
    cancel: Annotated[
        int | None,
        typer.Option(metavar="RUN_ID", help="Stop this one at its next slice."),
    ] = None,
    as_json: Json = False,
) -> None:
    """What was asked for last, how far it is, and how long it will take.

    Example: truetape runs --cancel 17
    """
    from truetape.cli import inspect

    inspect.runs(cancel, as_json=as_json)


def health(as_json: Json = False) -> None:
    """How far the analytics are behind the source.

    Example: truetape health --json
    """
    from truetape.cli import inspect

    inspect.health(as_json=as_json)


def gaps(as_json: Json = False) -> None:
    """Where the two sides differ, with times and counts.

    Example: truetape gaps
    """
    from truetape.cli import inspect

    inspect.gaps(as_json=as_json)


def errors(as_json: Json = False) -> None:
    """Trades that could not be processed, with the reason.

    Example: truetape errors
    """
    from truetape.cli import inspect

    inspect.errors(as_json=as_json)


def config(as_json: Json = False) -> None:
    """Every setting, its value, and where it came from.

    Example: truetape config
    """
    from truetape.cli import setting_up

    setting_up.config(as_json=as_json)


def doctor(as_json: Json = False) -> None:
    """Check settings, both databases and the machine, and say what to do. Changes nothing.

    Example: truetape doctor
    """
    from truetape.cli import setting_up

    setting_up.doctor(as_json=as_json)


def demo(
    seconds: Annotated[float, typer.Option(help="How long each act lasts.", min=1, max=600)] = 12.0,
    as_json: Json = False,
) -> None:
    """An outage and its recovery, told in about a minute, with everything embedded.

    Example: truetape demo
    """
    from truetape.cli import story

    story.demo(seconds, as_json=as_json)
