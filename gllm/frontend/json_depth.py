"""How deeply JSON may be nested, wherever it comes from: what reads it later may recurse."""

from typing import Any

MAX_DEPTH = 64  # of arrays and objects in each other


def is_too_deep(value: Any, limit: int = MAX_DEPTH) -> bool:
    """Whether more than `limit` arrays and objects of a JSON value stand in each other."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(limit):
        level = [
            item
            for container in level
            for item in (container.values() if isinstance(container, dict) else container)
            if isinstance(item, dict | list)
        ]
        if not level:
            return False
    return True
