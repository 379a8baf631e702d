"""The entry points that LocalStack finds; each imports its part only when it is chosen.

| choice in the environment          | part                            |
|------------------------------------|---------------------------------|
| `PROVIDER_OVERRIDE_DYNAMODB=moto`    | DynamoDB in this process        |
| `PROVIDER_OVERRIDE_SCHEDULER=firing` | Scheduler with a clock          |
| `LAMBDA_RUNTIME_EXECUTOR=process`    | Lambda as processes             |
| `GATEWAY_SERVER=loopback`            | the gateway, on loopback only   |
"""

from localstack.runtime.server.core import RuntimeServerPlugin
from localstack.services.lambda_.invocation.plugins import RuntimeExecutorPlugin
from localstack.services.plugins import aws_provider


@aws_provider(api="dynamodb", name="moto")
def dynamodb_by_moto():
    """Makes the DynamoDB service."""
    from rhubarb_localstack.dynamodb import service

    return service()


@aws_provider(api="scheduler", name="firing")
def scheduler_that_fires():
    """Makes the Scheduler service and starts its clock."""
    from rhubarb_localstack.scheduler import service

    return service()


class ProcessExecutorPlugin(RuntimeExecutorPlugin):
    """Runs Lambda functions as processes of this machine."""

    name = "process"

    def load(self, *_args, **_kwargs):
        from rhubarb_localstack.executor import ProcessExecutor

        return ProcessExecutor


class LoopbackServerPlugin(RuntimeServerPlugin):
    """Serves the gateway on loopback only."""

    name = "loopback"

    def load(self, *_args, **_kwargs):
        from rhubarb_localstack.gateway import LoopbackServer

        return LoopbackServer()
