#!/usr/bin/env python3
"""Lints the files of infra/ that neither Rust nor CloudFormation reads: container files, compose files, units.

Run by tests/run with the Python of .venv. What has no linter here is skipped by name.
"""

import pathlib
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOOLS = pathlib.Path(sys.executable).parent


def run(what, *command):
    """Runs a linter; what it says against a file ends the program."""
    ended = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True)
    if ended.returncode != 0:
        sys.exit(f"{what}:\n{ended.stdout}{ended.stderr}")
    print(f"ok: {what}")


def container_files():
    """Hadolint: what Docker would refuse, and what makes an image large or unsafe."""
    files = [path.relative_to(ROOT) for path in sorted(ROOT.glob("infra/**/Dockerfile"))]
    run("container files", TOOLS / "hadolint", "--failure-threshold", "warning", *files)


def compose_files():
    """The specification's own schema."""
    files = [path.relative_to(ROOT) for folder in ("infra", "localstack") for path in ROOT.glob(f"{folder}/**/compose.yaml")]
    run("compose files", TOOLS / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", *sorted(files))


def units():
    """systemd's own check, of an instance whose program is there."""
    if shutil.which("systemd-analyze") is None:
        print("skipped: units: systemd-analyze is not installed")
        return
    for unit in sorted(ROOT.glob("infra/systemd/*@.service")):
        with tempfile.TemporaryDirectory() as folder:
            instance = pathlib.Path(folder, unit.name.replace("@.", "@training."))
            instance.write_text(unit.read_text().replace("/usr/local/bin/rhubarb", "/bin/true"))
            run(unit.name, "systemd-analyze", "verify", "--man=no", instance)


if __name__ == "__main__":
    container_files()
    compose_files()
    units()
