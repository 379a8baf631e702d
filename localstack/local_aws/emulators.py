"""The emulators: how each is installed and started. Both listen on 127.0.0.1 only."""

from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from local_aws import client, install


@dataclass(frozen=True)
class Emulator:
    """One emulator: its program, and the longest that it may take to be ready."""

    name: str
    install: Callable[[], None]
    command: list[str]
    settings: Callable[[int, Path], dict[str, str]]
    ready_seconds_max: int

    def environment(self, port: int, folder: Path) -> dict[str, str]:
        """Returns its whole environment: all that it writes goes below `folder`."""
        return {
            **client.bare_environment(),
            # Handed on to the functions that it runs.
            **client.variables(f"http://127.0.0.1:{port}"),
            "TMPDIR": str(folder / "tmp"),
            "XDG_CACHE_HOME": str(folder / "cache"),
            **self.settings(port, folder),
        }


def _ministack(port: int, folder: Path) -> dict[str, str]:
    return {
        # It binds all interfaces, and names itself otherwise, unless both are set.
        "BIND_HOST": "127.0.0.1",
        "MINISTACK_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "MINISTACK_REGION": client.REGION,
        "STATE_DIR": str(folder / "data"),
        "S3_DATA_DIR": str(folder / "data" / "s3"),
    }


def _localstack(port: int, folder: Path) -> dict[str, str]:
    return {
        "GATEWAY_LISTEN": f"127.0.0.1:{port}",
        "LOCALSTACK_HOST": f"127.0.0.1:{port}",
        "LOCALSTACK_VOLUME_DIR": str(folder / "data"),
        "FILESYSTEM_ROOT": str(folder / "data"),
        # Nothing is asked of the network: no name server, no usage events, no certificate.
        "DNS_ADDRESS": "0",
        "DISABLE_EVENTS": "1",
        "SKIP_SSL_CERT_DOWNLOAD": "1",
        "EAGER_SERVICE_LOADING": "0",
        # The parts that this project's plugin supplies.
        "GATEWAY_SERVER": "loopback",
        "PROVIDER_OVERRIDE_DYNAMODB": "moto",
        "PROVIDER_OVERRIDE_SCHEDULER": "firing",
        "LAMBDA_RUNTIME_EXECUTOR": "process",
        # Queue URLs on the gateway's own address: the default puts a name before it that nothing resolves.
        "SQS_ENDPOINT_STRATEGY": "path",
        # A second purge within a minute is refused, as on AWS.
        "SQS_DELAY_PURGE_RETRY": "1",
    }


EMULATORS = {
    emulator.name: emulator
    for emulator in (
        Emulator(
            name="ministack",
            install=install.client_and_ministack,
            command=[str(install.VENV / "bin" / "ministack")],
            settings=_ministack,
            ready_seconds_max=30,
        ),
        Emulator(
            name="localstack",
            install=install.localstack,
            command=[
                str(install.LOCALSTACK_VENV / "bin" / "python"),
                "-m",
                "localstack.runtime.main",
            ],
            settings=_localstack,
            ready_seconds_max=90,
        ),
    )
}
