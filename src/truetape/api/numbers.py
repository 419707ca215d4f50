"""Whole numbers as they stand in an address."""

import re
from typing import Any

from pydantic import BeforeValidator
from pydantic_core import PydanticKnownError


def _digits(value: Any) -> Any:
    """Pydantic would take ``+0.0`` and ``1_000``, which the document of our calls does not allow."""
    if isinstance(value, str) and not re.fullmatch(r"-?[0-9]+", value):
        raise PydanticKnownError("int_parsing")
    return value


IN_DIGITS = BeforeValidator(_digits)
"""The last word on a parameter, so that its bounds stay in the document."""
