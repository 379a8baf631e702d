"""What can be known of the container set-up without Docker: its file, and the hook's own work.

The hook is run against an emulator in a folder laid out as the mounts lay out the container.
"""

import os
import shutil
import subprocess
import unittest
import zipfile
from pathlib import Path

import boto3
import yaml
from support import LOCALSTACK, SECONDS_MAX, Home

COMPOSE = yaml.safe_load((LOCALSTACK / "compose.yaml").read_text())["services"]["localstack"]
HOOK = LOCALSTACK / "init" / "ready.d" / "deploy.sh"


class TheContainer(unittest.TestCase):
    def test_has_the_last_image_that_needs_no_account(self):
        self.assertEqual(COMPOSE["image"], "localstack/localstack:4.14.0")

    def test_listens_on_loopback_only(self):
        self.assertEqual(COMPOSE["ports"], ["127.0.0.1:4566:4566"])

    def test_finds_an_executable_hook_where_localstack_looks(self):
        mounts = dict(volume.split(":")[:2] for volume in COMPOSE["volumes"])
        self.assertEqual(mounts["./init/ready.d"], "/etc/localstack/init/ready.d")
        self.assertTrue(os.access(HOOK, os.X_OK))


class TheHook(unittest.TestCase):
    def setUp(self):
        self.home = Home()
        self.addCleanup(self.home.close)
        self.root = self.home.folder / "rhubarb"

    def test_deploys_the_applications_template(self):
        self.lay_out_as_mounted()
        self.home.start("--no-deploy")
        hook = HOOK.read_text().replace("/rhubarb/", f"{self.root}/")
        done = subprocess.run(
            ["sh", "-c", hook.replace("http://127.0.0.1:4566", self.home.endpoint)],
            env={"PATH": f"{LOCALSTACK.parent / '.venv' / 'bin'}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=SECONDS_MAX,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.status_of("training-platform-dev"), "CREATE_COMPLETE")

    def lay_out_as_mounted(self):
        """Copies what the mounts name; the zips are stand-ins, as nothing is run."""
        for volume in COMPOSE["volumes"]:
            source, target = volume.split(":")[:2]
            if target == "/rhubarb/dist":
                self.write_zips(self.root / "dist")
            elif target.startswith("/rhubarb/"):
                self.copy(LOCALSTACK / source, self.root / target.removeprefix("/rhubarb/"))

    def copy(self, source: Path, target: Path):
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)

    def write_zips(self, folder: Path):
        folder.mkdir(parents=True)
        for queue in ("maintenance", "preprocessing"):
            with zipfile.ZipFile(folder / f"{queue}.zip", "w") as archive:
                archive.writestr("bootstrap", "#!/bin/sh\nexit 1\n")

    def status_of(self, stack: str) -> str:
        client = boto3.client(
            "cloudformation",
            endpoint_url=self.home.endpoint,
            region_name="eu-central-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        return client.describe_stacks(StackName=stack)["Stacks"][0]["StackStatus"]


if __name__ == "__main__":
    unittest.main()
