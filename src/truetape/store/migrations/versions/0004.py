"""Retention, and hypertables where TimescaleDB is there."""

from pathlib import Path

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    text = (Path(__file__).parent.parent / "0004_growth.sql").read_text(encoding="utf-8")
    connection = op.get_bind().connection.driver_connection
    assert connection is not None
    connection.execute(text)
