"""An execution environment with real processes, whose `bootstrap` is a few lines of Python."""

import json
import os
import stat
import sys
import tempfile
import threading
import unittest
from pathlib import Path

from rhubarb_localstack.runtime_api import Invocation
from rhubarb_localstack.sandbox import Sandbox

CLIENT = """#!{python}
import json, os, sys, urllib.request
root = "http://" + os.environ["AWS_LAMBDA_RUNTIME_API"] + "/2018-06-01/runtime/"

def next_invocation():
    reply = urllib.request.urlopen(root + "invocation/next")
    return reply.headers, json.loads(reply.read())

def post(path, value):
    request = urllib.request.Request(root + path, json.dumps(value).encode(), method="POST")
    try:
        return urllib.request.urlopen(request).status
    except urllib.error.HTTPError as refused:
        return refused.code

"""


class ASandbox(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.directory = folder.name

    def start(self, program: str, **environment: str) -> Sandbox:
        bootstrap = Path(self.directory, "bootstrap")
        bootstrap.write_text(CLIENT.format(python=sys.executable) + program)
        bootstrap.chmod(bootstrap.stat().st_mode | stat.S_IXUSR)
        sandbox = Sandbox(self.directory, environment)
        self.addCleanup(sandbox.stop)
        return sandbox

    def ask(self, sandbox: Sandbox, event, timeout_seconds: int = 20, name: str = "one"):
        payload = json.dumps(event).encode()
        answer = sandbox.invoke(Invocation(name, "arn", payload, "Root=1", timeout_seconds))
        return answer.is_error, json.loads(answer.payload)

    def test_hands_over_the_event_and_returns_the_response(self):
        sandbox = self.start(
            "while True:\n"
            "    headers, event = next_invocation()\n"
            "    post('invocation/' + headers['Lambda-Runtime-Aws-Request-Id'] + '/response',\n"
            "         [event, headers['Lambda-Runtime-Trace-Id'], os.environ['GREETING']])\n",
            GREETING="hello",
        )
        self.assertEqual(self.ask(sandbox, {"a": 1}), (False, [{"a": 1}, "Root=1", "hello"]))
        self.assertEqual(self.ask(sandbox, 2, name="two"), (False, [2, "Root=1", "hello"]))

    def test_returns_an_error_as_an_error(self):
        sandbox = self.start(
            "headers, event = next_invocation()\n"
            "post('invocation/one/error', {'errorType': 'Mine', 'errorMessage': 'no'})\n"
            "next_invocation()\n"
        )
        self.assertEqual(self.ask(sandbox, 1), (True, {"errorType": "Mine", "errorMessage": "no"}))

    def test_gives_a_deadline_in_epoch_milliseconds(self):
        sandbox = self.start(
            "import time\n"
            "headers, event = next_invocation()\n"
            "left = int(headers['Lambda-Runtime-Deadline-Ms']) - time.time() * 1000\n"
            "post('invocation/one/response', left)\n"
        )
        _, left = self.ask(sandbox, 1, timeout_seconds=20)
        self.assertTrue(10_000 < left <= 20_000, left)

    def test_refuses_an_answer_for_another_invocation(self):
        sandbox = self.start(
            "next_invocation()\n"
            "refused = post('invocation/another/response', 'wrong')\n"
            "post('invocation/one/response', refused)\n"
        )
        self.assertEqual(self.ask(sandbox, 1), (False, 400))

    def test_refuses_an_answer_over_the_limit_of_lambda(self):
        sandbox = self.start(
            "next_invocation()\n"
            "try:\n"
            "    said = post('invocation/one/response', 'x' * (6 * 1024 * 1024))\n"
            "except urllib.error.URLError:\n"
            "    said = 413  # the connection was closed while the answer was on its way\n"
            "post('invocation/one/response', said)\n"
        )
        self.assertEqual(self.ask(sandbox, 1), (False, 413))

    def test_answers_with_the_exit_of_a_process_that_dies(self):
        sandbox = self.start("next_invocation()\nsys.exit(3)\n")
        is_error, error = self.ask(sandbox, 1)
        self.assertTrue(is_error)
        self.assertEqual(error["errorType"], "Runtime.ExitError")
        self.assertIn("exit status 3", error["errorMessage"])
        self.assertFalse(sandbox.is_alive)

    def test_answers_at_once_when_the_process_dies_before_it_asks(self):
        sandbox = self.start("sys.exit(4)\n")
        self.assertIn("exit status 4", self.ask(sandbox, 1)[1]["errorMessage"])

    def test_kills_a_process_that_takes_too_long(self):
        sandbox = self.start("next_invocation()\nthreading = __import__('time').sleep(600)\n")
        is_error, error = self.ask(sandbox, 1, timeout_seconds=1)
        self.assertTrue(is_error)
        self.assertEqual(error["errorType"], "Sandbox.Timedout")
        self.assertFalse(sandbox.is_alive)

    def test_kills_what_the_process_started(self):
        pipe = Path(self.directory, "pipe")
        os.mkfifo(pipe)
        sandbox = self.start(
            "import subprocess\n"
            "subprocess.Popen(['sh', '-c', 'exec sleep 600 > pipe'])\n"
            "next_invocation()\n"
            "post('invocation/one/response', 'started')\n"
            "next_invocation()\n"
        )
        self.ask(sandbox, 1)
        with pipe.open() as held_by_the_child:
            sandbox.stop()
            # Ends only when nobody holds the other side: the grandchild is gone.
            self.assertEqual(held_by_the_child.read(), "")

    def test_keeps_the_output_of_each_invocation_apart(self):
        sandbox = self.start(
            "for name in ('one', 'two'):\n"
            "    next_invocation()\n"
            "    print('this is', name, flush=True)\n"
            "    post('invocation/' + name + '/response', None)\n"
            "next_invocation()\n"
        )
        self.ask(sandbox, 1, name="one")
        self.assertEqual(sandbox.take_output(), "this is one\n")
        self.ask(sandbox, 1, name="two")
        self.assertEqual(sandbox.take_output(), "this is two\n")

    def test_answers_an_invocation_in_hand_when_it_is_stopped(self):
        sandbox = self.start(
            "next_invocation()\nopen('taken', 'w').close()\n__import__('time').sleep(600)\n"
        )
        os.mkfifo(Path(self.directory, "taken"))
        answers = []
        caller = threading.Thread(target=lambda: answers.append(self.ask(sandbox, 1)))
        caller.start()
        # Opens when the process opens the other side: it has taken the invocation.
        Path(self.directory, "taken").open().close()
        sandbox.stop()
        caller.join()
        self.assertEqual(answers[0][1]["errorType"], "Runtime.ExitError")
        self.assertIn("signal: 9", answers[0][1]["errorMessage"])

    def test_that_cannot_be_started_is_an_error_of_the_system(self):
        with self.assertRaises(FileNotFoundError):
            Sandbox(self.directory, {})


if __name__ == "__main__":
    unittest.main()
