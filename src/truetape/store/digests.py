"""The SQL of digests: by them two sides are compared without reading their rows."""

from truetape.store.sqlfile import load

SQL = load("truetape.store", "digests.sql")


def of_second(row_hash: str) -> str:
    """Columns by which the trades of a second tell their digest, too."""
    return SQL["of_second"].format(hash=row_hash)


def of_range(row_hash: str) -> str:
    """SELECT of what the digests of a range ought to be, rows that are set aside included."""
    return SQL["of_range"].format(hash=row_hash)


def move(row_hash: str) -> str:
    return SQL["move"].format(hash=row_hash, add=SQL["add"])


def fill_range(row_hash: str) -> str:
    return SQL["fill_range"].format(of_range=of_range(row_hash))
