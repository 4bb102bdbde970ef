"""Asks a running daemon how it is, as an orchestrator and a Prometheus would."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.error
import urllib.request
from collections import defaultdict
from dataclasses import dataclass, field

from tests.daemons import DaemonFolder


@dataclass(kw_only=True)
class Probed:
    """What a daemon answered while it ran."""

    url: str | None = None
    statuses: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Path to the statuses, in the order of asking."""
    pages: dict[str, str] = field(default_factory=dict)
    """Path to the last answer."""


def probe_to_its_end(process: subprocess.Popen[bytes], home: DaemonFolder, *, timeout_s: float) -> Probed:
    """Probe once a second until the process ends; its port is read from its JSON log. Kills it when it takes longer."""
    probed = Probed()
    deadline = time.monotonic() + timeout_s
    while process.poll() is None:
        if time.monotonic() > deadline:
            process.kill()
            process.wait()
            raise AssertionError(f"the daemon did not come to its end in {timeout_s} s:\n{home.tail()}")
        if probed.url is None:
            probed.url = _served_at(home)
        else:
            for path in ("/livez", "/readyz", "/metrics"):
                _ask(probed, path)
        time.sleep(1.0)
    return probed


def _served_at(home: DaemonFolder) -> str | None:
    for line in home.log.read_text(encoding="utf-8").splitlines():
        if '"http.start"' in line:
            return str(json.loads(line)["url"])
    return None


def _ask(probed: Probed, path: str) -> None:
    try:
        with urllib.request.urlopen(f"{probed.url}{path}", timeout=20) as answer:
            probed.pages[path] = answer.read().decode()
            probed.statuses[path].append(int(answer.status))
    except urllib.error.HTTPError as error:
        with error:
            probed.pages[path] = error.read().decode()
        probed.statuses[path].append(error.code)
    except OSError:
        return  # It ended, or is ending, between two questions.
