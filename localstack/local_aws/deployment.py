"""Puts the application's template on an emulator, with the commands that a real account is given.

The template is the very file that goes to AWS; only its parameters differ. The zips go to a bucket
under a prefix made from their contents, so that changed code changes the functions and the same
code changes nothing. What broke off half-way is finished by the next run.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from local_aws import ROOT, Mistake, client, install

TEMPLATE = ROOT / "infra" / "template.yaml"
# What goes to AWS is built with it too.
PROFILE = "dist"
# The functions run as processes of this machine.
ARCHITECTURE = "arm64" if platform.machine() in ("arm64", "aarch64") else "x86_64"


@dataclass(frozen=True)
class Deployment:
    """What goes where. `functions_endpoint` is the emulator as the functions see it."""

    endpoint: str
    functions_endpoint: str
    template: Path
    zips: Path
    stack: str

    def run(self):
        """Uploads the zips and creates or updates the stack."""
        if not self.template.is_file():
            raise Mistake(f"{self.template} is missing: `rhubarb deploy template` writes it")
        zips = sorted(self.zips.glob("*.zip"))
        if not zips:
            raise Mistake(f"{self.zips} holds no zip: `rhubarb package` writes them")
        bucket, prefix = f"{self.stack}-code", _digest(zips)
        self._upload(bucket, prefix)
        self._deploy_stack(
            bucket,
            prefix,
            CodeBucket=bucket,
            CodePrefix=f"{prefix}/",
            EndpointUrl=self.functions_endpoint,
            Architecture=ARCHITECTURE,
            Compute="false",
        )

    def _upload(self, bucket: str, prefix: str):
        try:
            self._aws("s3api", "head-bucket", "--bucket", bucket)
        except Mistake:
            self._aws("s3", "mb", f"s3://{bucket}")
        only_zips = ("--exclude", "*", "--include", "*.zip", "--exclude", "*/*")
        self._aws("s3", "sync", str(self.zips), f"s3://{bucket}/{prefix}", *only_zips)

    def _deploy_stack(self, bucket: str, prefix: str, **parameters: str):
        overrides = [f"{name}={value}" for name, value in parameters.items()]
        try:
            self._aws(
                *("cloudformation", "deploy", "--no-fail-on-empty-changeset"),
                *("--stack-name", self.stack, "--template-file", str(self.template)),
                # CloudFormation takes a template over 51,200 bytes from a bucket alone.
                *("--s3-bucket", bucket, "--s3-prefix", prefix),
                *("--capabilities", "CAPABILITY_NAMED_IAM"),
                *("--parameter-overrides", *overrides),
            )
        except Mistake as mistake:
            raise Mistake(f"{mistake}\n{self._refusals()}") from None

    def _refusals(self) -> str:
        failed = "StackEvents[?contains(ResourceStatus, 'FAILED')]"
        shown = "[LogicalResourceId, ResourceType, ResourceStatusReason]"
        events = ("cloudformation", "describe-stack-events", "--stack-name", self.stack)
        try:
            return self._aws(*events, "--query", f"{failed}.{shown}", "--output", "text")
        except Mistake:
            return "The stack has no events."

    def _aws(self, *arguments: str) -> str:
        done = subprocess.run(
            # Said outright: version 1 of the CLI does not heed AWS_ENDPOINT_URL for every service.
            [_aws_cli(), "--endpoint-url", self.endpoint, *arguments],
            env={**client.bare_environment(), **client.variables(self.endpoint), "AWS_PAGER": ""},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            said = (done.stdout + done.stderr).strip()
            raise Mistake(f"aws {' '.join(arguments[:2])} on {self.endpoint}:\n{said}")
        return done.stdout


def default_stack() -> str:
    """Returns <app>-<stage> of `rhubarb.toml`, which the names of everything else begin with."""
    app = tomllib.loads((ROOT / "rhubarb.toml").read_text())["app"]
    return f"{app['name']}-{app.get('stage', 'dev')}"


def package(profile: str) -> Path:
    """Builds the zips of the light functions with this cargo profile and returns their folder."""
    print("building the functions' zips …", file=sys.stderr)
    rhubarb = ("cargo", "run", "--quiet", "--package", "rhubarb-cli", "--features", "aws", "--")
    done = subprocess.run([*rhubarb, "package", "--arch", ARCHITECTURE, "--profile", profile], cwd=ROOT, stdout=sys.stderr)
    if done.returncode != 0:
        raise Mistake("`rhubarb package` failed; see above, or start with --no-deploy")
    return ROOT / "dist" / "arm64" if ARCHITECTURE == "arm64" else ROOT / "dist"


def _digest(files: list[Path]) -> str:
    whole = hashlib.sha256()
    for path in files:
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        whole.update(f"{path.name} {content}\n".encode())
    return whole.hexdigest()[:16]


def _aws_cli() -> str:
    ours = install.VENV / "bin" / "aws"
    found = str(ours) if os.access(ours, os.X_OK) else shutil.which("aws")
    if not found:
        raise Mistake("the AWS CLI is missing: `localstack/up` installs it, or put `aws` on PATH")
    return found
