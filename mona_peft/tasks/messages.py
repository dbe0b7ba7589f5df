"""What messages to the user share."""

from collections.abc import Sequence


def first_of(names: Sequence[object], count: int = 5, separator: str = ", ") -> str:
    """Names the first ones of many, and says how many more there are."""
    more = [f"and {len(names) - count} more"] if len(names) > count else []
    return separator.join([*map(str, names[:count]), *more])
