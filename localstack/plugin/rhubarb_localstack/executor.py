"""Lambda by processes of this machine, in place of LocalStack's containers.

LocalStack keeps the functions, their environments and the event source mappings; an executor is
one execution environment, and runs the zip's `bootstrap` in a `Sandbox`. A sandbox that died is
replaced at the next invocation. Unlike on AWS the process is not isolated: it sees this machine's
files, is not frozen between invocations, and its memory is not limited.
"""

import os
import time

from localstack import config
from localstack.services.lambda_.invocation.lambda_models import FunctionVersion, InvocationResult
from localstack.services.lambda_.invocation.runtime_executor import (
    LambdaRuntimeException,
    RuntimeExecutor,
)

from rhubarb_localstack.runtime_api import Invocation
from rhubarb_localstack.sandbox import Sandbox

# What a function inherits from the emulator; all else comes from its configuration.
INHERITED = ("PATH", "LANG", "LD_LIBRARY_PATH", "TMPDIR")


class ProcessExecutor(RuntimeExecutor):
    """One execution environment of one function version."""

    def start(self, env_vars: dict[str, str]) -> None:
        """Starts the process; whether it comes up is seen at the first invocation."""
        settings = self.function_version.config
        if not (settings.runtime or "").startswith("provided"):
            raise LambdaRuntimeException(
                f"runtime {settings.runtime or 'of an image'}: only provided.* runs without Docker;"
                " put a `bootstrap` into the zip"
            )
        self._directory = str(settings.code.get_unzipped_code_location())
        self._environment = {
            **{name: os.environ[name] for name in INHERITED if name in os.environ},
            **{name: str(value) for name, value in env_vars.items()},
            "LAMBDA_TASK_ROOT": self._directory,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self._sandbox = Sandbox(self._directory, self._environment)

    def invoke(self, payload: dict[str, str]) -> InvocationResult:
        """Runs one invocation, in a new process where the last one has ended."""
        if not self._sandbox.is_alive:
            self._sandbox = Sandbox(self._directory, self._environment)
        invocation = Invocation(
            id=payload["invoke-id"],
            arn=payload["invoked-function-arn"],
            payload=payload["payload"].encode(),
            trace=payload["trace-id"],
            timeout_seconds=self.function_version.config.timeout,
        )
        began = time.monotonic()
        answer = self._sandbox.invoke(invocation)
        took_ms = (time.monotonic() - began) * 1000
        return InvocationResult(
            request_id=invocation.id,
            payload=answer.payload,
            is_error=answer.is_error,
            logs=f"START RequestId: {invocation.id}\n{self._sandbox.take_output()}"
            f"END RequestId: {invocation.id}\n"
            f"REPORT RequestId: {invocation.id}\tDuration: {took_ms:.2f} ms",
        )

    def stop(self) -> None:
        """Kills the process; an invocation in hand is answered with `Runtime.ExitError`."""
        self._sandbox.stop()

    def get_address(self) -> str:
        return "127.0.0.1"

    def get_endpoint_from_executor(self) -> str:
        return "127.0.0.1"

    def get_runtime_endpoint(self) -> str:
        """Names an address for a variable that only LocalStack's container init reads."""
        return f"http://127.0.0.1:{config.GATEWAY_LISTEN[0].port}"

    def get_logs(self) -> str:
        return self._sandbox.take_output()

    @classmethod
    def prepare_version(cls, function_version: FunctionVersion) -> None:
        """Unpacks the zip."""
        if function_version.config.code:
            function_version.config.code.prepare_for_execution()

    @classmethod
    def cleanup_version(cls, function_version: FunctionVersion) -> None:
        """Removes nothing: the next version may have the same code, and LocalStack keeps one copy."""
