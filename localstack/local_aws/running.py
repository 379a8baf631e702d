"""One emulator in the background, and the folder that tells about it.

The emulator holds a lock on `alive` from its birth: it inherits the open file, and the kernel lets
the lock go when it ends, however it ends. So a process number in `record.json` is trusted only
while the lock is held, and a number that was given to another process is never signalled. What an
emulator that was killed left behind is cleared by the next `up` or `down`.
"""

import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from local_aws import Mistake
from local_aws.emulators import Emulator

POLL_SECONDS = 0.05
# LocalStack may hang on SIGTERM; there is nothing to save.
TERMINATE_SECONDS_MAX = 5
KILL_SECONDS_MAX = 5
LOG_TAIL_LINES = 20


@dataclass(frozen=True)
class Record:
    """A running emulator."""

    pid: int
    emulator: str
    port: int

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"


class Place:
    """The folder of one emulator: its lock, its log, and all that it writes."""

    def __init__(self, folder: Path):
        self.folder = folder.resolve()
        self.log = self.folder / "log"
        self.exports = self.folder / "env"
        self._alive = self.folder / "alive"
        self._record = self.folder / "record.json"

    @contextmanager
    def alone(self):
        """Holds off every other `up` and `down` of this place."""
        _make_private(self.folder)
        with (self.folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def running(self) -> Record | None:
        """Returns the emulator that runs here, if one does."""
        if self._is_free():
            return None
        return Record(**json.loads(self._record.read_text()))

    def start(self, emulator: Emulator, port: int) -> Record:
        """Starts the emulator and waits until it answers; one that does not is stopped again."""
        _refuse_a_taken_port(port)
        self.clear()
        (self.folder / "tmp").mkdir()
        (self.folder / "data").mkdir()
        with self._alive.open("w") as alive, self.log.open("w") as log:
            fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
            process = subprocess.Popen(
                emulator.command,
                cwd=self.folder,
                env=emulator.environment(port, self.folder),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[alive.fileno()],
            )
        record = Record(process.pid, emulator.name, port)
        self._record.write_text(json.dumps(asdict(record)))
        try:
            self._wait_until_ready(emulator, record, process)
        except BaseException:
            self.stop(record)
            process.wait()
            raise
        return record

    def stop(self, record: Record):
        """Stops the emulator and every process that it started."""
        if not self._is_free():
            _send(signal.SIGTERM, record.pid)
        if not self._wait_until_free(TERMINATE_SECONDS_MAX):
            _send(signal.SIGKILL, record.pid)
        for left in _session(record.pid):
            _send(signal.SIGKILL, left)
        if not self._wait_until_free(KILL_SECONDS_MAX):
            raise Mistake(f"process {record.pid} ({record.emulator}) cannot be killed")

    def clear(self):
        """Removes what an emulator wrote here; its log stays."""
        for folder in ("tmp", "data", "cache"):
            shutil.rmtree(self.folder / folder, ignore_errors=True)
        for file in (self._record, self.exports):
            file.unlink(missing_ok=True)

    def _is_free(self) -> bool:
        with self._alive.open("a") as alive:
            try:
                fcntl.flock(alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    def _wait_until_free(self, seconds: float) -> bool:
        give_up = time.monotonic() + seconds
        while not self._is_free():
            if time.monotonic() > give_up:
                return False
            time.sleep(POLL_SECONDS)
        return True

    def _wait_until_ready(self, emulator: Emulator, record: Record, process: subprocess.Popen):
        give_up = time.monotonic() + emulator.ready_seconds_max
        while not _answers(record.endpoint):
            if process.poll() is not None:
                raise Mistake(f"{emulator.name} ended at its start. {self._log_tail()}")
            if time.monotonic() > give_up:
                raise Mistake(
                    f"{emulator.name} does not answer on port {record.port} within"
                    f" {emulator.ready_seconds_max} s. {self._log_tail()}"
                )
            time.sleep(POLL_SECONDS)

    def _log_tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return "\n".join([f"The end of {self.log}:", *lines])


def _make_private(folder: Path):
    """Makes the folder, and what is missing above it, for this user alone."""
    usual = os.umask(0o077)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    finally:
        os.umask(usual)


def _refuse_a_taken_port(port: int):
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise Mistake(f"port {port}: {error.strerror}; choose another with --port") from error


def _answers(endpoint: str) -> bool:
    # Both emulators serve this path. Never through a proxy.
    straight = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with straight.open(f"{endpoint}/_localstack/health", timeout=2) as reply:
            return reply.status == 200
    except OSError:
        return False


def _session(leader: int) -> list[int]:
    """Returns the processes of the session that the emulator leads, the functions it runs among them."""
    return [pid for pid in _all_processes() if _session_of(pid) == leader]


def _all_processes() -> list[int]:
    if os.path.isdir("/proc/self"):
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    listed = subprocess.run(["ps", "-A", "-o", "pid="], capture_output=True, text=True, check=True)
    return [int(pid) for pid in listed.stdout.split()]


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):
        return None


def _send(number: signal.Signals, pid: int):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # It ended by itself.
