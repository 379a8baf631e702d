"""The scripts under test, each emulator of a test on a port and in a folder of its own."""

import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
LOCALSTACK = HERE.parent
sys.path.insert(0, str(LOCALSTACK))

# The emulator that the tests run on.
EMULATOR = os.environ.get("RHUBARB_TEST_EMULATOR") or "ministack"
# Over every bound of the scripts themselves, a first installation among them.
SECONDS_MAX = 600


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Home:
    """A folder for one emulator, and the scripts that act on it."""

    def __init__(self):
        self._temporary = tempfile.TemporaryDirectory()
        self.folder = Path(self._temporary.name)
        self.state = self.folder / "state"
        self.port = free_port()
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def up(self, *options: str, programs: Path | None = None) -> subprocess.CompletedProcess:
        """Runs localstack/up; the programs of that folder come before all others."""
        path = os.pathsep.join(str(folder) for folder in (programs, os.environ["PATH"]) if folder)
        return self._run("up", *options, PATH=path)

    def start(self, *options: str) -> str:
        """Starts the emulator, and fails the test where that fails. Returns what is to be exported."""
        done = self.up("--emulator", EMULATOR, "--port", str(self.port), *options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def down(self) -> subprocess.CompletedProcess:
        return self._run("down")

    def close(self):
        done = self.down()
        assert done.returncode == 0, done.stderr
        self._temporary.cleanup()

    def _run(self, script: str, *options: str, **variables: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [LOCALSTACK / script, "--state", self.state, *options],
            capture_output=True,
            text=True,
            timeout=SECONDS_MAX,
            env={**os.environ, **variables},
        )
