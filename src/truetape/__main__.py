"""``python -m truetape`` is ``truetape``."""

from truetape.cli import main

main()
