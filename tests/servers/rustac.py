"""A badly behaved real STAC API: ``rustac serve``, which answers conditions that it does not know with nothing."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.require import missing

_START_S = 30.0
RustacServe = Callable[[Sequence[Mapping[str, Any]]], str]


@pytest.fixture
def rustac(tmp_path: Path) -> Iterator[RustacServe]:
    """Serves the Items given from memory, on a free loopback port; returns the landing page."""
    program = shutil.which("rustac", path=str(Path(sys.executable).parent)) or shutil.which("rustac")
    if program is None:
        missing("rustac", "pip install 'vigie[servers]'")
    started: list[subprocess.Popen[bytes]] = []

    def serve(items: Sequence[Mapping[str, Any]]) -> str:
        path = tmp_path / f"items-{len(started)}.json"
        path.write_text(json.dumps({"type": "FeatureCollection", "features": list(items)}))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        with (tmp_path / f"rustac-{len(started)}.log").open("wb") as log:
            command = [program, "serve", str(path), "--addr", f"127.0.0.1:{port}"]
            started.append(subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path))
        url = f"http://127.0.0.1:{port}/"
        _await_answer(url, started[-1])
        return url

    yield serve
    for process in started:
        process.terminate()
        process.wait(timeout=20)


def _await_answer(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"rustac did not start ({error})") from error
            time.sleep(0.05)
