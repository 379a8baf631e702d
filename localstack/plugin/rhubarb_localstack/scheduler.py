"""Scheduler that fires: LocalStack's records, and a clock that delivers.

LocalStack stores schedules and never fires one. A thread looks at all of them each second and
delivers those whose time has come since it last looked, to SQS queues and Lambda functions.
A delivery that fails is logged and not tried again, and dead-letter queues and flexible windows are
ignored. Schedules are in memory: a restart loses them, and what was due while nothing ran.
"""

import json
import logging
import threading
import time
from datetime import datetime, timezone

from localstack.aws.connect import connect_to
from localstack.services.moto import MotoFallbackDispatcher
from localstack.services.plugins import Service
from localstack.services.scheduler.provider import SchedulerProvider
from moto.scheduler.models import Schedule, scheduler_backends

from rhubarb_localstack.expressions import next_firing

LOG = logging.getLogger(__name__)

TICK_SECONDS = 1.0


def service() -> Service:
    """Makes the service and starts its clock, which ends with the process."""
    threading.Thread(target=_run_clock, name="scheduler-clock", daemon=True).start()
    return Service.for_provider(SchedulerProvider(), dispatch_table_factory=MotoFallbackDispatcher)


def _run_clock():
    looked = time.time()
    while True:
        time.sleep(TICK_SECONDS)
        now = time.time()
        for backend, schedule in _schedules():
            try:
                _fire_if_due(backend, schedule, looked, now)
            except Exception:
                # One schedule that cannot be read or delivered must not stop the others.
                LOG.exception("schedule %s did not fire", schedule.arn)
        looked = now


def _schedules():
    return [
        (backend, schedule)
        for regions in list(scheduler_backends.values())
        for backend in list(regions.values())
        for group in list(backend.schedule_groups.values())
        for schedule in list(group.schedules.values())
    ]


def _fire_if_due(backend, schedule: Schedule, looked: float, now: float):
    if schedule.state != "ENABLED":
        return
    begin = float(schedule.start_date or schedule.last_modified_date)
    after = max(looked, begin)
    due = next_firing(
        schedule.schedule_expression, schedule.schedule_expression_timezone, begin, after
    )
    if due is None or due > now or (schedule.end_date and due > float(schedule.end_date)):
        return
    _deliver(schedule, due)
    is_last = schedule.schedule_expression.startswith("at(")
    if is_last and schedule.action_after_completion == "DELETE":
        backend.delete_schedule(schedule.group_name, schedule.name)


def _deliver(schedule: Schedule, due: float):
    target = schedule.target
    _, _, service_name, region, account, resource = target["Arn"].split(":", 5)
    clients = connect_to(region_name=region, aws_access_key_id=account)
    body = _body(schedule, due)
    if service_name == "sqs":
        url = clients.sqs.get_queue_url(QueueName=resource)["QueueUrl"]
        group = target.get("SqsParameters", {}).get("MessageGroupId")
        options = {"MessageGroupId": group} if group else {}
        clients.sqs.send_message(QueueUrl=url, MessageBody=body, **options)
    elif service_name == "lambda":
        clients.lambda_.invoke(
            FunctionName=target["Arn"], InvocationType="Event", Payload=body.encode()
        )
    else:
        raise ValueError(f"target {target['Arn']}: only SQS queues and Lambda functions are served")


def _body(schedule: Schedule, due: float) -> str:
    """Fills in the two context attributes that producers use; without an input, AWS's own event."""
    at = datetime.fromtimestamp(due, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    given = schedule.target.get("Input") or json.dumps(
        {
            "version": "0",
            "detail-type": "Scheduled Event",
            "source": "aws.scheduler",
            "time": at,
            "resources": [schedule.arn],
            "detail": "{}",
        }
    )
    return given.replace("<aws.scheduler.scheduled-time>", at).replace(
        "<aws.scheduler.schedule-arn>", schedule.arn
    )
