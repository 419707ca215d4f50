"""A bad setting is one clear line that names the variable; a secret is never shown."""

import pytest

from truetape.errors import UsageError
from truetape.settings import Settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "0"),
        ("PORT", "http"),
        ("SYNC_BATCH_SIZE", "-1"),
        ("SYNC_BATCH_SIZE", "1e3"),
        ("SYNC_CONCURRENCY", "many"),
        ("SYNC_FOLLOW", "perhaps"),
        ("SYNC_HEALTHY_LAG_MINUTES", "nan"),
        ("SYNC_CRITICAL_LAG_MINUTES", "1"),
        ("SYNC_MAX_ROWS_PER_SECOND", "0"),
        ("TAPE_RETENTION_DAYS", "forever"),
    ],
)
def test_a_bad_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError) as caught:
        Settings.load()
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("SYNC_MAX_ROW_PER_SECOND", "SYNC_MAX_ROWS_PER_SECOND"),
        ("PONDER_DATABASE_URI", "PONDER_DATABASE_URL"),
        ("TRUETAPE_HOM", "TRUETAPE_HOME"),
    ],
)
def test_a_misspelt_name_is_refused_and_the_names_of_others_are_not(
    monkeypatch: pytest.MonkeyPatch, name: str, meant: str
) -> None:
    monkeypatch.setenv("SYNC_TARGET", "s3")
    monkeypatch.setenv("PONDER_DATABASE_URL_REPLICA", "another program's")
    monkeypatch.setenv("PONDER_LOG_LEVEL", "info")
    monkeypatch.setenv("SYNC_FOLOW", "")
    Settings.load()
    monkeypatch.setenv(name, "1000")
    with pytest.raises(UsageError) as caught:
        Settings.load()
    assert name in str(caught.value)
    assert meant in str(caught.value)


def test_an_empty_variable_is_an_unset_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYNC_MAX_ROWS_PER_SECOND", "")
    monkeypatch.setenv("REDIS_URL", "")
    settings = Settings.load()
    assert settings.max_rows_per_second is None
    assert settings.redis_url is None


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PONDER_DATABASE_URL", "postgresql://u:hush1@h:1/d")
    monkeypatch.setenv("TIMESCALE_DATABASE_URL", "postgresql://u:hush2@h:1/d?password=hush3")
    monkeypatch.setenv("REDIS_URL", "rediss://u:hush4@h:1/0")
    monkeypatch.setenv("TRUETAPE_API_TOKEN", "hush5")
    settings = Settings.load()
    assert "hush" not in str(settings.shown())
    shown = {row["name"]: row for row in settings.shown()}
    assert shown["PONDER_DATABASE_URL"]["value"] == "postgresql://u@h:1/d"
    assert shown["PONDER_DATABASE_URL"]["from"] == "environment"
    assert shown["PORT"] == {"name": "PORT", "value": "42091", "from": "default"}
