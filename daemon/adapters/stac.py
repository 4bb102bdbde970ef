"""STAC APIs, through pystac-client."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urljoin

import pystac
import pystac_client
import pystac_client.errors
import pystac_client.exceptions
import pystac_client.warnings
import requests
import urllib3
from pystac_client.conformance import ConformanceClasses
from pystac_client.stac_api_io import StacApiIO

from daemon.adapters.fetch import Fetcher, HttpInvalid, HttpUnavailable, decode_object, status_error, transport_error
from daemon.adapters.host_gate import HostGates
from daemon.adapters.pystac_errors import PYSTAC_ERRORS
from daemon.errors import CatalogInvalid, CatalogUnavailable, WindowTooWide
from daemon.watch.catalogs import Page, SceneQuery, TimeAxis
from daemon.watch.proof import axis_time
from daemon.watch.stac_items import self_href, with_absolute_hrefs
from daemon.watch.stac_times import format_time

_MAX_EMPTY_PAGES = 10
_SECOND = timedelta(seconds=1)


class StacApiCatalog:
    """A STAC API with item search.

    Pages are followed by hand, not by pystac-client's iterator: that one cannot go on from a page that failed, does not
    notice pages that lead in a circle, and stops at an empty page that has a next one.
    """

    reads_everything = False

    def __init__(
        self,
        name: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float = 30.0,
        longest_window: timedelta | None = timedelta(days=92),
        most_items: int | None = 10_000,
        now: Callable[[], datetime],
        gates: HostGates | None = None,
    ) -> None:
        """``url``: the landing page. ``headers``: sent with each request (credentials). ``timeout_s``: for one page.

        ``most_items``: what one search lists at most; 10,000 is the cap of Elasticsearch, and of many APIs. ``gates``:
        the budgets of hosts.
        """
        self.name = name
        self.base = url
        self.longest_window = longest_window
        self.most_items = most_items
        self._now = now
        self._fetcher = Fetcher(url, headers=headers, timeout_s=timeout_s, now=now, gates=gates)
        self._io = _BoundedIO(self._fetcher)
        self._client: pystac_client.Client | None = None
        self._refused_axes: set[TimeAxis] = set()

    def close(self) -> None:
        """Close the connections."""
        self._fetcher.close()

    def axes(self) -> frozenset[TimeAxis]:
        """``created`` and ``updated`` where the API declares the query or filter extension, and did not fail on it."""
        with self._translated():
            declared: frozenset[TimeAxis] = frozenset()
            if self._open().conforms_to(ConformanceClasses.QUERY) or self._filters():
                declared = frozenset({"created", "updated"})
        always: frozenset[TimeAxis] = frozenset({"datetime"})
        return always | (declared - self._refused_axes)

    def pages(self, query: SceneQuery, *, resume: str | None = None) -> Iterator[Page]:
        """As :meth:`daemon.watch.catalogs.Catalog.pages`; the token is the ``next`` link as JSON."""
        with self._translated():
            search = self._search(query)
            parameters = search.get_parameters()
        link = _decoded_token(resume)
        seen_links = {resume} if resume else set()
        seen_pages: set[bytes] = set()
        empty = 0
        while True:
            document = self._page(query, search, parameters, link)
            features = document.get("features")
            if not isinstance(features, list):
                raise CatalogUnavailable(f"{search.url}: the answer is no FeatureCollection but {_sketch(document)}")
            following = _next_link(document, search.url)
            token = json.dumps(following, sort_keys=True) if following else None
            empty = empty + 1 if not features else 0
            if token is not None:
                if token in seen_links or _digest(features) in seen_pages or empty > _MAX_EMPTY_PAGES:
                    # A window that fits on one page needs no paging, so narrower ones may still be read.
                    raise (CatalogInvalid if empty > _MAX_EMPTY_PAGES else WindowTooWide)(
                        f"{search.url}: the pages lead in a circle, so this window cannot be read whole "
                        f"(next: {token[:200]})"
                    )
                seen_links.add(token)
                if features:
                    seen_pages.add(_digest(features))
            self._check_axis(query, features, search.url)
            yield self._as_page(features, token, search.url, _matched(document))
            if following is None:
                return
            link = following

    def _check_axis(self, query: SceneQuery, features: list[Any], url: str) -> None:
        """Find out a server that takes a condition on ``created`` or ``updated`` and ignores it."""
        if query.axis == "datetime":
            return
        for feature in features:
            at = axis_time(feature, query.axis) if isinstance(feature, dict) else query.start
            if at is None or not query.start - _SECOND <= at <= query.end + _SECOND:
                self._refused_axes.add(query.axis)
                raise CatalogUnavailable(
                    f"{url} ignores searches by {query.axis!r}: it lists {feature.get('id')!r} of {at} for "
                    f"{query.start} to {query.end}; searching by 'datetime' from now on"
                )

    def _as_page(self, features: list[Any], token: str | None, url: str, matched: int | None) -> Page:
        items, broken = [], []
        for feature in features:
            if isinstance(feature, dict):
                items.append(with_absolute_hrefs(feature, self_href(feature) or url))
            else:
                broken.append(f"{url}: a feature is {_sketch(feature)}, not a STAC Item")
        return Page(items=tuple(items), next=token, matched=matched, broken=tuple(broken))

    def _page(
        self,
        query: SceneQuery,
        search: pystac_client.ItemSearch,
        parameters: dict[str, Any],
        link: dict[str, Any] | None,
    ) -> dict[str, Any]:
        try:
            with self._translated():
                if link is None:
                    text = self._io.request(search.url, method=search.method, parameters=parameters)
                else:
                    text = self._io.read_text(pystac.Link.from_dict(link), parameters=parameters)
                return decode_object(text, search.url)
        except (HttpUnavailable, HttpInvalid) as error:
            if query.axis != "datetime" and error.status in (400, 422, 500, 501):
                # pgstac answers 500 to a comparison of times on a property that is not registered as a queryable.
                self._refused_axes.add(query.axis)
                raise CatalogUnavailable(
                    f"{search.url} fails on searches by {query.axis!r}; searching by 'datetime' from now on ({error})"
                ) from error
            if link is not None and error.status in (400, 413, 416, 422):
                raise WindowTooWide(f"{search.url} does not list beyond this page: {error}") from error
            raise

    def _search(self, query: SceneQuery) -> pystac_client.ItemSearch:
        client = self._open()
        window = f"{format_time(query.start)}/{format_time(query.end)}"
        methods = {str(link.extra_fields.get("method") or "GET") for link in client.links if link.rel == "search"}
        arguments: dict[str, Any] = {
            "method": "GET" if methods == {"GET"} else "POST",
            "limit": query.page_size,
            "intersects": dict(query.intersects),
            "collections": list(query.collections) or None,
        }
        if query.axis == "datetime":
            arguments["datetime"] = window
        else:
            start, end = window.split("/")
            if client.conforms_to(ConformanceClasses.QUERY):
                arguments["query"] = {query.axis: {"gte": start, "lte": end}}
            else:
                arguments |= _cql2(query.axis, start, end, as_text=arguments["method"] == "GET")
            if client.conforms_to(ConformanceClasses.SORT):
                arguments["sortby"] = [{"field": f"properties.{query.axis}", "direction": "asc"}]
        return client.search(**arguments)

    def _filters(self) -> bool:
        """Whether the API declares the filter extension with basic CQL2."""
        client = self._open()
        basic = any("basic-cql2" in str(uri) for uri in client.get_conforms_to())
        return basic and client.conforms_to(ConformanceClasses.FILTER)

    def _open(self) -> pystac_client.Client:
        if self._client is None:
            document = decode_object(self._io.request(self.base), self.base)
            links = document.get("links")
            if not any(isinstance(link, dict) and link.get("rel") == "search" for link in links or ()):
                raise CatalogInvalid(
                    f"{self.base} has no search link, so it is no STAC API; use `type: static` for a static catalog"
                )
            # Some name their conformance classes only under /conformance; the search link says enough.
            client = self._io.stac_object_from_dict({"conformsTo": [], **document}, href=self.base)
            assert isinstance(client, pystac_client.Client)
            client.add_conforms_to("ITEM_SEARCH")
            self._client = client
        return self._client

    def _translated(self) -> contextlib.AbstractContextManager[None]:
        return _translated(self.base, self._now)


class _BoundedIO(StacApiIO):
    """pystac-client's I/O by way of a :class:`Fetcher`: bounded, never retrying by itself, raising Vigie's errors."""

    def __init__(self, fetcher: Fetcher) -> None:
        super().__init__(max_retries=None)
        self.session.close()
        self._fetcher = fetcher

    def request(
        self,
        href: str,
        method: str | None = None,
        headers: dict[str, str] | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> str:
        """The body of one answer."""
        return self._fetcher.fetch(href, method=(method or "GET").upper(), headers=headers, parameters=parameters)

    def json_loads(self, txt: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The JSON object in a text."""
        return decode_object(txt, "the catalog")


def catalog_error(url: str, error: Exception, now: datetime) -> CatalogUnavailable | CatalogInvalid:
    """What an exception of pystac-client, pystac or what lies below them means to the watcher: the one place for it.

    pystac-client turns every failure into ``APIError(str(error))``, whose ``status_code`` may be absent.
    """
    if isinstance(error, CatalogUnavailable | CatalogInvalid):
        return error
    if isinstance(error, pystac_client.exceptions.APIError):
        status = getattr(error, "status_code", None)
        if status is not None:
            return status_error(url, status, None, now)
        return CatalogUnavailable(f"{url} cannot be read: {error}")
    if isinstance(error, _PERMANENT):
        return CatalogInvalid(
            f"{url} is not a usable STAC API: {type(error).__name__}: {error}; check the catalog's URL"
        )
    if isinstance(error, requests.RequestException | urllib3.exceptions.HTTPError | OSError):
        return transport_error(url, error)
    # What else a document of unforeseen shape sets off within the libraries (KeyError, TypeError, AttributeError).
    return CatalogUnavailable(f"{url}: the answer has an unforeseen shape ({type(error).__name__}: {error})")


_PERMANENT: tuple[type[Exception], ...] = (
    pystac_client.exceptions.ParametersError,
    pystac_client.errors.ClientTypeError,
    pystac_client.warnings.PystacClientWarning,  # DoesNotConformTo is raised, though it is a warning
    *PYSTAC_ERRORS,
)


@contextlib.contextmanager
def _translated(url: str, now: Callable[[], datetime]) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        translated = catalog_error(url, error, now())
        if translated is error:
            raise
        raise translated from error


def _decoded_token(token: str | None) -> dict[str, Any] | None:
    if token is None:
        return None
    link = json.loads(token)
    if not isinstance(link, dict) or not isinstance(link.get("href"), str):
        raise ValueError(f"{token!r} is not a token of this catalog")
    return link


def _cql2(axis: TimeAxis, start: str, end: str, *, as_text: bool) -> dict[str, Any]:
    """``start <= axis <= end`` in CQL2 (OGC 21-065r2), as arguments of a search."""
    if as_text:
        text = f"{axis} >= TIMESTAMP('{start}') AND {axis} <= TIMESTAMP('{end}')"
        return {"filter": text, "filter_lang": "cql2-text"}
    bounds = [{"op": op, "args": [{"property": axis}, {"timestamp": at}]} for op, at in ((">=", start), ("<=", end))]
    return {"filter": {"op": "and", "args": bounds}, "filter_lang": "cql2-json"}


def _matched(document: Mapping[str, Any]) -> int | None:
    """``numberMatched``, or what older APIs call ``context.matched``; None where absent or odd."""
    context = document.get("context")
    value = document.get("numberMatched", context.get("matched") if isinstance(context, Mapping) else None)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _next_link(document: Mapping[str, Any], url: str) -> dict[str, Any] | None:
    """The ``next`` link, its href made absolute."""
    links = document.get("links")
    for link in links if isinstance(links, list) else []:
        if isinstance(link, dict) and link.get("rel") == "next":
            if not isinstance(link.get("href"), str):
                raise CatalogUnavailable(f"{url}: the next link has no address: {_sketch(link)}")
            return {**link, "href": urljoin(url, link["href"])}
    return None


def _digest(features: list[Any]) -> bytes:
    ids = [
        [feature.get("collection"), feature.get("id")] if isinstance(feature, dict) else None for feature in features
    ]
    return hashlib.sha256(json.dumps(ids, default=str).encode()).digest()


def _sketch(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
