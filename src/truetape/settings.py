"""Settings from the environment (12-factor); the names are those of the contract."""

import math
import os
import re
from difflib import get_close_matches
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict
from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from truetape.connect import redis_place, without_password
from truetape.embedded import default_home
from truetape.errors import UsageError

Minutes = Annotated[float, Field(gt=0, le=1_000_000, allow_inf_nan=False)]
Count = Annotated[int, Field(gt=0, le=2**31)]
Days = Annotated[float, Field(gt=0, le=36_500, allow_inf_nan=False)]

_ALSO = {"ANALYTICS_DATABASE_URL": "TIMESCALE_DATABASE_URL"}
_OURS = ("SYNC_", "TAPE_", "TRUETAPE_", "PONDER_", "ANALYTICS_", "TIMESCALE_")
"""How the names begin that hardly anybody gives who does not mean us or our source."""
_ALIKE = 0.92
"""Share of letters that two names have in common, from which on one is taken for the other misspelt."""
_ENCODE = "what is special in user and password is percent-encoded, as %40 for @"


class Settings(BaseSettings):
    """Every setting of Truetape. Units: minutes, days, rows a second, trades."""

    model_config = SettingsConfigDict(
        extra="ignore", case_sensitive=True, frozen=True, env_ignore_empty=True,
        hide_input_in_errors=True,
    )  # fmt: skip

    ponder_database_url: str | None = Field(None, validation_alias="PONDER_DATABASE_URL")
    ponder_schema: str | None = Field(None, validation_alias="PONDER_SCHEMA")
    analytics_database_url: str | None = Field(
        None, validation_alias=AliasChoices("ANALYTICS_DATABASE_URL", "TIMESCALE_DATABASE_URL")
    )
    redis_url: str | None = Field(None, validation_alias="REDIS_URL")
    redis_trade_streams: str = Field("chain:*:trades", validation_alias="REDIS_TRADE_STREAMS")
    home: Path = Field(default_factory=default_home, validation_alias="TRUETAPE_HOME")
    host: str = Field("127.0.0.1", validation_alias="HOST", min_length=1)
    port: int = Field(42091, validation_alias="PORT", ge=1, le=65535)
    api_token: SecretStr | None = Field(None, validation_alias="TRUETAPE_API_TOKEN")
    follow: bool = Field(True, validation_alias="SYNC_FOLLOW")
    batch_size: int = Field(250_000, validation_alias="SYNC_BATCH_SIZE", gt=0, le=10_000_000)
    concurrency: int = Field(2, validation_alias="SYNC_CONCURRENCY", gt=0, le=64)
    max_attempts: int = Field(3, validation_alias="SYNC_MAX_ATTEMPTS", gt=0, le=100)
    reorg_window_minutes: Minutes = Field(30, validation_alias="SYNC_REORG_WINDOW_MINUTES")
    healthy_lag_minutes: Minutes = Field(5, validation_alias="SYNC_HEALTHY_LAG_MINUTES")
    warning_lag_minutes: Minutes = Field(30, validation_alias="SYNC_WARNING_LAG_MINUTES")
    critical_lag_minutes: Minutes = Field(60, validation_alias="SYNC_CRITICAL_LAG_MINUTES")
    max_rows_per_second: Count | None = Field(None, validation_alias="SYNC_MAX_ROWS_PER_SECOND")
    log_retention_days: Days = Field(30, validation_alias="SYNC_LOG_RETENTION_DAYS")
    tape_retention_days: Days | None = Field(None, validation_alias="TAPE_RETENTION_DAYS")

    @field_validator("ponder_database_url", "analytics_database_url")
    @classmethod
    def _is_libpq(cls, url: str | None) -> str | None:
        if not _is_libpq_url(url or ""):
            raise ValueError(f"give postgresql://user:password@host:5432/database; {_ENCODE}")
        return url

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, url: str | None) -> str | None:
        if not _is_redis_url(url or "redis://host"):
            raise ValueError(f"give redis://host:port/0, or rediss:// for TLS; {_ENCODE}")
        return url

    @field_validator("host")
    @classmethod
    def _can_be_a_host(cls, host: str) -> str:
        try:
            host.encode("idna")
        except UnicodeError as error:
            raise ValueError("give an address, for example 127.0.0.1 or 0.0.0.0") from error
        return host

    @field_validator("api_token")
    @classmethod
    def _can_be_sent(cls, token: SecretStr | None) -> SecretStr | None:
        """A header carries no other; with one that it cannot carry nobody would ever come in."""
        text = "-" if token is None else token.get_secret_value()
        if not (text.isascii() and text.isprintable() and text == text.strip()):
            raise ValueError("use letters, digits and signs of ASCII, no blanks around them")
        return token

    @field_validator("home", "ponder_schema", "redis_trade_streams")
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        try:
            str(value).encode()
        except UnicodeEncodeError as error:
            raise ValueError("it is not UTF-8") from error
        return value

    @classmethod
    def load(cls, **overrides: Any) -> "Settings":
        """Reads the environment. Raises UsageError with one line that names the variable: one whose value
        cannot be, or whose name is nearly that of a setting and so would do nothing."""
        _refuse_misspelt()
        try:
            settings = cls(**overrides)
        except ValidationError as error:
            raise UsageError(_sentence(error)) from error
        lags = (
            settings.healthy_lag_minutes,
            settings.warning_lag_minutes,
            settings.critical_lag_minutes,
        )
        if not lags[0] <= lags[1] <= lags[2]:
            raise UsageError(
                "SYNC_HEALTHY_LAG_MINUTES, SYNC_WARNING_LAG_MINUTES and SYNC_CRITICAL_LAG_MINUTES "
                f"must not decrease; they are {lags[0]:g}, {lags[1]:g}, {lags[2]:g}."
            )
        return settings

    @property
    def mapping_file(self) -> Path:
        return Path("truetape.toml")

    @property
    def is_loopback(self) -> bool:
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def shown(self) -> list[dict[str, str]]:
        """Each setting with its value and where it came from; no secrets."""
        rows = []
        for name in type(self).model_fields:
            names = _names_of(name)
            given = name in self.model_fields_set
            rows.append(
                {
                    "name": names[0],
                    "value": _show(name, getattr(self, name)),
                    "from": "environment" if given else "default",
                }
            )
        return rows


def _names_of(field: str) -> list[str]:
    """The variables that a setting is read from, the first of them being its name."""
    alias = Settings.model_fields[field].validation_alias
    return [str(c) for c in alias.choices] if isinstance(alias, AliasChoices) else [str(alias)]


def _refuse_misspelt() -> None:
    known = {name for field in Settings.model_fields for name in _names_of(field)}
    given = {name for name, value in os.environ.items() if value and name.startswith(_OURS)}
    for name in sorted(given - known):
        is_sibling = any(name.startswith(of) for of in known)  # PONDER_DATABASE_URL_REPLICA
        if (near := get_close_matches(name, known, 1, _ALIKE)) and not is_sibling:
            raise UsageError(f"{name} is no setting: rename it to {near[0]}, or unset it.")


def _show(name: str, value: Any) -> str:
    if value is None:
        return "(unset)"
    if isinstance(value, SecretStr):
        return "(set)"
    if name.endswith("_database_url"):
        return without_password(str(value))
    if name == "redis_url":
        return redis_place(str(value))
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:g}"
    return str(value)


def _is_libpq_url(url: str) -> bool:
    """One in which nothing of a password stands where libpq takes it for host, port or database."""
    try:
        parts = conninfo_to_dict(url)
    except (psycopg.Error, ValueError):
        return False
    _, is_url, rest = url.partition("://")
    user, is_known, place = rest.partition("@")
    if not is_known or "/" in user:
        place = rest
    misplaced = bool(is_url) and "@" in place.partition("?")[0]
    return not misplaced and re.fullmatch("[0-9,]*", str(parts.get("port", ""))) is not None


def _is_redis_url(url: str) -> bool:
    """Of this shape, and nothing of a password where something else should be."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where it is none
    except ValueError:
        return False
    return (
        parts.scheme in ("redis", "rediss")
        and bool(parts.hostname)
        and "@" not in parts.query + parts.fragment
        and re.fullmatch("(/[0-9]*)?", parts.path) is not None
    )


Strategy = Literal["standard", "comprehensive"]


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else "a setting"
    name = name if os.environ.get(name) else _ALSO.get(name, name)
    shown = "" if "URL" in name or "TOKEN" in name else f" (it is {first.get('input')!r})"
    why = first["msg"].removeprefix("Value error, ")
    return f"{name} is not valid: {why[:1].lower()}{why[1:]}{shown}."
