"""Celery on Redis, measured as the benchmark measures Rhubarb: no-op tasks, results kept.

Needs `celery` and `redis` (pip) and the program `redis-server`. Everything listens on 127.0.0.1.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time

try:
    import packaging  # noqa: F401: kombu needs it for Redis and does not ask for it
    from celery import Celery, group
    from kombu.exceptions import OperationalError
except ImportError as error:
    sys.exit(f"{error.name} is not installed: pip install celery redis packaging")

PORT = int(os.environ.get("BENCH_REDIS_PORT", "0"))
TASKS = 20_000

if not PORT:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        PORT = probe.getsockname()[1]
        os.environ["BENCH_REDIS_PORT"] = str(PORT)

URL = f"redis://127.0.0.1:{PORT}/0"
app = Celery("celery_redis", broker=URL, backend=URL)
app.conf.update(worker_prefetch_multiplier=50, result_expires=3600)


@app.task(name="noop")
def noop():
    """Does nothing."""


def worker(*options):
    """Starts a worker and waits until it answers."""
    command = [sys.executable, "-m", "celery", "-A", "celery_redis", "worker", "-l", "ERROR", *options]
    process = subprocess.Popen(command, cwd=os.path.dirname(os.path.abspath(__file__)), stdout=subprocess.DEVNULL)
    while not app.control.ping(timeout=0.5):
        pass
    return process


def main():
    """Prints the figures."""
    if not shutil.which("redis-server"):
        sys.exit("redis-server is not installed")
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["redis-server", "--port", str(PORT), "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
        redis = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
        try:
            measure()
        finally:
            redis.terminate()
            redis.wait()


def measure():
    """Measures with the Redis server that runs."""
    while True:
        try:
            app.connection().ensure_connection(max_retries=1)
            break
        except OperationalError:
            time.sleep(0.1)
    begun = time.monotonic()
    results = [noop.delay() for _ in range(TASKS)]
    print(f"celery-redis: enqueue {TASKS / (time.monotonic() - begun):.0f} tasks/s", flush=True)
    begun = time.monotonic()
    process = worker("-c", "2")
    for result in results:
        result.get()
    print(f"celery-redis: drain {TASKS / (time.monotonic() - begun):.0f} tasks/s (with the worker's start)", flush=True)
    times = []
    for _ in range(500):
        begun = time.monotonic()
        noop.delay().get()
        times.append(time.monotonic() - begun)
    times.sort()
    print(f"celery-redis: latency p50 {times[250] * 1e3:.2f} ms, p99 {times[495] * 1e3:.2f} ms", flush=True)
    process.terminate()
    process.wait()
    process = worker("-c", "1", "--max-tasks-per-child", "1")
    begun = time.monotonic()
    group(noop.s() for _ in range(10)).apply_async().get()
    print(f"celery-redis: one process per task {10 / (time.monotonic() - begun):.2f} tasks/s", flush=True)
    process.terminate()
    process.wait()


if __name__ == "__main__":
    main()
