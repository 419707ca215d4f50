"""Redis or Valkey, where one is named."""

import re
from typing import Any

import valkey.asyncio
from valkey.exceptions import AuthenticationError, NoPermissionError, ResponseError, ValkeyError

from truetape.connect import redis_place
from truetape.doctor.check import Check, bad, good, note

OLDEST_VERSION = 7
TIMEOUT_SECONDS = 3
ABOUT = "redis"


async def examine_redis(url: str | None) -> Check:
    """Can it be reached, do user and password fit, is it new enough?"""
    if url is None:
        return good(ABOUT, "REDIS_URL is not set: Truetape works without.")
    place = redis_place(url)
    try:
        async with valkey.asyncio.from_url(  # type: ignore[no-untyped-call]
            url, socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS
        ) as client:
            await client.ping()
            try:
                info = await client.info("server")
            except NoPermissionError:
                return note(ABOUT, f"Redis {place} answers; this user may not ask for its version.",
                            "Let it: ACL SETUSER … +info")  # fmt: skip
            return version_check(place, info)
    except ValueError as error:
        return bad(ABOUT, f"REDIS_URL is not valid: {error}", "Write it as redis://user:password@host:6379/0")  # fmt: skip
    except (AuthenticationError, ResponseError) as error:
        return bad(ABOUT, f"Redis {place} refuses us: {error}.", "Look at user and password in REDIS_URL.")  # fmt: skip
    except (ValkeyError, OSError) as error:
        return bad(ABOUT, f"Redis {place} cannot be reached: {error}",
                   "Is it running? Are host and port in REDIS_URL right?", unreachable=True)  # fmt: skip


def version_check(place: str, info: dict[str, Any]) -> Check:
    """From what INFO says of the server; Valkey names the Redis that it is like as well."""
    kind = "Valkey" if "valkey_version" in info else "Redis"
    version = str(info.get("valkey_version") or info.get("redis_version", "?"))
    says = f"{kind} {version} at {place}"
    major = re.match(r"\d+", version)
    if major and int(major[0]) >= OLDEST_VERSION:
        return good(ABOUT, f"{says} answers.")
    return bad(ABOUT, f"{says} is too old; {OLDEST_VERSION} is the oldest that is supported.",
               "Upgrade it.")  # fmt: skip
