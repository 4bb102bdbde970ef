"""Which files and hosts a catalog's hrefs may lead to.

A catalog is somebody else's text. An href in it may name the metadata service of a cloud machine, a file of this
machine, or one of GDAL's many virtual file systems; so whatever is not plainly allowed is refused here, before anything
is opened. The raster reader opens what comes out of :meth:`AccessPolicy.approve` as it stands.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from daemon.errors import AccessRefused

_SCHEME = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+:")
_HOST = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?|[0-9a-f:.]*:[0-9a-f:.]*")
_LOCAL_NAMES = ("localhost", "localhost.localdomain", "ip6-localhost")
_LOCAL_SUFFIXES = (".localhost", ".local", ".internal")

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, kw_only=True)
class AccessPolicy:
    """What may be opened. The default allows nothing."""

    hosts: tuple[str, ...] = ()
    """Hosts reached over https: names, globs (``*.blob.core.windows.net``), each with ``:port`` where it is not 443."""
    http_hosts: tuple[str, ...] = ()
    """``host:port`` pairs reached over plain http, exactly as written; the one way to a private address or loopback."""
    local_roots: tuple[Path, ...] = ()
    """Folders below which local files may be opened, for catalogs that are themselves local."""

    def approve(self, href: str, *, base: str | None = None) -> str:
        """What the raster reader may open for an href: an absolute local path, or an http(s) URL.

        Args:
            href: as a catalog wrote it; relative ones are resolved against ``base``.
            base: where the text that holds it was read: the Item's own URL, file or folder. Local files are opened
                only where this is local too.

        Raises:
            AccessRefused: the policy does not allow it; the message says which line of the configuration would.
        """
        text = href.strip() if href.isprintable() else ""
        if not text:
            raise AccessRefused(f"href {href!r} is empty or holds characters that cannot be printed")
        if text.lower().startswith("/vsi"):
            raise AccessRefused(f"href {href!r} names a virtual file system of GDAL; those are never opened")
        base_is_remote = base is not None and base.lower().startswith(("http://", "https://"))
        if base_is_remote and base is not None and _SCHEME.match(text) is None:
            text = urljoin(base, text)
        if _SCHEME.match(text) is None:
            return self._local(Path(text), href, base)
        if not text.lower().startswith("file:") and any(mark in text for mark in "\\ "):
            raise AccessRefused(f"href {href!r} holds characters that no URL has")
        url = _split(text)
        if url.scheme == "file":
            if url.netloc not in ("", "localhost"):
                raise AccessRefused(f"href {href!r} names a file of another machine")
            return self._local(Path(unquote(url.path)), href, base)
        if url.scheme not in ("http", "https"):
            raise AccessRefused(f"href {href!r} has scheme {url.scheme!r}; only https (and local files) are read")
        self._check_remote(url, href)
        return text

    def _local(self, path: Path, href: str, base: str | None) -> str:
        if base is None or base.lower().startswith(("http://", "https://")):
            raise AccessRefused(f"href {href!r} names a local file, but the catalog that holds it is not local")
        folder = Path(unquote(urlsplit(base).path)) if base.lower().startswith("file:") else Path(base)
        if folder.suffix and not folder.is_dir():
            folder = folder.parent
        # Resolving follows links and `..`, so neither leads out of the roots.
        real = (folder / path).resolve()
        if not any(real.is_relative_to(root.resolve()) for root in self.local_roots):
            raise AccessRefused(
                f"file {real} lies outside the folders that may be read "
                f"({', '.join(str(root) for root in self.local_roots) or 'none'}); add its folder to access.local_roots"
            )
        return str(real)

    def _check_remote(self, url: SplitResult, href: str) -> None:
        if url.username is not None or url.password is not None or "@" in url.netloc:
            raise AccessRefused(f"href of host {url.hostname!r} carries a user name or password; remove it")
        try:
            port = url.port
        except ValueError as error:
            raise AccessRefused(f"href {href!r} has no valid port") from error
        host = (url.hostname or "").rstrip(".")
        if _HOST.fullmatch(host) is None:
            raise AccessRefused(f"href {href!r} has no valid host name")
        if url.scheme == "http":
            if f"{host}:{port or 80}" not in {name.lower() for name in self.http_hosts}:
                raise AccessRefused(
                    f"href {href!r} is plain http; only https is read. "
                    f"If {host}:{port or 80} is yours, add it to access.http_hosts"
                )
            return
        name = host if port in (None, 443) else f"{host}:{port}"
        listed = {pattern.lower() for pattern in self.hosts}
        if name in listed:
            return
        address = _address(host)
        if address is not None or host in _LOCAL_NAMES or host.endswith(_LOCAL_SUFFIXES):
            # A glob never covers a bare address: `*` would else cover the machine's own metadata service.
            kind = "a private, loopback or link-local" if address is None or not _is_public(address) else "a bare"
            raise AccessRefused(
                f"href {href!r} leads to {kind} address ({address or host}), which is not listed by name"
            )
        if not any(fnmatchcase(name, pattern) for pattern in listed):
            raise AccessRefused(
                f"host {name!r} is not allowed (href {href!r}); if you trust it, add it to access.hosts"
            )


def _split(text: str) -> SplitResult:
    try:
        return urlsplit(text)
    except ValueError as error:
        raise AccessRefused(f"href {text!r} is not a URL: {error}") from error


def _address(host: str) -> _Address | None:
    """The IP address that a host text is in any notation that resolvers accept: dotted, decimal, hex, octal, short."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        pass
    try:
        return ipaddress.IPv4Address(socket.inet_aton(host))
    except OSError:
        return None


def _is_public(address: _Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is not None:
            return _is_public(inner)
    return address.is_global and not address.is_multicast
