"""One execution environment: a `bootstrap` process and the Runtime API that feeds it.

A sandbox is used once through: when its process ends, by itself, by a time-out or by `stop`, the
sandbox is dead and whoever needs one makes another. The process is the head of a process group of
its own, and the group is killed with it; it stays in the emulator's session, so that a killed
emulator's children can be found.
"""

import fcntl
import json
import os
import signal
import subprocess
import tempfile
import threading

from rhubarb_localstack.runtime_api import (
    Answer,
    Conversation,
    Ended,
    Invocation,
    RuntimeApi,
    TimedOut,
)

# What one invocation printed is kept to this many bytes, its last ones.
OUTPUT_BYTES_MAX = 256 * 1024


class Sandbox:
    """A running `bootstrap` that answers one invocation at a time."""

    def __init__(self, directory: str, environment: dict[str, str]):
        """Starts `directory/bootstrap` there, with just this environment and the API's address."""
        self._conversation = Conversation()
        self._output = _appending_file()
        self._api = RuntimeApi(self._conversation)
        try:
            self._process = subprocess.Popen(
                [os.path.join(directory, "bootstrap")],
                cwd=directory,
                env={**environment, "AWS_LAMBDA_RUNTIME_API": self._api.address},
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        except OSError:
            self._conversation.end()
            self._api.close()
            self._output.close()
            raise
        self._reaping = threading.Lock()
        self._ended = threading.Event()
        self._last_output = ""
        threading.Thread(target=self._end_with_the_process, daemon=True).start()

    @property
    def is_alive(self) -> bool:
        """Tells whether another invocation may be tried here."""
        return not self._ended.is_set()

    def invoke(self, invocation: Invocation) -> Answer:
        """Runs one invocation; every end is an answer, in the words that Lambda uses."""
        try:
            return self._conversation.ask(invocation)
        except Ended:
            self._ended.wait()
            code = self._process.returncode
            ended = f"signal: {-code}" if code < 0 else f"exit status {code}"
            return _error(invocation, "Runtime.ExitError", f"Error: Runtime exited with {ended}")
        except TimedOut:
            self.stop()
            limit = f"Task timed out after {invocation.timeout_seconds}.00 seconds"
            return _error(invocation, "Sandbox.Timedout", f"Error: {limit}")

    def take_output(self) -> str:
        """Returns what was printed since the last call."""
        with self._reaping:
            if not self._output.closed:
                return _drain(self._output)
            printed, self._last_output = self._last_output, ""
            return printed

    def stop(self):
        """Kills the process and what it started; may be called twice."""
        with self._reaping:
            self._kill_group()
        self._ended.wait()

    def _end_with_the_process(self):
        # Seen as ended but not yet reaped: the number still names this group and no other.
        os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        with self._reaping:
            self._kill_group()
            self._process.wait()
            self._last_output = _drain(self._output)
            self._output.close()
        self._ended.set()
        self._conversation.end()
        self._api.close()

    def _kill_group(self):
        if self._process.returncode is None:
            os.killpg(self._process.pid, signal.SIGKILL)


def _appending_file():
    """Opens a file without a name; appending, so that it may be emptied while a process writes."""
    file = tempfile.TemporaryFile()
    flags = fcntl.fcntl(file, fcntl.F_GETFL)
    fcntl.fcntl(file, fcntl.F_SETFL, flags | os.O_APPEND)
    return file


def _drain(file) -> str:
    """Returns the end of what is in the file, and empties it."""
    start = max(0, os.fstat(file.fileno()).st_size - OUTPUT_BYTES_MAX)
    printed = os.pread(file.fileno(), OUTPUT_BYTES_MAX, start)
    os.ftruncate(file.fileno(), 0)
    return printed.decode(errors="replace")


def _error(invocation: Invocation, kind: str, message: str) -> Answer:
    text = f"RequestId: {invocation.id} {message}"
    return Answer(json.dumps({"errorType": kind, "errorMessage": text}).encode(), is_error=True)
