"""The queue from which workers take slices, and what has become of these."""

from pathlib import Path

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    connection = op.get_bind().connection.driver_connection
    assert connection is not None
    there = Path(__file__).parent.parent
    # Its names are not qualified. Ours are, here and everywhere.
    connection.execute("SET LOCAL search_path = analytics")
    connection.execute((there / "0005_queue.sql").read_text(encoding="utf-8"))
    connection.execute("SET LOCAL search_path = DEFAULT")
    connection.execute((there / "0005_jobs.sql").read_text(encoding="utf-8"))
