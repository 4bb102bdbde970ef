"""The cache of TensorRT plans: built once for each network, device and version, and trusted only if we signed it.

A build takes minutes. Processes that need the same plan at once agree by a file lock: one builds, the others wait and
load what it built. The lock ends with its process, so a builder that is killed leaves no one waiting.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from engine.runners.signed_files import NotTrusted, SignedFiles

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DeviceIdentity:
    """What a plan, or a timing, holds for. TensorRT promises nothing across any of these."""

    name: str
    """Of the GPU, such as ``NVIDIA H100``."""
    compute_capability: str
    """Such as ``9.0``."""
    driver: str
    """Version of the NVIDIA driver."""
    library: str
    """Version of TensorRT."""


@dataclass(frozen=True, kw_only=True)
class PlanKey:
    """What a plan was built from and for; plans of unequal keys are different plans."""

    onnx_sha256: str
    """Of the graph that TensorRT reads: weights, precision and FP32 islands are in it."""
    device: DeviceIdentity
    precision: str
    """``fp32``, ``fp16`` or ``bf16``."""
    profile: str
    """The optimisation profile: smallest, usual and largest batch."""

    @property
    def label(self) -> str:
        """All of it as one line of canonical JSON."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @property
    def file_name(self) -> str:
        """Where the plan is kept."""
        return f"{sha256(self.label.encode()).hexdigest()[:32]}.plan"


@dataclass(frozen=True, kw_only=True)
class KeptPlan:
    """A plan and where it came from."""

    content: bytes
    built: bool
    """Whether this call built it; false: it was loaded."""


class PlanCache:
    """Plans and timing caches in one private folder. May be used by several threads and processes at once."""

    def __init__(self, folder: Path) -> None:
        """Open ``folder / "plans"`` with the key ``folder / "plan.key"``.

        Raises:
            RunnerUnavailable: the folder or the key is not this user's alone.
        """
        self.files = SignedFiles(folder / "plans", key_file=folder / "plan.key")

    def get(
        self, key: PlanKey, build: Callable[[], bytes], *, wait: Callable[[], None] = lambda: _pause(0.2)
    ) -> KeptPlan:
        """The plan of ``key``, loaded or built.

        Args:
            key: what is wanted.
            build: makes the plan; called by one process at a time. What it raises comes out, and nothing is kept.
            wait: called again and again while another process builds; sleeps a little, and raises to give up.
        """
        plan = self._load(key)
        if plan is None:
            with self._locked(key.file_name, wait):
                # Another process may have built it while this one waited.
                plan = self._load(key)
                if plan is None:
                    content = build()
                    self.files.write(key.file_name, key.label, content)
                    return KeptPlan(content=content, built=True)
        return KeptPlan(content=plan, built=False)

    def remove(self, key: PlanKey) -> None:
        """Forget a plan: one that the device refuses to load, for example."""
        self.files.remove(key.file_name)

    def timing(self, device: DeviceIdentity) -> bytes:
        """The timing cache of a device, empty where there is none that can be trusted."""
        name, label = _timing(device)
        try:
            return self.files.read(name, label)
        except FileNotFoundError:
            return b""
        except NotTrusted as error:
            log.warning("A timing cache is not used: %s. It is measured anew: %s", error, self.files.folder / name)
            return b""

    def keep_timing(self, device: DeviceIdentity, content: bytes) -> None:
        """Keep what a build measured; of two builds at once the last one's is kept."""
        name, label = _timing(device)
        self.files.write(name, label, content)

    def _load(self, key: PlanKey) -> bytes | None:
        try:
            return self.files.read(key.file_name, key.label)
        except FileNotFoundError:
            return None
        except NotTrusted as error:
            log.warning("A plan is refused and built anew: %s: %s", self.files.folder / key.file_name, error)
            return None

    @contextmanager
    def _locked(self, name: str, wait: Callable[[], None]) -> Iterator[None]:
        # The lock file stays: removing it would let a third process lock a new file beside a waiting second one.
        handle = os.open(self.files.folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            told = False
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if not told:
                        log.info("Another process builds this plan; waiting for it: %s", name)
                        told = True
                    wait()
            yield
        finally:
            os.close(handle)


def _timing(device: DeviceIdentity) -> tuple[str, str]:
    label = json.dumps({"timing": asdict(device)}, sort_keys=True, separators=(",", ":"))
    return f"{sha256(label.encode()).hexdigest()[:32]}.timing", label


def _pause(seconds: float) -> None:
    threading.Event().wait(seconds)
