"""Daemons as real child processes, for tests that kill them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

VIGIE = str(Path(sys.executable).with_name("vigie"))


@dataclass(frozen=True, kw_only=True)
class DaemonFolder:
    """A folder with a configuration, and what a daemon leaves in it."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "vigie.yaml"

    @property
    def log(self) -> Path:
        return self.folder / "daemon.log"

    def write_config(self, tree: Mapping[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config.write_text(yaml.safe_dump(json.loads(json.dumps(tree)), sort_keys=False), encoding="utf-8")

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start ``vigie run``; its output goes to the log."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [VIGIE, "run", "--config", str(self.config), *arguments],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
            )

    def run_until_idle(self, *, timeout_s: float = 240.0) -> None:
        """Run to the end of all work; raises with the end of the log where that fails."""
        process = self.start("--until-idle")
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            raise AssertionError(f"the daemon did not come to its end in {timeout_s} s:\n{self.tail()}") from None
        assert code == 0, self.tail()

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def events(self, name: str = "alerts.jsonl") -> list[dict[str, Any]]:
        """The events of a JSON-lines sink, repeats included; a torn last line is left out, as a reader would."""
        path = self.folder / name
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        return [json.loads(line) for line in lines]
