//! When a schedule fires, as plain values: instants are computed from the ones before, and no clock is asked.
//!
//! **Cron** is read as Vixie's cron reads it, by the wall clock of a time zone. What happens when that clock is moved depends on what
//! the expression is. One of *fixed times* (seconds, minutes and hours are one number each, as in `30 2 * * *`) fires once a day: a
//! time that is skipped fires at the first instant behind the gap, a time that comes twice fires the first time only. Any other
//! (`*/15 * * * *`, `0 1-4 * * *`) fires whenever the clock shows what it says: not at all for a time that is skipped, and twice for
//! one that comes twice.
//!
//! **Intervals** know no clock: multiples of the interval since the Unix epoch, and a phase.

use std::{fmt, time::Duration};

use chrono::{DateTime, TimeZone, Utc};
use chrono_tz::Tz;
use croner::{
    Cron,
    parser::{CronParser, Seconds},
};
use serde::{Deserialize, Serialize};

use crate::{error::ScheduleError, kernel::time::Timestamp};

/// The shortest interval, and so the most often that a schedule fires: what has to happen more often than that is a loop.
const SHORTEST: Duration = Duration::from_secs(1);

/// The longest expression, in bytes.
const LONGEST: usize = 1_024;

/// What bounds and ranges may name: the years 1970 to 9999.
const YEARS: std::ops::RangeInclusive<i64> = 0..=253_402_300_799_999_999;

/// The first instant that is computed from; what is before it is as good as it. Zones and calendars know their way around from there on.
const EARLIEST: Timestamp = Timestamp(-62_135_596_800_000_000 + 366 * 24 * 3_600_000_000);

/// Refuses a time outside the years that calendars are computed for.
pub(crate) fn check_time(what: &str, at: Timestamp) -> Result<(), ScheduleError> {
    if YEARS.contains(&at.0) {
        return Ok(());
    }
    Err(ScheduleError::Invalid(format!("{what} is {at}: give it a time of the years 1970 to 9999")))
}

/// One rule of when a schedule fires.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Spec {
    /// A cron expression by the clock of a zone.
    #[serde(rename = "c")]
    Cron {
        /// Five fields, or six with seconds in front.
        expression: String,
        /// A name of the IANA database, such as `Europe/Berlin` or `UTC`.
        zone: String,
    },
    /// Each multiple of `every` since the Unix epoch, and `phase` later.
    #[serde(rename = "e")]
    Every {
        /// In microseconds.
        every: i64,
        /// In microseconds; less than `every`.
        phase: i64,
    },
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Spec::Cron { expression, zone } => write!(f, "{expression} ({zone})"),
            Spec::Every { every, phase } => {
                let whole = |micros: i64| Duration::from_micros(u64::try_from(micros).unwrap_or(0));
                write!(f, "every {:?}", whole(*every))?;
                if *phase == 0 { Ok(()) } else { write!(f, ", {:?} behind", whole(*phase)) }
            }
        }
    }
}

/// A rule that was read.
enum Rule {
    Cron(Box<Cron>, Tz),
    Every { every: i64, phase: i64 },
}

/// All rules of a schedule, read, and its bounds.
pub(crate) struct Times {
    rules: Vec<Rule>,
    from: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl Times {
    /// Reads the rules of a schedule; says which of them cannot be read, and why.
    pub(crate) fn of(specs: &[Spec], from: Option<Timestamp>, until: Option<Timestamp>) -> Result<Times, ScheduleError> {
        if specs.is_empty() {
            return Err(ScheduleError::Invalid("it has neither a cron expression nor an interval; give it one".into()));
        }
        from.map_or(Ok(()), |from| check_time("its beginning", from))?;
        until.map_or(Ok(()), |until| check_time("its end", until))?;
        if let (Some(from), Some(until)) = (from, until)
            && until < from
        {
            return Err(ScheduleError::Invalid(format!("it ends at {until}, before it begins at {from}")));
        }
        let rules = specs.iter().map(read).collect::<Result<_, _>>()?;
        Ok(Times { rules, from, until })
    }

    /// Returns the first instant behind this one, within the bounds (both inclusive), if there is one. There is none behind the year 9999.
    pub(crate) fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let behind = self.from.map_or(after, |from| after.max(Timestamp(from.0.saturating_sub(1)))).max(EARLIEST);
        if behind.0 >= *YEARS.end() {
            return None;
        }
        let next = self.rules.iter().filter_map(|rule| rule.next_after(behind)).min()?;
        (next.0 <= *YEARS.end() && self.until.is_none_or(|until| next <= until)).then_some(next)
    }
}

fn read(spec: &Spec) -> Result<Rule, ScheduleError> {
    match spec {
        Spec::Cron { expression, zone } => {
            let refused = |why: String| ScheduleError::Expression { expression: expression.clone(), why };
            if expression.len() > LONGEST {
                return Err(refused(format!("it has more than {LONGEST} bytes")));
            }
            let tz: Tz = zone.parse().map_err(|_| ScheduleError::Zone(zone.clone()))?;
            let parser = CronParser::builder().seconds(Seconds::Optional).build();
            let cron = parser.parse(expression).map_err(|error| refused(why(expression, &parser, &error.to_string())))?;
            let rule = Rule::Cron(Box::new(cron), tz);
            // From before anything that anybody plans: what does not match from there on never will.
            let begin = Utc.with_ymd_and_hms(2020, 1, 1, 0, 0, 0).single().map_or(0, |at| at.timestamp_micros());
            match rule.next_after(Timestamp(begin)) {
                Some(_) => Ok(rule),
                None => Err(refused("no day of the calendar matches it, so it would never fire".into())),
            }
        }
        Spec::Every { every, phase } => {
            let shortest = i64::try_from(SHORTEST.as_micros()).unwrap_or(i64::MAX);
            if *every < shortest {
                return Err(ScheduleError::Invalid(format!("an interval has at least {SHORTEST:?}")));
            }
            if !(0..*every).contains(phase) {
                return Err(ScheduleError::Invalid("a phase is shorter than its interval".into()));
            }
            Ok(Rule::Every { every: *every, phase: *phase })
        }
    }
}

/// Says which field of an expression is at fault: the one that cannot be read either where all others are stars.
fn why(expression: &str, parser: &CronParser, error: &str) -> String {
    const NAMES: [&str; 6] = ["seconds", "minutes", "hours", "days of the month", "months", "days of the week"];
    let fields: Vec<&str> = expression.split_whitespace().collect();
    if expression.trim_start().starts_with('@') {
        return format!("{} is no nickname that is known ({error})", expression.trim());
    }
    let names = match fields.len() {
        5 => &NAMES[1..],
        6 => &NAMES[..],
        count => return format!("it has {count} fields: there are five, or six with seconds in front"),
    };
    for (place, name) in names.iter().enumerate() {
        let mut alone = vec!["*"; names.len()];
        alone[place] = fields[place];
        if let Err(error) = parser.parse(&alone.join(" ")) {
            return format!("the {name} are {:?}: {error}", fields[place]);
        }
    }
    error.to_owned()
}

impl Rule {
    fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        match self {
            Rule::Cron(cron, zone) => {
                let local = DateTime::from_timestamp_micros(after.0)?.with_timezone(zone);
                let next = cron.find_next_occurrence(&local, false).ok()?.timestamp_micros();
                // Whatever the library makes of fractions of a second: never the same instant again.
                (next > after.0).then_some(Timestamp(next))
            }
            Rule::Every { every, phase } => {
                let whole = after.0.checked_sub(*phase)?.div_euclid(*every).checked_add(1)?;
                whole.checked_mul(*every)?.checked_add(*phase).map(Timestamp)
            }
        }
    }
}
