"""The tuners that a call has attached: PEFT returns none, and who undoes a failed loading has to know them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mona_peft.integration.tuner import MethodModel

_attached: ContextVar[list[MethodModel] | None] = ContextVar("attached", default=None)


@contextmanager
def attached_tuners() -> Iterator[list[MethodModel]]:
    """Give a list that gets every tuner of ours that is attached to a model while the context lasts."""
    tuners: list[MethodModel] = []
    token = _attached.set(tuners)
    try:
        yield tuners
    finally:
        _attached.reset(token)


def note_attached(tuner: MethodModel) -> None:
    """Enter a tuner that has just been attached in the list of `attached_tuners`, if there is one."""
    if (tuners := _attached.get()) is not None:
        tuners.append(tuner)
