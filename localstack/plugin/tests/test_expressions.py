"""When schedules fire. All times are UTC unless a zone is named."""

import unittest
from datetime import datetime, timezone
from zoneinfo import ZoneInfo

from rhubarb_localstack.expressions import next_firing


def at(text: str, zone: str = "UTC") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


class NextFiring(unittest.TestCase):
    def check(self, expression, after, expected, zone="UTC", begin="2026-03-01T00:00:00"):
        found = next_firing(expression, zone, at(begin), at(after))
        shown = datetime.fromtimestamp(found, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
        self.assertEqual(shown, expected)

    def test_of_a_rate_counts_from_its_beginning(self):
        self.check("rate(5 minutes)", "2026-03-01T00:00:00", "2026-03-01T00:05:00")
        self.check("rate(5 minutes)", "2026-03-01T00:04:59", "2026-03-01T00:05:00")
        self.check("rate(5 minutes)", "2026-03-01T00:05:00", "2026-03-01T00:10:00")
        self.check("rate(1 day)", "2026-03-03T12:00:00", "2026-03-04T00:00:00")

    def test_of_a_rate_before_its_beginning_is_one_period_after_it(self):
        self.check("rate(1 hour)", "2026-02-01T00:00:00", "2026-03-01T01:00:00")

    def test_of_a_single_time_is_in_its_zone_and_then_never(self):
        once = "at(2026-03-01T12:00:00)"
        self.check(once, "2026-03-01T00:00:00", "2026-03-01T11:00:00", zone="Europe/Berlin")
        self.assertIsNone(next_firing(once, "UTC", 0, at("2026-03-01T12:00:00")))

    def test_of_cron_is_strictly_later(self):
        self.check("cron(0/15 * * * ? *)", "2026-03-01T00:15:00", "2026-03-01T00:30:00")

    def test_of_cron_counts_days_of_the_week_from_sunday_as_one(self):
        # The first of March 2026 is a Sunday.
        self.check("cron(0 8 ? * 2 *)", "2026-03-01T00:00:00", "2026-03-02T08:00:00")
        self.check("cron(0 8 ? * 2-6 *)", "2026-03-06T09:00:00", "2026-03-09T08:00:00")
        self.check("cron(0 8 ? * MON-FRI *)", "2026-03-06T09:00:00", "2026-03-09T08:00:00")
        self.check("cron(0 8 ? * 1,7 *)", "2026-03-01T09:00:00", "2026-03-07T08:00:00")

    def test_of_cron_follows_the_clock_of_its_zone_over_daylight_saving(self):
        # Berlin goes from UTC+1 to UTC+2 on 29 March 2026.
        daily = "cron(0 8 * * ? *)"
        self.check(daily, "2026-03-28T00:00:00", "2026-03-28T07:00:00", zone="Europe/Berlin")
        self.check(daily, "2026-03-28T12:00:00", "2026-03-29T06:00:00", zone="Europe/Berlin")

    def test_of_what_cannot_be_read_is_an_error_that_names_it(self):
        for expression in ("every 5 minutes", "rate(0 minutes)", "rate(5 weeks)", "cron(* * *)"):
            with self.subTest(expression), self.assertRaisesRegex(ValueError, r"[(]|every"):
                next_firing(expression, "UTC", 0, 0)


if __name__ == "__main__":
    unittest.main()
