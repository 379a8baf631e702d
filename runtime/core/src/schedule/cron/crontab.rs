//! From crontab's five fields to AWS's six.
//!
//! What both mean alike is converted; where they differ nothing is guessed: crontab fires where the day of the
//! month *or* the day of the week is right, which AWS cannot say, and `5/15` without an end is AWS's alone.

use super::{
    super::{Unfit, quoted},
    field::Field,
};

/// Crontab counts from Sunday, 0, and takes 7 for Sunday too.
const WEEKDAY: Field =
    Field { name: "day of week", least: 0, most: 7, names: &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"] };

/// Converts the five fields; their numbers are checked by whoever reads the six.
pub(super) fn to_aws(fields: [&str; 5]) -> Result<[String; 6], Unfit> {
    for field in fields {
        check(field)?;
    }
    let [minutes, hours, day, month, weekday] = fields;
    let (day, weekday) = match (day, weekday) {
        (day, "*") => (day.to_owned(), "?".to_owned()),
        ("*", weekday) => ("?".to_owned(), weekdays(weekday)?),
        _ => {
            let what = "day of month and day of week are both given, which crontab and AWS take differently";
            let fix = "crontab fires on either: write two schedules, or AWS's six fields with ? in one of the two";
            return Err(Unfit::new("cron", what, fix));
        }
    };
    Ok([minutes.to_owned(), hours.to_owned(), day, month.to_owned(), weekday, "*".to_owned()])
}

fn check(field: &str) -> Result<(), Unfit> {
    let upper = field.to_ascii_uppercase();
    let is_name = |part: &str| part.len() == 3 && part.bytes().all(|byte| byte.is_ascii_uppercase());
    let words = || upper.split([',', '-', '/']);
    if words().any(|part| !is_name(part) && part.contains(['L', 'W', '#', '?'])) {
        let what = format!("{} belongs to AWS's six fields, and these are five", quoted(field));
        return Err(Unfit::new("cron", what, r#"add the year: e.g. "0 3 L * ? *""#));
    }
    for part in field.split(',') {
        if let Some((range, step)) = part.split_once('/')
            && range != "*"
            && !range.contains('-')
        {
            let what = format!("{} has a step and no range, which crontab and AWS take differently", quoted(part));
            return Err(Unfit::new(
                "cron",
                what,
                format!("write a range, e.g. {range}-59/{step}, or AWS's six fields"),
            ));
        }
    }
    Ok(())
}

/// Crontab's weekdays as a list of AWS's numbers.
fn weekdays(text: &str) -> Result<String, Unfit> {
    let set = WEEKDAY.set(text)?;
    let is_named = |weekday: u16| set.contains(weekday) || (weekday == 0 && set.contains(7));
    let numbers: Vec<String> =
        (0..7).filter(|weekday| is_named(*weekday)).map(|weekday| (weekday + 1).to_string()).collect();
    Ok(numbers.join(","))
}
