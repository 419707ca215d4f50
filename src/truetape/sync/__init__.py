"""The sync: which range of the tape to make true next, and how far we are."""
