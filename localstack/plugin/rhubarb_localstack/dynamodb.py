"""DynamoDB by moto, inside LocalStack's process.

LocalStack's own DynamoDB is a Java program that it downloads. moto keeps tables as Python objects
and checks a write's condition before it writes, with nothing held in between; the gateway serves
requests on many threads. One lock around every request makes conditional writes and transactions
atomic, which is what a store of leases stands on.
"""

import threading

from localstack.aws.api.dynamodb import DynamodbApi
from localstack.services.moto import MotoFallbackDispatcher
from localstack.services.plugins import Service

_ONE_AT_A_TIME = threading.Lock()


class DynamodbByMoto(DynamodbApi):
    """Implements no operation itself: moto answers them all."""


def service() -> Service:
    """Makes the service that answers every DynamoDB request, one at a time."""
    return Service.for_provider(DynamodbByMoto(), dispatch_table_factory=_serialised_table)


def _serialised_table(provider):
    return {
        operation: _serialised(handler)
        for operation, handler in MotoFallbackDispatcher(provider).items()
    }


def _serialised(handler):
    def answer(context, request):
        with _ONE_AT_A_TIME:
            return handler(context, request)

    return answer
