"""A digest of the files that a run was trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def digest_of_files(root: Path, files: Iterable[Path]) -> str:
    """SHA-256, hex, over the names below ``root`` and the contents of ``files``, whatever their order.

    Names are POSIX paths relative to ``root``, so the digest is the same wherever the folder lies.
    """
    total = hashlib.sha256()
    for path in sorted(files):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        total.update(f"{path.relative_to(root).as_posix()} {content}\n".encode())
    return total.hexdigest()
