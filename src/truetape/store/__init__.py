"""The store: the analytics database, which is ours. One transaction moves all or nothing."""
