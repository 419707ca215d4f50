"""What an indexer like Ponder writes beside the trades: how far each chain is, and whether it is ready."""

import json

import psycopg
from test_sync import execute

from truetape.embedded.ponder_tables import checkpoint

TABLES = """
CREATE TABLE IF NOT EXISTS _ponder_checkpoint (chain_name text PRIMARY KEY, chain_id bigint NOT NULL,
    safe_checkpoint varchar(75) NOT NULL, latest_checkpoint varchar(75) NOT NULL,
    finalized_checkpoint varchar(75) NOT NULL);
CREATE TABLE IF NOT EXISTS _ponder_meta (key text PRIMARY KEY, value jsonb NOT NULL);
"""


def set_position(
    conn: psycopg.Connection, block: int, second: int, *, final: tuple[int, int], chain: int = 0
) -> None:
    """``final``: the last finalized block and its second."""
    latest, finalized = (checkpoint(s, chain, b) for b, s in ((block, second), final))
    conn.execute(
        "INSERT INTO _ponder_checkpoint VALUES (%s, %s, %s, %s, %s) "
        "ON CONFLICT (chain_name) DO UPDATE SET safe_checkpoint = excluded.safe_checkpoint, "
        "latest_checkpoint = excluded.latest_checkpoint, "
        "finalized_checkpoint = excluded.finalized_checkpoint",
        (f"chain {chain}", chain, finalized, latest, finalized),
    )


def position(url: str, block: int, second: int, *, final: tuple[int, int], chain: int = 0) -> None:
    """A chain's checkpoint, in a transaction of its own."""
    execute(url, TABLES)
    with psycopg.connect(url) as conn:
        set_position(conn, block, second, final=final, chain=chain)


def ready(url: str, is_ready: bool) -> None:
    meta = json.dumps({"version": "6", "is_ready": int(is_ready)})
    execute(
        url,
        f"{TABLES} INSERT INTO _ponder_meta VALUES ('app', '{meta}') "
        "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
    )
