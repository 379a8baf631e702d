"""The next ticks of cron expressions as croniter computes them: a JSON array of [expression, start] on standard
input, a JSON array of lists of epoch seconds (null where there is none) on standard output."""

import datetime
import json
import sys

import croniter


def ticks(expression, start):
    begin = datetime.datetime.fromtimestamp(start, datetime.timezone.utc)
    try:
        found = croniter.croniter(expression, begin)
        return [int(found.get_next(float)) for _ in range(5)]
    except croniter.CroniterBadDateError:
        return None


json.dump([ticks(expression, start) for expression, start in json.load(sys.stdin)], sys.stdout)
