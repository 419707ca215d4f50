"""The stream of updates, and the doorbells that the leader hears."""

from pathlib import Path

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    text = (Path(__file__).parent.parent / "0002_stream.sql").read_text(encoding="utf-8")
    connection = op.get_bind().connection.driver_connection
    assert connection is not None
    connection.execute(text)
