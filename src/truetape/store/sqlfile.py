"""SQL lives in ``.sql`` files, in blocks introduced by ``-- name: some_name``."""

import re
from functools import cache
from importlib.resources import files

_BLOCK = re.compile(r"^-- name: (\w+)\n(.*?)(?=^-- name: |\Z)", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"^--.*\n", re.MULTILINE)


@cache
def load(package: str, filename: str) -> dict[str, str]:
    """The named blocks of a ``.sql`` file in a package, comments taken out."""
    text = files(package).joinpath(filename).read_text(encoding="utf-8")
    blocks = {name: _COMMENT.sub("", body).strip() for name, body in _BLOCK.findall(text)}
    if not blocks:
        raise ValueError(f"{package}/{filename} holds no block named with '-- name:'")
    return blocks
