"""What a catalog's hrefs may open. Nothing is opened here: each text is judged by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.errors import AccessRefused
from daemon.score.access import AccessPolicy

POLICY = AccessPolicy(
    hosts=("sentinel-cogs.s3.us-west-2.amazonaws.com", "*.blob.core.windows.net", "tiles.example.org:8443"),
    http_hosts=("127.0.0.1:8123", "assets.example.org:80"),
)
ITEM = "https://earth-search.aws.element84.com/v1/collections/c/items/i"


@pytest.mark.parametrize(
    "href",
    [
        "https://sentinel-cogs.s3.us-west-2.amazonaws.com/a/B04.tif",
        "https://SENTINEL-COGS.s3.us-west-2.amazonaws.com:443/a/B04.tif",
        "https://sentinel2l2a01.blob.core.windows.net/a.tif?se=2026&sig=a%2Fb",
        "https://tiles.example.org:8443/a.tif",
        "http://127.0.0.1:8123/a.tif",
        "http://assets.example.org/a.tif",
    ],
)
def test_what_is_listed_passes_unchanged(href: str) -> None:
    assert POLICY.approve(href, base=ITEM) == href


@pytest.mark.parametrize(
    ("href", "text"),
    [
        ("https://example.com/a.tif", "add it to access.hosts"),
        ("https://evil-sentinel-cogs.s3.us-west-2.amazonaws.com/a.tif", "not allowed"),
        ("https://blob.core.windows.net.example.com/a.tif", "not allowed"),
        ("https://sentinel-cogs.s3.us-west-2.amazonaws.com:8443/a.tif", "not allowed"),
        ("https://tiles.example.org/a.tif", "not allowed"),
        ("http://sentinel-cogs.s3.us-west-2.amazonaws.com/a.tif", "access.http_hosts"),
        ("http://127.0.0.1:8124/a.tif", "access.http_hosts"),
        ("http://localhost:8123/a.tif", "access.http_hosts"),
        ("https://user:pw@sentinel-cogs.s3.us-west-2.amazonaws.com/a.tif", "user name or password"),
        ("https://sentinel-cogs.s3.us-west-2.amazonaws.com@example.com/a.tif", "user name or password"),
        ("s3://sentinel-s2-l1c/a.jp2", "scheme 's3'"),
        ("ftp://sentinel-cogs.s3.us-west-2.amazonaws.com/a.tif", "scheme 'ftp'"),
        ("zip:///tmp/a.zip!a.tif", "scheme"),
        ("data:image/tiff;base64,AAAA", "scheme"),
        ("vrt:///etc/passwd", "scheme"),
        ("GTIFF_DIR:1:https://sentinel-cogs.s3.us-west-2.amazonaws.com/a.tif", "not allowed"),
        ("/vsicurl/https://sentinel-cogs.s3.us-west-2.amazonaws.com/a.tif", "virtual file system"),
        ("/vsizip//tmp/a.zip/a.tif", "virtual file system"),
        ("/VSIMEM/a.tif", "virtual file system"),
        ("file:///etc/passwd", "local file"),
        ("file://host/share/a.tif", "another machine"),
        ("https:///a.tif", "host name"),
        ("https://sentinel-cogs.s3.us-west-2.amazonaws.com:port/a.tif", "port"),
        ("https://sentinel-cogs.s3.us-west-2.amazonaws.com\\@example.com/a.tif", "characters"),
        ("https://sentinel-cogs.s3.us-west-2.amazonaws.com/a.tif\n", "characters"),
        ("https://sentinel-cogs.s3.us-west-2.amazonaws.com/a b.tif", "characters"),
        ("https://exa%6dple.org/a.tif", "host name"),
        ("https://еxample.org/a.tif", "host name"),
        ("https://[::1/a.tif", "not a URL"),
        ("", "empty"),
    ],
)
def test_what_is_not_listed_is_refused(href: str, text: str) -> None:
    with pytest.raises(AccessRefused, match=text):
        POLICY.approve(href, base=ITEM)


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "10.0.0.8",
        "172.16.3.4",
        "192.168.1.1",
        "100.64.0.1",
        "0.0.0.0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:a9fe:a9fe]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "[2002:7f00:1::]",
        "localhost",
        "localhost.",
        "db.localhost",
        "metadata.google.internal",
    ],
)
def test_private_addresses_are_refused_in_any_notation_even_by_a_glob(host: str) -> None:
    with pytest.raises(AccessRefused, match="private, loopback or link-local"):
        AccessPolicy(hosts=("*",)).approve(f"https://{host}/latest/meta-data")


def test_an_address_is_reached_only_where_it_is_listed_itself() -> None:
    assert AccessPolicy(hosts=("10.0.0.8",)).approve("https://10.0.0.8/a.tif")
    with pytest.raises(AccessRefused, match="a bare address"):
        AccessPolicy(hosts=("*",)).approve("https://8.8.8.8/a.tif")


def test_the_default_policy_allows_nothing(tmp_path: Path) -> None:
    for href in ("https://example.org/a.tif", "http://127.0.0.1/a.tif", str(tmp_path / "a.tif")):
        with pytest.raises(AccessRefused):
            AccessPolicy().approve(href, base=str(tmp_path))


# Relative hrefs.


def test_relative_hrefs_of_a_remote_item_stay_remote_and_are_judged() -> None:
    base = "https://sentinel-cogs.s3.us-west-2.amazonaws.com/2024/S2A/item.json"
    assert POLICY.approve("./B04.tif", base=base) == base.replace("item.json", "B04.tif")
    assert POLICY.approve("/etc/passwd", base=base).startswith("https://sentinel-cogs")
    with pytest.raises(AccessRefused, match="not allowed"):
        POLICY.approve("//example.com/a.tif", base=base)


# Local files.


@pytest.fixture
def local(tmp_path: Path) -> AccessPolicy:
    (tmp_path / "catalog").mkdir()
    (tmp_path / "catalog" / "item.json").write_text("{}")
    (tmp_path / "catalog" / "a b.tif").touch()
    (tmp_path / "secret.tif").touch()
    return AccessPolicy(local_roots=(tmp_path / "catalog",))


@pytest.mark.parametrize("base", ["catalog", "catalog/item.json", "file"])
@pytest.mark.parametrize("href", ["a b.tif", "./a b.tif", "sub/../a b.tif"])
def test_relative_files_of_a_local_catalog_are_found(local: AccessPolicy, tmp_path: Path, base: str, href: str) -> None:
    where = (tmp_path / "catalog/item.json").as_uri() if base == "file" else str(tmp_path / base)
    assert local.approve(href, base=where) == str(tmp_path / "catalog" / "a b.tif")


def test_absolute_files_and_file_urls_below_a_root_are_found(local: AccessPolicy, tmp_path: Path) -> None:
    path = tmp_path / "catalog" / "a b.tif"
    assert local.approve(path.as_uri(), base=str(tmp_path / "catalog")) == str(path)


@pytest.mark.parametrize("href", ["../secret.tif", "/etc/passwd", "file:///etc/passwd", "sub/../../secret.tif"])
def test_files_outside_the_roots_are_refused(local: AccessPolicy, tmp_path: Path, href: str) -> None:
    with pytest.raises(AccessRefused, match=r"access\.local_roots"):
        local.approve(href, base=str(tmp_path / "catalog"))


def test_a_link_out_of_the_roots_is_refused(local: AccessPolicy, tmp_path: Path) -> None:
    (tmp_path / "catalog" / "link.tif").symlink_to(tmp_path / "secret.tif")
    with pytest.raises(AccessRefused, match=r"secret\.tif lies outside"):
        local.approve("link.tif", base=str(tmp_path / "catalog"))


@pytest.mark.parametrize("base", [None, ITEM])
def test_a_catalog_that_is_not_local_opens_no_local_file(local: AccessPolicy, tmp_path: Path, base: str | None) -> None:
    with pytest.raises(AccessRefused, match="local file"):
        local.approve((tmp_path / "catalog" / "a.tif").as_uri(), base=base)
