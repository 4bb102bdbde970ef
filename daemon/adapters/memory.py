"""The catalog's twin in memory: the same port, with failures on order."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from daemon.adapters.matching import Matcher
from daemon.watch.catalogs import Page, SceneQuery, TimeAxis


class MemoryCatalog:
    """STAC Items in a list. May be added to from any thread while it is read."""

    def __init__(self, name: str, *, axes: frozenset[TimeAxis] = frozenset({"datetime"})) -> None:
        self.name = name
        self.base = f"memory:{name}"
        self.longest_window: timedelta | None = None
        self.most_items: int | None = None
        """Set it, and no search lists more than so many, without a word about the rest."""
        self.reads_everything = False
        self.queries: list[SceneQuery] = []
        """Every query asked so far, for tests."""
        self._axes = axes
        self._items: dict[tuple[str, str], Mapping[str, Any]] = {}
        self._failures: list[Exception | None] = []
        self._lock = threading.Lock()

    def add(self, *items: Mapping[str, Any]) -> None:
        """Add Items; one with a known collection and id replaces it, as catalogs do."""
        with self._lock:
            for item in items:
                self._items[str(item.get("collection")), str(item.get("id"))] = item

    def fail(self, *errors: Exception | None) -> None:
        """The next pages raise these, one each; None lets a page pass."""
        with self._lock:
            self._failures.extend(errors)

    def axes(self) -> frozenset[TimeAxis]:
        """The axes given at construction."""
        return self._axes

    def pages(self, query: SceneQuery, *, resume: str | None = None) -> Iterator[Page]:
        """As :meth:`daemon.watch.catalogs.Catalog.pages`; the token is a count of Items."""
        self.queries.append(query)
        matcher = Matcher(query)
        with self._lock:
            found = [item for item in self._items.values() if matcher.meets(item)][: self.most_items]
        start = int(resume or 0)
        while True:
            self._fail_if_ordered()
            stop = start + query.page_size
            more = stop < len(found)
            yield Page(items=tuple(found[start:stop]), next=str(stop) if more else None)
            if not more:
                return
            start = stop

    def _fail_if_ordered(self) -> None:
        with self._lock:
            error = self._failures.pop(0) if self._failures else None
        if error is not None:
            raise error
