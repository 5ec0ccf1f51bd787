"""Making items ahead in a thread, so that a model does not wait for the disk and the tokenizer."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
_END = object()


@contextmanager
def made_ahead(items: Iterable[Item], most: int) -> Iterator[Iterator[Item]]:
    """Give an iterator over ``items``, which one thread makes while the caller works on those before.

    The order stays the same. An error of ``items`` is raised when its item is asked for. Leaving the ``with`` block
    waits for the item that is being made, and makes no further ones.

    Args:
        items: what is made; only the thread iterates over it.
        most: items that are held at most, besides the one that the caller works on.
    """
    source = iter(items)

    with ThreadPoolExecutor(1) as thread:
        waiting = deque(thread.submit(next, source, _END) for _ in range(most))

        def taken() -> Iterator[Item]:
            while (item := waiting.popleft().result()) is not _END:
                waiting.append(thread.submit(next, source, _END))
                yield item  # type: ignore[misc]

        try:
            yield taken()
        finally:
            thread.shutdown(cancel_futures=True)
