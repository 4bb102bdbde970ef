"""Static STAC catalogs: a folder, or JSON files on a web server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pystac
from pystac.utils import make_absolute_href

from daemon.adapters.fetch import Fetcher, decode_object
from daemon.adapters.host_gate import HostGates
from daemon.adapters.matching import Matcher
from daemon.adapters.pystac_errors import PYSTAC_ERRORS
from daemon.errors import CatalogInvalid, CatalogUnavailable
from daemon.watch.catalogs import Page, SceneQuery, TimeAxis
from daemon.watch.stac_items import with_absolute_hrefs

_MAX_DOCUMENTS = 200_000
_MAX_BYTES = 64 << 20
_GIVE_UP_AFTER = 3
_UNUSABLE: tuple[type[Exception], ...] = (*PYSTAC_ERRORS, KeyError, TypeError, ValueError, AttributeError)


@dataclass(frozen=True)
class _Found:
    href: str
    item: dict[str, Any] | None
    fault: str | None = None


class StaticCatalog:
    """Walks a catalog's children and Items in the order of their links, each document once.

    What cannot be read (cut JSON, a missing file, a child that is no catalog) is set aside with its reason and does not
    hide the rest. A document whose server fails is tried again by the watcher, and set aside after the third time: one
    bad address must not keep a catalog from ever being read whole. Nothing outside the root's folder or host is read.
    """

    longest_window: timedelta | None = None
    most_items: int | None = None
    reads_everything = True

    def __init__(
        self,
        name: str,
        root: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 30.0,
        now: Callable[[], datetime],
        gates: HostGates | None = None,
    ) -> None:
        """``root``: URL of the root document, or path of it or of the folder that holds it as ``catalog.json``.

        ``gates``: the budgets of hosts.
        """
        self.name = name
        self._fetcher: Fetcher | None = None
        if root.startswith(("http://", "https://")):
            self._fetcher = Fetcher(
                root, headers=headers, timeout_s=timeout_s, max_bytes=_MAX_BYTES, now=now, gates=gates
            )
            self.base = root if root.endswith(".json") else f"{root.rstrip('/')}/catalog.json"
        else:
            path = Path(root).resolve()
            self.base = str(path if path.suffix == ".json" else path / "catalog.json")
        self._failures: Counter[str] = Counter()

    def close(self) -> None:
        """Close the connections."""
        if self._fetcher is not None:
            self._fetcher.close()

    def axes(self) -> frozenset[TimeAxis]:
        """All: the Items' own properties are compared."""
        return frozenset({"datetime", "created", "updated"})

    def pages(self, query: SceneQuery, *, resume: str | None = None) -> Iterator[Page]:
        """As :meth:`daemon.watch.catalogs.Catalog.pages`; the token is the address of the last document of a page."""
        matcher = Matcher(query)
        items: list[dict[str, Any]] = []
        broken: list[str] = []
        skipping = resume is not None
        for found in self._walk():
            if skipping:
                skipping = found.href != resume
            elif found.item is None:
                broken.append(f"{found.href}: {found.fault}")
            elif matcher.meets(found.item):
                items.append(with_absolute_hrefs(found.item, found.href))
                if len(items) == query.page_size:
                    yield Page(items=tuple(items), next=found.href, broken=tuple(broken))
                    items, broken = [], []
        if skipping:
            raise CatalogUnavailable(f"{self.base} changed while it was read; it is read again from its start")
        yield Page(items=tuple(items), next=None, broken=tuple(broken))

    def _walk(self) -> Iterator[_Found]:
        """Every Item, and what could not be read, depth first."""
        root = self._catalog(self.base, self._read(self.base))
        waiting: list[tuple[str, str]] = list(reversed(_links(root)))
        seen = {self.base}
        while waiting:
            rel, href = waiting.pop()
            if href in seen:
                continue
            seen.add(href)
            if len(seen) > _MAX_DOCUMENTS:
                raise CatalogInvalid(f"{self.base} has more than {_MAX_DOCUMENTS} documents; serve it by a STAC API")
            try:
                document = self._read(href)
                if rel == "item":
                    yield _Found(href, _item(document))
                    continue
                waiting.extend(reversed(_links(self._catalog(href, document))))
            except CatalogInvalid as error:
                yield _Found(href, None, str(error))
            except CatalogUnavailable as error:
                self._failures[href] += 1
                # A local file will not get better within this poll, and is read again in the next.
                if self._fetcher is not None and self._failures[href] % _GIVE_UP_AFTER:
                    raise
                yield _Found(href, None, str(error))

    def _catalog(self, href: str, document: dict[str, Any]) -> pystac.Catalog:
        kind = pystac.Collection if document.get("type") == "Collection" else pystac.Catalog
        try:
            return kind.from_dict(document, href=href, preserve_dict=False)
        except _UNUSABLE as error:
            raise CatalogInvalid(f"{href} is not a STAC catalog: {type(error).__name__}: {error}") from error

    def _read(self, href: str) -> dict[str, Any]:
        if self._fetcher is not None:
            return self._fetcher.fetch_json(href)
        path = Path(href)
        root = Path(self.base).parent
        try:
            if "://" in href or not path.resolve(strict=True).is_relative_to(root):
                raise CatalogInvalid(f"{href} lies outside of the catalog's folder {root}; it is not read")
            if path.stat().st_size > _MAX_BYTES:
                raise CatalogInvalid(f"{href} exceeds {_MAX_BYTES} bytes")
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError, ValueError, RuntimeError) as error:
            raise CatalogUnavailable(f"{href} cannot be read: {type(error).__name__}: {error}") from error
        return decode_object(text, href)


def _links(catalog: pystac.Catalog) -> list[tuple[str, str]]:
    """(relation, absolute address) of children and Items, in their order."""
    base = catalog.get_self_href()
    return [
        (str(link.rel), make_absolute_href(str(link.href), base, start_is_dir=False))
        for link in catalog.links
        if link.rel in ("child", "item")
    ]


def _item(document: dict[str, Any]) -> dict[str, Any]:
    if document.get("type") != "Feature":
        raise CatalogInvalid(f"not a STAC Item: its type is {document.get('type')!r}")
    return document
