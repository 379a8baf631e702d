"""What localstack/up and localstack/down do to processes, ports and folders."""

import json
import os
import socket
import subprocess
import threading
import unittest
import urllib.error
import urllib.request

from support import EMULATOR, Home

from local_aws import Mistake
from local_aws.emulators import Emulator
from local_aws.running import Place


def answers(home: Home) -> bool:
    try:
        urllib.request.urlopen(f"{home.endpoint}/_localstack/health").close()
    except urllib.error.URLError:
        return False
    return True


class UpAndDown(unittest.TestCase):
    def setUp(self):
        self.home = Home()
        self.addCleanup(self.home.close)

    def test_start_an_emulator_say_how_to_reach_it_and_stop_it(self):
        exports = self.home.start("--no-deploy")
        self.assertIn(f"export AWS_ENDPOINT_URL={self.home.endpoint}\n", exports)
        self.assertEqual((self.home.state / "env").read_text(), exports)
        self.assertTrue(answers(self.home))
        self.assertEqual(self.home.down().returncode, 0)
        self.assertFalse(answers(self.home))
        self.assertEqual(
            {path.name for path in self.home.state.iterdir()}, {"alive", "lock", "log"}
        )

    def test_listen_on_one_address_of_loopback_only(self):
        self.home.start("--no-deploy")
        # Answered by whoever listens on all addresses.
        with self.assertRaises(OSError):
            socket.create_connection(("127.0.0.2", self.home.port)).close()

    def test_find_what_runs_already(self):
        exports = self.home.start("--no-deploy")
        pid = json.loads((self.home.state / "record.json").read_text())["pid"]
        again = self.home.up("--no-deploy")
        self.assertEqual((again.returncode, again.stdout), (0, exports))
        self.assertIn(f"{EMULATOR} runs already", again.stderr)
        self.assertEqual(json.loads((self.home.state / "record.json").read_text())["pid"], pid)

    def test_refuse_another_port_than_that_of_what_runs(self):
        self.home.start("--no-deploy")
        refused = self.home.up("--no-deploy", "--port", str(self.home.port + 1))
        self.assertEqual(refused.returncode, 1)
        self.assertIn("localstack/down stops it", refused.stderr)

    def test_build_the_zips_with_the_cargo_profile_that_is_asked_for(self):
        cargo = self.home.folder / "cargo"
        cargo.write_text('#!/bin/sh\necho "$*" > "$0.asked"\nexit 1\n')
        cargo.chmod(0o755)
        where = ("--emulator", EMULATOR, "--port", str(self.home.port))
        for options, profile in (((), "dist"), (("--profile", "dev"), "dev")):
            refused = self.home.up(*where, *options, programs=self.home.folder)
            self.assertEqual(refused.returncode, 1)
            self.assertIn("`rhubarb package` failed", refused.stderr)
            asked = (self.home.folder / "cargo.asked").read_text()
            self.assertRegex(asked, f" package .*--profile {profile}$")

    def test_start_again_after_the_emulator_was_killed(self):
        self.home.start("--no-deploy")
        os.kill(json.loads((self.home.state / "record.json").read_text())["pid"], 9)
        # Ends when the killed emulator has let go of its lock.
        subprocess.run(["flock", self.home.state / "alive", "true"], check=True)
        self.home.start("--no-deploy")
        self.assertTrue(answers(self.home))

    def test_refuse_a_port_that_is_taken(self):
        other = Home()
        self.addCleanup(other.close)
        other.start("--no-deploy")
        refused = self.home.up("--no-deploy", "--port", str(other.port))
        self.assertEqual(refused.returncode, 1)
        self.assertIn(f"port {other.port}: Address already in use", refused.stderr)

    def test_never_signal_a_process_that_was_given_the_number_of_an_old_emulator(self):
        stranger = subprocess.Popen(["sleep", "600"])
        self.addCleanup(lambda: (stranger.kill(), stranger.wait()))
        self.home.state.mkdir()
        record = {"pid": stranger.pid, "emulator": EMULATOR, "port": self.home.port}
        (self.home.state / "record.json").write_text(json.dumps(record))
        done = self.home.down()
        self.assertIn("nothing runs", done.stderr)
        self.assertIsNone(stranger.poll())


class AnEmulatorThatDoesNotStart(unittest.TestCase):
    def setUp(self):
        self.home = Home()
        self.addCleanup(self.home.close)
        self.place = Place(self.home.state)

    def start(self, program: str, ready_seconds_max: int = 30):
        command = ["sh", "-c", program]
        broken = Emulator("broken", lambda: None, command, lambda *_: {}, ready_seconds_max)
        with self.place.alone():
            self.place.start(broken, self.home.port)

    def test_is_an_error_with_the_end_of_its_log(self):
        with self.assertRaisesRegex(Mistake, "(?s)ended at its start.*no such library"):
            self.start("echo no such library; exit 1")

    def test_is_given_up_and_stopped_with_all_that_it_started(self):
        # The child, in a process group of its own as functions are, writes its number, and stays.
        child = "set -m; sh -c 'echo $$ > child; exec sleep 600' & wait"
        pipe = self.home.state / "child"
        self.home.state.mkdir()
        os.mkfifo(pipe)
        numbers = []
        reader = threading.Thread(target=lambda: numbers.append(int(pipe.read_text())))
        reader.start()
        with self.assertRaisesRegex(Mistake, "does not answer on port .* within 1 s"):
            self.start(child, ready_seconds_max=1)
        reader.join()
        self.assertIsNone(self.place.running())
        state = subprocess.run(["ps", "-o", "stat=", "-p", str(numbers[0])], capture_output=True)
        # Gone, or dead and waiting for its parent to look.
        self.assertIn(state.stdout[:1], (b"", b"Z"))


if __name__ == "__main__":
    unittest.main()
