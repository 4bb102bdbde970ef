"""Files that only this user may have written: a private folder, and an HMAC in each file.

A TensorRT plan is executable code, and TensorRT's own check finds damage, not malice. So nothing is handed to it that
this user did not write on this machine: the folder is the user's alone (0700), and each file carries an HMAC-SHA256
(RFC 2104) over what it is for and what it holds, by a key that only the user may read (0600).

::

    magic | HMAC, 32 bytes | length of the label, 4 bytes big-endian | label, UTF-8 | content
"""

from __future__ import annotations

import contextlib
import hmac
import os
import secrets
import stat
import tempfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from engine.errors import RunnerUnavailable

MAGIC = b"VIGIE-SIGNED-1\n"
KEY_BYTES = 32


class NotTrusted(Exception):
    """A file is truncated, altered, for something else, or was signed by somebody else; the text says which."""


class SignedFiles:
    """A folder of signed files. May be used by several threads and processes at once."""

    def __init__(self, folder: Path, *, key_file: Path) -> None:
        """Make or check the folder and the key.

        Raises:
            RunnerUnavailable: others could write the folder or read the key, or neither can be made.
        """
        self.folder = folder
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            # The umask may take bits away, never add them.
            folder.mkdir(mode=0o700, exist_ok=True)
            _require_private(folder, stat.S_ISDIR, "folder", "700")
            self._key = _key(key_file)
        except OSError as error:
            raise RunnerUnavailable(
                f"plans cannot be kept in {folder} ({error.strerror}): set cache_dir to a folder of your own"
            ) from error

    def read(self, name: str, label: str) -> bytes:
        """The content of a file that was written for ``label``.

        Raises:
            FileNotFoundError: there is no such file.
            NotTrusted: it must not be used.
        """
        content = (self.folder / name).read_bytes()
        start = len(MAGIC) + 32
        if not content.startswith(MAGIC) or len(content) < start + 4:
            raise NotTrusted("it is truncated, or no signed file")
        if not hmac.compare_digest(content[len(MAGIC) : start], self._sign(content[start:])):
            raise NotTrusted("its signature is wrong: it is truncated, was altered, or another user wrote it")
        end = start + 4 + int.from_bytes(content[start : start + 4], "big")
        if content[start + 4 : end] != label.encode():
            raise NotTrusted(f"it is for {content[start + 4 : end].decode()}")
        return content[end:]

    def write(self, name: str, label: str, content: bytes) -> None:
        """Write a file so that others see all of it or none; the last of two writers wins."""
        text = label.encode()
        body = len(text).to_bytes(4, "big") + text + content
        _write_whole(self.folder / name, MAGIC + self._sign(body) + body)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        (self.folder / name).unlink(missing_ok=True)

    def _sign(self, body: bytes) -> bytes:
        return hmac.new(self._key, body, sha256).digest()


def _key(path: Path) -> bytes:
    """The user's key; made at the first use. Two processes that make one at once end with the same."""
    for _ in range(2):
        try:
            # O_NOFOLLOW: a link could name a file whose content somebody else knows.
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            _make_key(path)
            continue
        with os.fdopen(handle, "rb") as file:
            _require_private(path, stat.S_ISREG, "key", "600")
            key = file.read()
        if len(key) == KEY_BYTES:
            return key
        # A damaged key signs nothing; with a new one every file is refused, and made anew.
        path.unlink()
        _make_key(path)
    return path.read_bytes()


def _make_key(path: Path) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # 0600 by itself
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        # A link fails where the name exists: the first of two processes wins, and both read its key.
        with contextlib.suppress(FileExistsError):
            os.link(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def _require_private(path: Path, is_kind: Callable[[int], bool], what: str, mode: str) -> None:
    told = path.lstat()
    owner = os.geteuid()
    if not is_kind(told.st_mode) or told.st_uid != owner or told.st_mode & 0o077:
        raise RunnerUnavailable(
            f"the plan {what} {path} could be used by others (owner {told.st_uid}, mode "
            f"{stat.S_IMODE(told.st_mode):o}), and plans are executable code: make it yours with mode {mode}, or "
            "remove it, and start again"
        )


def _write_whole(path: Path, content: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
