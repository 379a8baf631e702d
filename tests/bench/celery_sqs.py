"""Celery on SQS, measured as the light path is: no-op tasks, no results, on the emulator that AWS_ENDPOINT_URL names.

Needs `celery[sqs]` (pip). The endpoint must be on this machine: AWS itself is never asked.
"""

import os
import subprocess
import sys
import time
from urllib.parse import urlsplit

try:
    import boto3
    from celery import Celery
except ImportError as error:
    sys.exit(f"{error.name} is not installed: pip install 'celery[sqs]'")

TASKS = int(os.environ.get("BENCH_TASKS", "400"))
# Over all that a slow machine needs; an emulator that loses a message must not hold the benchmark.
DRAIN_SECONDS_MAX = 300
QUEUE = "bench-celery"
REGION = "eu-central-1"

endpoint = urlsplit(os.environ.get("AWS_ENDPOINT_URL", ""))
if endpoint.scheme != "http" or endpoint.hostname not in ("127.0.0.1", "localhost"):
    sys.exit("AWS_ENDPOINT_URL must name an emulator of this machine: localstack/up --no-deploy && . .rhubarb/emulator/env")

sqs = boto3.client(
    "sqs",
    endpoint_url=endpoint.geturl(),
    region_name=REGION,
    aws_access_key_id="test",
    aws_secret_access_key="test",
)
app = Celery("celery_sqs", broker=f"sqs://test:test@{endpoint.netloc}")
app.conf.update(
    broker_transport_options={
        "is_secure": False,
        "region": REGION,
        "wait_time_seconds": 1,
        "predefined_queues": {QUEUE: {"url": sqs.create_queue(QueueName=QUEUE)["QueueUrl"]}},
    },
    task_default_queue=QUEUE,
    task_ignore_result=True,
    worker_enable_remote_control=False,
    worker_prefetch_multiplier=50,
)


@app.task(name="noop")
def noop():
    """Does nothing."""


def left() -> int:
    """Returns how many messages the queue holds, delivered ones among them."""
    names = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible")
    url = app.conf.broker_transport_options["predefined_queues"][QUEUE]["url"]
    counts = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=list(names))["Attributes"]
    return sum(int(counts[name]) for name in names)


def main():
    """Prints the figures."""
    begun = time.monotonic()
    for _ in range(TASKS):
        noop.delay()
    print(f"celery-sqs: enqueue {TASKS / (time.monotonic() - begun):.0f} tasks/s", flush=True)
    begun = time.monotonic()
    command = [sys.executable, "-m", "celery", "-A", "celery_sqs", "worker", "-l", "ERROR", "-c", "2"]
    here = os.path.dirname(os.path.abspath(__file__))
    worker = subprocess.Popen([*command, "-Q", QUEUE], cwd=here, stdout=subprocess.DEVNULL)
    try:
        while left() and time.monotonic() - begun < DRAIN_SECONDS_MAX and worker.poll() is None:
            # Seldom enough to cost the worker little.
            time.sleep(0.1)
        drained = TASKS - left()
        print(f"celery-sqs: drain {drained / (time.monotonic() - begun):.0f} tasks/s (with the worker's start)", flush=True)
        if drained < TASKS:
            sys.exit(f"celery-sqs: {TASKS - drained} of {TASKS} tasks were not run")
    finally:
        worker.terminate()
        worker.wait()


if __name__ == "__main__":
    main()
