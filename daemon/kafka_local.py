"""A real Kafka broker on this machine, for the demo, for tests and for trying things out.

The broker is Apache Kafka itself in KRaft mode (one node, broker and controller), run from its jars by
the ``java`` on the path. Maven fetches the jars once into a cache folder. Nothing listens beyond the
loopback address, and the process is stopped by its own id.

``python -m daemon.kafka_local FOLDER`` runs one until it is interrupted.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

from daemon.errors import SinkUnavailable

KAFKA_VERSION = "4.4.0"
LOG4J_VERSION = "2.25.5"
"""Must be the log4j that this Kafka pulls in, or two copies land on the class path and the broker logs nothing."""
JAVA_MINIMUM = 17
CLUSTER_ID = "VmlnaWVMb2NhbEJyb2tlcg"
"""Any 22 characters of URL-safe base64."""

_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>vigie</groupId>
  <artifactId>kafka-local</artifactId>
  <version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId>
      <artifactId>kafka_2.13</artifactId>
      <version>{KAFKA_VERSION}</version>
    </dependency>
    <dependency>
      <groupId>org.apache.logging.log4j</groupId>
      <artifactId>log4j-slf4j-impl</artifactId>
      <version>{LOG4J_VERSION}</version>
    </dependency>
  </dependencies>
</project>
"""

_LOG4J = """rootLogger.level = WARN
rootLogger.appenderRef.out.ref = out
logger.server.name = kafka.server
logger.server.level = INFO
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{ISO8601} %p %c: %m%n
"""


def _properties(folder: Path, port: int, controller_port: int) -> str:
    """Return server.properties of a single node whose broker session ends 2 s after a ``kill -9``."""
    return "\n".join(
        (
            "process.roles=broker,controller",
            "node.id=1",
            f"controller.quorum.voters=1@127.0.0.1:{controller_port}",
            f"listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}",
            f"advertised.listeners=PLAINTEXT://127.0.0.1:{port}",
            "controller.listener.names=CONTROLLER",
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name=PLAINTEXT",
            f"log.dirs={folder / 'data'}",
            "offsets.topic.replication.factor=1",
            "offsets.topic.num.partitions=3",
            "transaction.state.log.replication.factor=1",
            "transaction.state.log.min.isr=1",
            "transaction.state.log.num.partitions=3",
            "share.coordinator.state.topic.replication.factor=1",
            "share.coordinator.state.topic.min.isr=1",
            "group.initial.rebalance.delay.ms=0",
            "auto.create.topics.enable=false",
            # With the defaults a broker killed by -9 is not let back in for about 10 s more.
            "broker.session.timeout.ms=2000",
            "broker.heartbeat.interval.ms=500",
            "",
        )
    )


def cache_folder() -> Path:
    """Return where the jars are kept between runs."""
    return Path.home() / ".cache" / "vigie" / f"kafka-{KAFKA_VERSION}"


def why_not(cache: Path | None = None) -> str | None:
    """Return why no broker can run here, with the remedy, or None where one can."""
    java = shutil.which("java")
    remedy = "install a Java runtime and Maven (Debian: apt-get install openjdk-17-jre-headless maven)"
    if java is None:
        return f"no `java` on the path; {remedy}"
    told = subprocess.run([java, "-version"], capture_output=True, text=True, check=False, timeout=60).stderr
    found = re.search(r'version "(\d+)', told)
    if found is None or int(found.group(1)) < JAVA_MINIMUM:
        return (
            f"Kafka {KAFKA_VERSION} needs Java {JAVA_MINIMUM}, `java -version` says {told.splitlines()[:1]}; {remedy}"
        )
    if not (cache or cache_folder()).is_dir() and shutil.which("mvn") is None:
        return f"Kafka's jars are not in {cache or cache_folder()} and there is no `mvn` to fetch them; {remedy}"
    return None


def fetch_jars(cache: Path | None = None) -> Path:
    """Return the folder of Kafka's jars (45 MB), fetching them with Maven where they are not there yet.

    Raises:
        SinkUnavailable: Maven is absent or failed.
    """
    target = cache or cache_folder()
    if target.is_dir():
        return target
    maven = shutil.which("mvn")
    if maven is None:
        raise SinkUnavailable(f"cannot fetch Kafka's jars: {why_not(cache)}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        Path(scratch, "pom.xml").write_text(_POM)
        command = [
            maven,
            "-B",
            "-q",
            "dependency:copy-dependencies",
            "-DincludeScope=runtime",
            "-DoutputDirectory=libs",
        ]
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False, timeout=600)
        if done.returncode != 0:
            raise SinkUnavailable(
                f"Maven could not fetch Kafka {KAFKA_VERSION} (exit {done.returncode}): {done.stdout.strip()[-500:]}; "
                "check that this machine reaches a Maven repository, or set a mirror in ~/.m2/settings.xml"
            )
        # A rename is atomic: a second process sees either nothing or all of it.
        with contextlib.suppress(OSError):
            Path(scratch, "libs").rename(target)
    if not target.is_dir():
        raise SinkUnavailable(f"cannot keep Kafka's jars in {target}; is the folder writable?")
    return target


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class LocalBroker:
    """A broker in a folder of its own, as a context manager; its data outlives a stop and a restart."""

    def __init__(self, folder: Path, port: int | None = None, *, cache: Path | None = None) -> None:
        self.folder = folder.resolve()
        """Holds the configuration, the log ``broker.log`` and the data."""
        self.port = port or free_port()
        self._controller_port = free_port()
        self._cache = cache
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def bootstrap(self) -> str:
        """``host:port`` for clients."""
        return f"127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        """True while the broker's process lives."""
        return self._process is not None and self._process.poll() is None

    def __enter__(self) -> LocalBroker:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, *, timeout_s: float = 60.0) -> None:
        """Start the broker and wait until it answers.

        Raises:
            SinkUnavailable: Java or the jars are missing, the process ended, or nothing answered in time.
        """
        if self.running:
            return
        java = shutil.which("java")
        if java is None:
            raise SinkUnavailable(f"cannot start a Kafka broker: {why_not(self._cache)}")
        libs = f"{fetch_jars(self._cache)}/*"
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "server.properties"
        config.write_text(_properties(self.folder, self.port, self._controller_port))
        logging = self.folder / "log4j2.properties"
        logging.write_text(_LOG4J)
        # Small heap, serial collector, first-tier compiler: a quick start matters more than throughput here.
        run = [java, "-Xms128m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        run += [f"-Dlog4j2.configurationFile={logging}", "-cp", libs]
        with (self.folder / "broker.log").open("ab") as log:
            if not (self.folder / "data" / "meta.properties").is_file():
                tool = [*run, "kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(config)]
                done = subprocess.run(
                    tool, stdout=log, stderr=log, stdin=subprocess.DEVNULL, check=False, timeout=timeout_s
                )
                if done.returncode != 0:
                    raise SinkUnavailable(
                        f"Kafka could not format {self.folder / 'data'}; see {self.folder / 'broker.log'}"
                    )
            before = log.tell()
            self._process = subprocess.Popen(
                [*run, "kafka.Kafka", str(config)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        deadline = time.monotonic() + timeout_s
        # The broker says so once it is registered with the controller, unfenced, and serves clients.
        while b"Kafka Server started" not in (self.folder / "broker.log").read_bytes()[before:]:
            if not self.running or time.monotonic() > deadline:
                self.kill()
                raise SinkUnavailable(f"the Kafka broker did not come up; see {self.folder / 'broker.log'}")
            time.sleep(0.1)

    def stop(self, *, timeout_s: float = 20.0) -> None:
        """End the broker in good order (SIGTERM), by force where it does not go in time."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """End the broker at once (SIGKILL), as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def main() -> None:
    """Run a broker in the folder that is named on the command line, on port 9092 where that is free."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m daemon.kafka_local FOLDER")
    with socket.socket() as probe:
        taken = probe.connect_ex(("127.0.0.1", 9092)) == 0
    with LocalBroker(Path(sys.argv[1]), None if taken else 9092) as broker, contextlib.suppress(KeyboardInterrupt):
        sys.stdout.write(f"Kafka {KAFKA_VERSION} answers at {broker.bootstrap}; Ctrl-C ends it\n")
        sys.stdout.flush()
        while broker.running:
            time.sleep(0.5)


if __name__ == "__main__":
    main()
