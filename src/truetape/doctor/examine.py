"""All checks, in the order in which one depends on the other. Everything is read, nothing written."""

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from truetape.doctor.analytics import examine_analytics
from truetape.doctor.check import Check, bad, good
from truetape.doctor.redis import examine_redis
from truetape.doctor.source import Findings, examine_source
from truetape.errors import UsageError
from truetape.settings import Settings
from truetape.source import Mapping


async def examine(settings: Settings, *, demo: Sequence[Check] = ()) -> list[Check]:
    """``demo``: what was found when its servers were opened, where it is the source as none is given."""
    checks = [
        good("truetape", f"Truetape {version('truetape')} on Python {platform.python_version()}."),
        _home(settings.home),
    ]
    found = Findings()
    checks += demo
    if settings.ponder_database_url is None:
        if not demo:
            advice = "Set it to the Ponder database's libpq URL."
            checks.append(bad("source server", "PONDER_DATABASE_URL is not set.", advice))
    else:
        try:
            names = Mapping.read(settings.mapping_file)
        except UsageError as error:
            checks.append(bad("mapping", str(error)))
        else:
            if names.count:
                says = f"{settings.mapping_file} maps {names.count} names."
                checks.append(good("mapping", says))
            found = await examine_source(
                settings.ponder_database_url, settings.ponder_schema, names,
                late_minutes=settings.healthy_lag_minutes,
            )  # fmt: skip
            checks += found.checks
    checks += await examine_analytics(settings, found)
    checks.append(await examine_redis(settings.redis_url))
    return checks


def _home(home: Path) -> Check:
    folder = home
    while not folder.exists():
        folder = folder.parent
    if os.access(folder, os.W_OK | os.X_OK):
        return good("home", f"TRUETAPE_HOME {home} can be written.")
    return bad(
        "home",
        f"TRUETAPE_HOME {home} cannot be written.",
        "Set TRUETAPE_HOME to a folder of yours.",
    )
