"""Serves the AWS Lambda Runtime API to one function process.

The process asks for its next invocation and posts the answer; both meet the caller's thread in a
`Conversation`, which holds at most one invocation at a time, as an execution environment on AWS
does. The server listens on loopback, on a port of its own for each process, so that no function
can answer for another. A conversation that has ended stays ended: a new process gets a new one.
"""

import json
import sys
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

# Lambda's limit for a synchronous answer.
ANSWER_BYTES_MAX = 6 * 1024 * 1024
# Lambda gives a function this long to ask for its first invocation.
INIT_SECONDS_MAX = 10

_ROOT = "/2018-06-01/runtime"


@dataclass(frozen=True)
class Invocation:
    """One event for the function, with the seconds it may take."""

    id: str
    arn: str
    payload: bytes
    trace: str
    timeout_seconds: int


@dataclass(frozen=True)
class Answer:
    """What the function posted: a response or an error, as JSON."""

    payload: bytes
    is_error: bool


class Ended(Exception):
    """The process is gone, or has been told to go."""


class TimedOut(Exception):
    """The process took longer than the invocation allows."""


class Conversation:
    """The turns of one process and its callers; callers come one at a time."""

    def __init__(self):
        self._changed = threading.Condition()
        self._offered: Invocation | None = None
        self._held: Invocation | None = None
        self._answer: Answer | None = None
        self._ended = False

    def ask(self, invocation: Invocation) -> Answer:
        """Hands the invocation over and waits for its answer.

        The function's time begins when it takes the invocation, as on AWS; before that it has
        INIT_SECONDS_MAX. Raises `Ended` or `TimedOut`.
        """
        with self._changed:
            self._offered, self._answer = invocation, None
            self._changed.notify_all()
            self._wait(lambda: self._offered is None, INIT_SECONDS_MAX)
            self._wait(lambda: self._answer is not None, invocation.timeout_seconds)
            return self._answer

    def _wait(self, come, seconds):
        self._changed.wait_for(lambda: come() or self._ended, seconds)
        if come():
            return
        raise Ended if self._ended else TimedOut

    def next(self) -> Invocation | None:
        """Waits for an invocation and takes it; None when the conversation has ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._offered is not None or self._ended)
            if self._ended:
                return None
            self._held, self._offered = self._offered, None
            self._changed.notify_all()
            return self._held

    def post(self, invocation_id: str, answer: Answer) -> bool:
        """Takes the answer to the invocation in hand; False when it is for any other."""
        with self._changed:
            if self._held is None or self._held.id != invocation_id:
                return False
            self._held, self._answer = None, answer
            self._changed.notify_all()
            return True

    def end(self):
        """Ends the conversation: whoever waits on either side is told."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()


class RuntimeApi:
    """The HTTP side of one conversation, on a loopback port of its own."""

    def __init__(self, conversation: Conversation):
        handler = type("Handler", (_Handler,), {"conversation": conversation})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self):
        """Stops listening; the conversation must have ended."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        # A process that is gone breaks its connections; its end is what the caller is told.
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # A small answer must not wait for the acknowledgement of the one before it.
    disable_nagle_algorithm = True
    conversation: Conversation

    def do_GET(self):
        if self.path != f"{_ROOT}/invocation/next":
            return self._refuse(404, "InvalidPath", self.path)
        invocation = self.conversation.next()
        if invocation is None:
            return self._refuse(410, "Runtime.Ended", "this execution environment has ended")
        deadline = time.time() + invocation.timeout_seconds
        return self._reply(
            200,
            invocation.payload,
            {
                "Lambda-Runtime-Aws-Request-Id": invocation.id,
                "Lambda-Runtime-Deadline-Ms": str(int(deadline * 1000)),
                "Lambda-Runtime-Invoked-Function-Arn": invocation.arn,
                "Lambda-Runtime-Trace-Id": invocation.trace,
            },
        )

    def do_POST(self):
        length = self.headers.get("Content-Length")
        if length is None:
            self.close_connection = True
            return self._refuse(411, "LengthRequired", "streamed answers are not supported")
        if int(length) > ANSWER_BYTES_MAX:
            self.close_connection = True
            return self._refuse(413, "RequestEntityTooLarge", f"over {ANSWER_BYTES_MAX} bytes")
        body = self.rfile.read(int(length))
        match self.path.removeprefix(_ROOT).split("/"):
            case ["", "invocation", invocation_id, "response" | "error" as kind]:
                if self.conversation.post(invocation_id, Answer(body, kind == "error")):
                    return self._reply(202, b'{"status":"OK"}')
                return self._refuse(400, "InvalidRequestID", invocation_id)
            case ["", "init", "error"]:
                # The process exits by itself after this; its exit is what the caller is told.
                return self._reply(202, b'{"status":"OK"}')
        return self._refuse(404, "InvalidPath", self.path)

    def _refuse(self, status, kind, message):
        self._reply(status, json.dumps({"errorType": kind, "errorMessage": message}).encode())

    def _reply(self, status, body, headers=None):
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args):
        """Keeps the emulator's log for the emulator: one line a request would drown it."""
