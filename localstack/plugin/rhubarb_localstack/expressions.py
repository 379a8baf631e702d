"""When a schedule fires next: `rate`, `cron` and `at`, as EventBridge Scheduler writes them.

Pure: time comes in as epoch seconds. What cannot be read is a `ValueError` that names the
expression; `W` and `#` of cron, and years, are such.
"""

import re
from datetime import datetime
from zoneinfo import ZoneInfo

from crontab import CronTab

_UNIT_SECONDS = {"minute": 60, "hour": 3600, "day": 86400}


def next_firing(expression: str, zone: str, begin: float, after: float) -> float | None:
    """Returns the first firing later than `after`, or None when there is none.

    `begin` is where a rate counts from. `zone` is the schedule's time zone; a rate needs none.
    """
    match re.fullmatch(r"(rate|at|cron)\((.*)\)", expression.strip()):
        case None:
            raise ValueError(f"{expression}: neither rate(…), at(…) nor cron(…)")
        case parts:
            kind, value = parts.groups()
    if kind == "rate":
        return _next_of_rate(expression, value, begin, after)
    if kind == "at":
        once = datetime.fromisoformat(value).replace(tzinfo=ZoneInfo(zone)).timestamp()
        return once if once > after else None
    local = datetime.fromtimestamp(after, ZoneInfo(zone))
    wait = _cron(expression, value).next(local, default_utc=False)
    return None if wait is None else after + wait


def _next_of_rate(expression, value, begin, after):
    parts = re.fullmatch(r"(\d+) (minute|hour|day)s?", value)
    if parts is None or int(parts[1]) == 0:
        raise ValueError(f"{expression}: a rate is a whole number and minutes, hours or days")
    period = int(parts[1]) * _UNIT_SECONDS[parts[2]]
    passed = max(0, int((after - begin) // period))
    return begin + (passed + 1) * period


def _cron(expression, value):
    fields = value.split()
    if len(fields) != 6 or fields[5] != "*":
        raise ValueError(f"{expression}: cron has six fields, and every year (*) as the last")
    minute, hour, day, month, weekday = (field.replace("?", "*") for field in fields[:5])
    # AWS counts the days of the week from 1 (Sunday), crontab from 0; a step is no day.
    weekday = re.sub(r"(?<![/\d])\d", lambda day: str(int(day[0]) - 1), weekday)
    return CronTab(f"{minute} {hour} {day} {month} {weekday}")
