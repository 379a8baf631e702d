//! AWS's cron by its guide's examples, crontab's five fields, and what is refused.

use proptest::prelude::*;

use super::*;

fn after(text: &str, from: &str, count: usize) -> Vec<String> {
    let cron = Cron::parse(text).unwrap();
    let mut at: DateTime = from.parse().unwrap();
    let mut found = Vec::new();
    while found.len() < count
        && let Some(next) = cron.next(at)
    {
        found.push(next.strftime("%Y-%m-%d %H:%M").to_string());
        at = next;
    }
    found
}

#[test]
fn awss_six_fields_mean_what_its_guide_says() {
    for (text, expected) in [
        ("15 10 * * ? *", ["2027-01-01 10:15", "2027-01-02 10:15"]),
        ("0 18 ? * MON-FRI *", ["2027-01-01 18:00", "2027-01-04 18:00"]),
        ("0 8 1 * ? *", ["2027-01-01 08:00", "2027-02-01 08:00"]),
        ("0/10 * ? * MON-FRI *", ["2027-01-01 00:10", "2027-01-01 00:20"]),
        ("15 12 * * ? 2028-2030", ["2028-01-01 12:15", "2028-01-02 12:15"]),
        ("15 10 ? * 6L 2027-2028", ["2027-01-29 10:15", "2027-02-26 10:15"]),
        ("0 0 L * ? *", ["2027-01-31 00:00", "2027-02-28 00:00"]),
        ("0 0 ? * L *", ["2027-01-02 00:00", "2027-01-09 00:00"]),
        ("0 0 ? * 2#1 *", ["2027-01-04 00:00", "2027-02-01 00:00"]),
        ("0 0 ? * tue#5 *", ["2027-03-30 00:00", "2027-06-29 00:00"]),
        ("0 0 3W * ? *", ["2027-01-04 00:00", "2027-02-03 00:00"]),
        ("0 0 1W 5 ? *", ["2027-05-03 00:00", "2028-05-01 00:00"]),
        ("0 0 31W 1 ? *", ["2027-01-29 00:00", "2028-01-31 00:00"]),
        ("5,10-12 23 ? 2 1 2027", ["2027-02-07 23:05", "2027-02-07 23:10"]),
        ("0 0 29 2 ? *", ["2028-02-29 00:00", "2032-02-29 00:00"]),
        ("0 0 ? jan,dec SAT,SUN *", ["2027-01-02 00:00", "2027-01-03 00:00"]),
    ] {
        assert_eq!(after(text, "2027-01-01T00:00:00", 2), expected, "{text}");
    }
}

#[test]
fn the_twenty_ninth_of_february_leaves_out_2100() {
    let leap = after("0 0 29 2 ? *", "2095-01-01T00:00:00", 2);
    assert_eq!(leap, ["2096-02-29 00:00", "2104-02-29 00:00"]);
    assert_eq!(after("0 0 29 2 ? *", "2196-03-01T00:00:00", 1), [""; 0], "years end with 2199");
}

#[test]
fn crontabs_five_fields_become_awss_six() {
    for (five, six) in [
        ("* * * * *", "* * * * ? *"),
        ("*/5 0-6 1,15 * *", "*/5 0-6 1,15 * ? *"),
        ("0 3 * JAN-MAR *", "0 3 * JAN-MAR ? *"),
        ("0 3 * * 0", "0 3 ? * 1 *"),
        ("0 3 * * 7", "0 3 ? * 1 *"),
        ("0 3 * * 1-5", "0 3 ? * 2,3,4,5,6 *"),
        ("0 3 * * 5-7", "0 3 ? * 1,6,7 *"),
        ("0 3 * * mon,WED", "0 3 ? * 2,4 *"),
        ("0 3 * * */2", "0 3 ? * 1,3,5,7 *"),
        ("0 3 * jul *", "0 3 * jul ? *"),
    ] {
        assert_eq!(Cron::parse(five).unwrap().as_str(), six, "{five}");
    }
}

#[test]
fn what_crontab_and_aws_take_differently_is_refused() {
    for (text, what, fix) in [
        ("0 3 13 * 5", "which crontab and AWS take differently", "two schedules"),
        ("0 3 */2 * MON", "which crontab and AWS take differently", "two schedules"),
        ("5/15 * * * *", "a step and no range", "5-59/15"),
        ("0 3 L * *", "belongs to AWS's six fields", "add the year"),
        ("0 3 * * 5#2", "belongs to AWS's six fields", "add the year"),
        ("0 3 ? * 5", "belongs to AWS's six fields", "add the year"),
    ] {
        assert_refused(text, what, fix);
    }
}

#[test]
fn a_bad_expression_names_its_field_and_the_fix() {
    for (text, what, fix) in [
        ("60 * * * ? *", "\"60\" in its field minutes", "from 0 to 59"),
        ("* 24 * * ? *", "in its field hours", "from 0 to 23"),
        ("* * 0 * ? *", "in its field day of month", "from 1 to 31"),
        ("* * * 13 ? *", "in its field month", "JAN to DEC"),
        ("* * ? * 8 *", "in its field day of week", "SUN to SAT"),
        ("* * ? * 0 *", "in its field day of week", "Sunday is 1"),
        ("* * ? * 0-4 *", "in its field day of week", "Sunday is 1"),
        ("* * * * ? 1969", "in its field year", "from 1970 to 2199"),
        ("* * * * ? 2200", "in its field year", "from 1970 to 2199"),
        ("*/0 * * * ? *", "has no step", "from 1"),
        ("*/-1 * * * ? *", "has no step", "from 1"),
        ("22-2 * * * ? *", "runs backwards", "22-59,0-2"),
        ("* * ? * FRI-MON *", "runs backwards", "6-7,1-2"),
        ("* * * * * *", "are both given", "write ? in one"),
        ("* * ? * ? *", "are both ?", "write * in one"),
        ("* * ? * 2/2 *", "has a step", "list the days"),
        ("* * ? * 2#6 *", "no nth weekday", "2#1"),
        ("* * ? * 2#1,3#1 *", "no nth weekday", "2#1"),
        ("* * L-3 * ? *", "is not AWS's", "alone"),
        ("* * LW * ? *", "is not AWS's", "alone"),
        ("* * 1W,5W * ? *", "is not AWS's", "alone"),
        ("0 0 30 2 ? *", "a day that never comes", "a day that its months have"),
        ("0 0 31 4,6,9,11 ? *", "a day that never comes", "a day that its months have"),
        ("0 0 29 2 ? 2027", "a day that never comes", "a day that its months have"),
        (", * * * ? *", "in its field minutes", "from 0 to 59"),
        ("1-2-3 * * * ? *", "in its field minutes", "from 0 to 59"),
        ("+1 * * * ? *", "in its field minutes", "from 0 to 59"),
        ("* * *", "no cron expression", "five fields"),
        ("", "no cron expression", "five fields"),
        ("@daily", "no cron expression", "five fields"),
    ] {
        assert_refused(text, what, fix);
    }
}

#[track_caller]
fn assert_refused(text: &str, what: &str, fix: &str) {
    let unfit = Cron::parse(text).unwrap_err();
    assert!(unfit.key == "cron" && unfit.what.contains(what) && unfit.fix.contains(fix), "{text:?}: {unfit}");
}

/// A field as text, and the numbers it stands for.
fn field(least: u32, most: u32) -> impl Strategy<Value = (String, Vec<u32>)> {
    let part = (0..6, least..=most, least..=most, 1..=(most - least)).prop_map(move |(shape, a, b, step)| {
        let (a, b) = (a.min(b), a.max(b));
        let by = |first: u32, last: u32, step: u32| (first..=last).filter(move |n| (n - first).is_multiple_of(step));
        match shape {
            0 => ("*".to_owned(), by(least, most, 1).collect::<Vec<_>>()),
            1 => (format!("*/{step}"), by(least, most, step).collect()),
            2 => (format!("{a}-{b}"), by(a, b, 1).collect()),
            3 => (format!("{a}-{b}/{step}"), by(a, b, step).collect()),
            4 => (format!("{a}/{step}"), by(a, most, step).collect()),
            _ => (a.to_string(), vec![a]),
        }
    });
    proptest::collection::vec(part, 1..3).prop_map(|parts| {
        let texts: Vec<&str> = parts.iter().map(|(text, _)| text.as_str()).collect();
        (texts.join(","), parts.iter().flat_map(|(_, numbers)| numbers.clone()).collect())
    })
}

/// A rule for days as the two fields, and as a test of one date that knows nothing of bits.
#[derive(Clone, Debug)]
enum DayRule {
    OfMonth(String, Vec<u32>),
    OfWeek(String, Vec<u32>),
    Last,
    Nearest(u32),
    LastOfWeek(u32),
    Nth(u32, u32),
}

impl DayRule {
    fn any() -> impl Strategy<Value = Self> {
        prop_oneof![
            field(1, 31).prop_map(|(text, days)| Self::OfMonth(text, days)),
            field(1, 7)
                .prop_filter("AWS has no step here", |(text, _)| !text.contains('/'))
                .prop_map(|(text, days)| Self::OfWeek(text, days)),
            Just(Self::Last),
            (1..=31_u32).prop_map(Self::Nearest),
            (1..=7_u32).prop_map(Self::LastOfWeek),
            (1..=7_u32, 1..=5_u32).prop_map(|(weekday, nth)| Self::Nth(weekday, nth)),
        ]
    }

    fn fields(&self) -> (String, String) {
        let any = || "?".to_owned();
        match self {
            Self::OfMonth(text, _) => (text.clone(), any()),
            Self::OfWeek(text, _) => (any(), text.clone()),
            Self::Last => ("L".to_owned(), any()),
            Self::Nearest(day) => (format!("{day}W"), any()),
            Self::LastOfWeek(weekday) => (any(), format!("{weekday}L")),
            Self::Nth(weekday, nth) => (any(), format!("{weekday}#{nth}")),
        }
    }

    fn holds(&self, date: Date) -> bool {
        let day = u32::try_from(date.day()).unwrap();
        let weekday = u32::try_from(date.weekday().to_sunday_one_offset()).unwrap();
        let is_next_month = |days: i32| date.checked_add(jiff::Span::new().days(days)).unwrap().month() != date.month();
        match self {
            Self::OfMonth(_, days) => days.contains(&day),
            Self::OfWeek(_, days) => days.contains(&weekday),
            Self::Last => is_next_month(1),
            Self::LastOfWeek(of) => weekday == *of && is_next_month(7),
            Self::Nth(of, nth) => weekday == *of && (day - 1) / 7 + 1 == *nth,
            Self::Nearest(target) => {
                let month = || (1..=date.days_in_month()).map(|day| Date::new(date.year(), date.month(), day).unwrap());
                let works = month().filter(|date| !matches!(date.weekday().to_sunday_one_offset(), 1 | 7));
                let nearest = works.min_by_key(|date| u32::try_from(date.day()).unwrap().abs_diff(*target));
                *target <= u32::try_from(date.days_in_month()).unwrap() && nearest == Some(date)
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Minute by minute, day by day, over four years with a leap day in them.
    #[test]
    fn what_is_found_is_what_a_search_of_every_minute_finds(
        (minutes, of_minute) in field(0, 59),
        (hours, of_hour) in field(0, 23),
        (months, of_month) in field(1, 12),
        days in DayRule::any(),
        from in 0..1461_i32,
    ) {
        let (day, weekday) = days.fields();
        let text = format!("{minutes} {hours} {day} {months} {weekday} *");
        let Ok(cron) = Cron::parse(&text) else {
            // Only a day that never comes is refused, and none of eight years is one.
            let mut date = Date::constant(2024, 1, 1);
            while date.year() < 2032 {
                prop_assert!(!(of_month.contains(&u32::try_from(date.month()).unwrap()) && days.holds(date)), "{} {}", text, date);
                date = date.tomorrow().unwrap();
            }
            return Ok(());
        };
        let begin = Date::constant(2026, 1, 1).checked_add(jiff::Span::new().days(from)).unwrap();
        let mut expected = Vec::new();
        let mut date = begin;
        while expected.len() < 200 && date.year() < 2031 {
            if of_month.contains(&u32::try_from(date.month()).unwrap()) && days.holds(date) {
                for minute in 0..24 * 60_u32 {
                    if of_hour.contains(&(minute / 60)) && of_minute.contains(&(minute % 60)) {
                        expected.push(date.at(i8::try_from(minute / 60).unwrap(), i8::try_from(minute % 60).unwrap(), 0, 0));
                    }
                }
            }
            date = date.tomorrow().unwrap();
        }
        let mut at = begin.at(0, 0, 0, 0).checked_sub(jiff::Span::new().seconds(1)).unwrap();
        for expected in expected {
            let next = cron.next(at);
            prop_assert_eq!(next, Some(expected), "{} after {}", text, at);
            at = expected;
        }
    }

    #[test]
    fn no_text_panics(text in ".{0,40}", fields in "([0-9*?/,LW#-]{1,5} ){4,5}[0-9*?]{1,4}") {
        let _ = (Cron::parse(&text), Cron::parse(&fields));
    }
}
