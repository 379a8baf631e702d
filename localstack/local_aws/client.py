"""How a client reaches the local AWS, and nothing else.

The credentials are dummies. An inherited profile or a real key must never meet an emulator, nor a
command meant for the emulator meet AWS: `variables` is the whole of what our own commands are given.
"""

import os
import shlex

REGION = "eu-central-1"

# What a program needs to run at all; the rest of the caller's environment stays with the caller.
_INHERITED = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TMPDIR")


def variables(endpoint: str) -> dict[str, str]:
    """Returns what leads a client of AWS to the endpoint."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def exports(endpoint: str) -> str:
    """Returns the variables as lines for a shell to evaluate."""
    return "".join(
        f"export {name}={shlex.quote(value)}\n" for name, value in variables(endpoint).items()
    )


def bare_environment() -> dict[str, str]:
    """Returns the caller's environment without what could name an account, a proxy or a secret."""
    kept = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return {**kept, "AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
