//! When schedules fire.

use super::*;

/// The first instants of a cron expression in Berlin.
fn berlin(expression: &str, after: &str, most: usize) -> Vec<String> {
    let times = report().cron(expression, "Europe/Berlin").times_after(at(after), most).unwrap();
    times.iter().map(|at| at.format("%m-%dT%H:%M").to_string()).collect()
}

#[test]
fn a_time_of_day_that_is_skipped_fires_once_behind_the_gap() {
    // On March 29th two o'clock is followed by three o'clock at 01:00 UTC.
    assert_eq!(berlin("30 2 * * *", "2026-03-27T12:00:00Z", 3), ["03-28T01:30", "03-29T01:00", "03-30T00:30"]);
    assert_eq!(berlin("0 3 * * *", "2026-03-28T12:00:00Z", 1), ["03-29T01:00"]);
}

#[test]
fn a_time_of_day_that_comes_twice_fires_the_first_time_only() {
    // On October 25th three o'clock is followed by two o'clock at 01:00 UTC.
    assert_eq!(berlin("30 2 * * *", "2026-10-24T12:00:00Z", 2), ["10-25T00:30", "10-26T01:30"]);
    // Asked between the two.
    assert_eq!(berlin("30 2 * * *", "2026-10-25T00:45:00Z", 1), ["10-26T01:30"]);
}

#[test]
fn whatever_is_not_one_time_a_day_fires_as_often_as_the_clock_shows_it() {
    assert_eq!(berlin("30 * * * *", "2026-03-29T00:00:00Z", 3), ["03-29T00:30", "03-29T01:30", "03-29T02:30"]);
    assert_eq!(berlin("30 * * * *", "2026-10-25T00:00:00Z", 3), ["10-25T00:30", "10-25T01:30", "10-25T02:30"]);
    assert_eq!(berlin("*/30 2 * * *", "2026-03-28T12:00:00Z", 2), ["03-30T00:00", "03-30T00:30"], "skipped altogether");
    let twice = ["10-25T00:00", "10-25T00:30", "10-25T01:00", "10-25T01:30", "10-26T01:00"];
    assert_eq!(berlin("*/30 2 * * *", "2026-10-24T12:00:00Z", 5), twice);
}

#[test]
fn instants_go_up_over_both_changes_of_a_year_and_are_the_same_from_wherever_one_asks() {
    for (expression, from) in ["30 2 * * *", "*/20 * * * *", "0 0 1 * *", "15 10 * * MON", "0 3 L * *", "59 59 23 * * *"]
        .iter()
        .flat_map(|expression| ["2026-03-15T00:00:00Z", "2026-10-10T00:00:00Z"].map(|from| (*expression, from)))
    {
        let schedule = report().cron(expression, "Europe/Berlin");
        let all = schedule.times_after(at(from), 1_500).unwrap();
        assert!(all.windows(2).all(|pair| pair[0] < pair[1]), "{expression}");
        for pair in all.windows(2).step_by(97) {
            // From any moment between two instants the second one is next.
            let between = pair[0] + (pair[1] - pair[0]) / 2;
            assert_eq!(schedule.times_after(between, 1).unwrap(), [pair[1]], "{expression} behind {between}");
        }
    }
}

#[test]
fn intervals_are_multiples_since_the_epoch_and_bounds_are_inclusive() {
    let schedule = report().every_behind(Duration::from_secs(3600), Duration::from_secs(900));
    let bounded = schedule.from(at("2026-01-01T10:15:00Z")).until(at("2026-01-01T12:15:00Z"));
    let all = bounded.times_after(at("2025-01-01T00:00:00Z"), 9).unwrap();
    assert_eq!(all, ["10:15", "11:15", "12:15"].map(|time| at(&format!("2026-01-01T{time}:00Z"))));
    let before = report().every(Duration::from_secs(7)).times_after(at("1969-12-31T23:59:50Z"), 2).unwrap();
    assert_eq!(before, [at("1969-12-31T23:59:53Z"), at("1970-01-01T00:00:00Z")]);
}

#[test]
fn an_instant_that_several_rules_name_is_one() {
    let both = report().cron("0 * * * *", "UTC").every(Duration::from_secs(1800));
    let all = both.times_after(at("2026-01-01T00:00:00Z"), 3).unwrap();
    assert_eq!(all, ["00:30", "01:00", "01:30"].map(|time| at(&format!("2026-01-01T{time}:00Z"))));
}

#[test]
fn what_makes_no_sense_is_refused_at_once_and_by_name() {
    let refused = |schedule: Schedule| schedule.check().unwrap_err().to_string();
    for (expression, field) in [
        ("61 * * * *", "minutes"),
        ("0 25 * * *", "hours"),
        ("0 0 32 * *", "days of the month"),
        ("0 0 * FOO *", "months"),
        ("0 0 * * 9", "days of the week"),
        ("99 0 0 * * *", "seconds"),
        ("* * *", "3 fields"),
        ("", "0 fields"),
        ("@often", "nickname"),
    ] {
        let why = refused(report().cron(expression, "UTC"));
        assert!(why.contains(field) && why.contains(expression), "{why}");
    }
    let never = refused(report().cron("0 0 30 2 *", "UTC"));
    assert!(never.contains("would never fire"), "{never}");
    assert_eq!(report().cron("@daily", "Mars/Olympus").check(), Err(ScheduleError::Zone("Mars/Olympus".into())));
    assert!(refused(report()).contains("neither a cron expression nor an interval"));
    assert!(refused(report().every(Duration::from_millis(10))).contains("at least"));
    assert!(refused(report().every_behind(Duration::from_secs(5), Duration::from_secs(5))).contains("shorter"));
    let backwards = report().every(Duration::from_secs(5)).from(at("2026-01-02T00:00:00Z")).until(at("2026-01-01T00:00:00Z"));
    assert!(refused(backwards).contains("before it begins"));
    assert!(refused(Schedule::new("a#2", Report { of: 1 }).every(Duration::from_secs(5))).contains("no name"));
    report().cron("0 12 29 2 *", "UTC").check().expect("a leap day comes");
    report().cron("@hourly", "America/New_York").check().unwrap();
}

#[test]
fn times_that_no_calendar_reaches_are_errors_and_never_panics() {
    let refused = |schedule: Schedule| schedule.check().unwrap_err().to_string();
    for schedule in [report().cron("0 3 * * *", "Europe/Berlin"), report().every(Duration::from_secs(3600))] {
        for far in [DateTime::<Utc>::MAX_UTC, DateTime::<Utc>::MIN_UTC, at("1969-12-31T23:59:59Z"), at("+10000-01-01T00:00:00Z")]
        {
            assert!(refused(schedule.clone().from(far)).contains("years 1970 to 9999"), "{far}");
            assert!(refused(schedule.clone().until(far)).contains("years 1970 to 9999"), "{far}");
            let mut world = World::with(schedule.clone(), "2026-01-01T00:30:00Z");
            let far = Timestamp(far.timestamp_micros());
            for (from, to) in [(far, world.now), (world.now, far)] {
                let backfilled = world.order(Order::Backfill { from, to, beside: false, token: 1 });
                assert!(matches!(backfilled, Err(ScheduleError::Invalid(_))), "{far}");
            }
        }
        schedule.clone().from(at("1970-01-01T00:00:00Z")).until(at("9999-12-31T23:59:59Z")).check().unwrap();
        assert_eq!(schedule.times_after(DateTime::<Utc>::MAX_UTC, 3).unwrap().len(), 0);
        assert_eq!(schedule.times_after(DateTime::<Utc>::MIN_UTC, 3).unwrap().len(), 3);
        assert!(schedule.times_after(at("9999-12-31T20:00:00Z"), 9).unwrap().len() < 9, "nothing comes behind the year 9999");
    }
}
