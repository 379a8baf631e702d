"""Installs the emulators by pip, once: a mark in the virtual environment says what it holds.

Two that install at the same time wait for each other. An installation that broke off left no mark
and begins again.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

from local_aws import ROOT, Mistake

HERE = ROOT / "localstack"
VENV = ROOT / ".venv"
LOCALSTACK_VENV = VENV / "localstack"
LOCALSTACK_PYTHONS = ("3.13", "3.12")


def client_and_ministack():
    """Makes sure that `.venv` holds MiniStack and the AWS CLI."""
    requirements = HERE / "requirements.txt"
    with _installing(VENV, [requirements]) as needed:
        if needed:
            _make_venv(VENV, sys.executable)
            _pip(VENV, "--requirement", requirements)


def localstack():
    """Makes sure that `.venv/localstack` holds LocalStack and this project's plugin."""
    requirements = HERE / "requirements-localstack.txt"
    plugin = HERE / "plugin"
    sources = [plugin / "pyproject.toml", *sorted(plugin.glob("rhubarb_localstack/*.py"))]
    inputs = [requirements, HERE / "constraints-localstack.txt", *sources]
    with _installing(LOCALSTACK_VENV, inputs) as needed:
        if needed:
            _make_venv(LOCALSTACK_VENV, _python_for_localstack())
            _pip(LOCALSTACK_VENV, "--requirement", requirements)
            _install_plugin(plugin)


def _install_plugin(plugin: Path):
    # From a copy: building leaves folders beside the sources.
    with tempfile.TemporaryDirectory() as folder:
        copy = shutil.copytree(plugin, Path(folder, "plugin"))
        options = ("--no-deps", "--no-build-isolation", "--force-reinstall")
        _pip(LOCALSTACK_VENV, *options, copy)


@contextmanager
def _installing(venv: Path, inputs: list[Path]):
    """Tells whether what the inputs say must be installed, and marks it as done afterwards."""
    venv.mkdir(parents=True, exist_ok=True)
    wanted = hashlib.sha256(b"\0".join(path.read_bytes() for path in inputs)).hexdigest()
    mark = venv / "emulator.installed"
    with (venv / "emulator.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        needed = not mark.exists() or mark.read_text() != wanted
        yield needed
        if needed:
            mark.write_text(wanted)


def _make_venv(venv: Path, python: str):
    if not (venv / "bin" / "python").exists():
        _run([python, "-m", "venv", venv], f"cannot make {venv}")


def _pip(venv: Path, *arguments):
    print(f"installing into {venv} …", file=sys.stderr)
    pip = [venv / "bin" / "python", "-m", "pip", "install", "--quiet"]
    _run([*pip, "--disable-pip-version-check", *arguments], "pip could not install the emulator")


def _run(command, failure: str):
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode != 0:
        raise Mistake(f"{failure}:\n{done.stdout.strip()}")


def _python_for_localstack() -> str:
    for python in _candidates():
        found = shutil.which(python)
        if found and _version_of(found) in LOCALSTACK_PYTHONS:
            return found
    raise Mistake(
        "LocalStack 4.14 needs Python 3.12 or 3.13, and none was found on PATH or under pyenv:"
        " install one, or use --emulator ministack"
    )


def _candidates() -> list[str]:
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    return [
        sys.executable,
        *(f"python{version}" for version in LOCALSTACK_PYTHONS),
        *(
            str(python)
            for version in LOCALSTACK_PYTHONS
            for python in sorted(pyenv.glob(f"versions/{version}*/bin/python"))
        ),
    ]


def _version_of(python: str) -> str | None:
    """Asks it; pyenv's stand-ins answer with an error where no such version is chosen."""
    program = "import sys; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([python, "-c", program], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None
