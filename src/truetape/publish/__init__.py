"""What goes out after a commit: one numbered stream of events, to listeners over HTTP and to Redis."""

from truetape.publish.feed import Feed, Unseen
from truetape.publish.publisher import Publisher

__all__ = ["Feed", "Publisher", "Unseen"]
