//! What is decided at a gate, as values; and at random, against models that know the whole past.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use super::{
    decide::{Begun, Decided, How, Known, MOST_BYTES, MOST_RECENT, MOST_STARTS, MOST_WAITING, Passed, Request, Start, decide},
    row::{Row, Rule, State, Wanted, gate_name, id_of, is_gate, longest_id},
};
use crate::{
    error::DispatchError,
    kernel::{id::RunKey, payload::Payload, random::mix, time::Timestamp},
};

/// A gate, its clock, and everything that it has begun.
struct Gate {
    name: String,
    row: Option<Row>,
    now: i64,
    begun: Vec<(i64, Start)>,
    keys: i64,
    in_use: HashSet<String>,
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn wanted(input: &str) -> Wanted {
    Wanted {
        workflow: "w".into(),
        version: 1,
        input: Payload::encode(input, "an input").unwrap(),
        deadline: None,
        retry: None,
        priority: 0,
        queue: String::new(),
        tags: Vec::new(),
        needs: Vec::new(),
    }
}

impl Gate {
    fn new(kind: &str) -> Gate {
        let (begun, in_use) = (Vec::new(), HashSet::new());
        Gate { name: gate_name(kind, "w", "k"), row: None, now: 0, begun, keys: 0, in_use }
    }

    /// Decides at this millisecond, and has it written.
    fn at(&mut self, now: i64, requests: &[Request]) -> Decided {
        let exist = self.begun.iter().map(|(_, start)| {
            let begun = Begun { run: start.run, input: start.wanted.input.digest(), status: "completed" };
            (start.id.clone(), begun)
        });
        let exist: HashMap<_, _> = exist.collect();
        let known = Known { name: &self.name, now: Timestamp(now * 1_000), begun: &exist, in_use: &self.in_use };
        let decided = decide(self.row.clone(), requests, &known);
        if let Some(row) = &decided.row {
            // As it comes back from a store.
            self.row = Some(Row::decode(&row.encode().unwrap()).unwrap());
            assert_eq!(self.row.as_ref(), Some(row));
            self.now = row.at.0 / 1_000;
        } else {
            assert!(decided.starts.is_empty(), "what begins is in the commit of its row");
        }
        self.begun.extend(decided.starts.iter().map(|start| (self.now, start.clone())));
        decided
    }

    fn ask(&mut self, now: i64, rule: Rule, request: &str, input: &str) -> Result<Passed, DispatchError> {
        self.keys += 1;
        let request = Request { rule, wanted: wanted(input), request: request.into(), run: RunKey(self.keys) };
        self.at(now, &[request]).answers.remove(0)
    }

    /// Lets everything begin that is due by then, each when it is.
    fn run_until(&mut self, until: i64) {
        while let Some(due) = self.row.as_ref().and_then(Row::next_at).map(|due| due.0.div_euclid(1_000))
            && due <= until
        {
            let before = (self.begun.len(), self.row.clone());
            self.at(due.max(self.now), &[]);
            assert!(self.begun.len() > before.0, "it was due and nothing came of it: {:?}", before.1);
        }
    }

    fn inputs(&self) -> Vec<(i64, String)> {
        self.begun.iter().map(|(at, start)| (*at, start.wanted.input.decode("an input").unwrap())).collect()
    }
}

fn debounce(quiet: u64, at_most: Option<u64>) -> Rule {
    Rule::Debounce { quiet: ms(quiet), at_most: at_most.map(ms) }
}

fn throttle(most: u32, per: u64) -> Rule {
    Rule::Throttle { most, per: ms(per) }
}

fn until(at: i64) -> Timestamp {
    Timestamp(at * 1_000)
}

fn begins(list: &[(i64, &str)]) -> Vec<(i64, String)> {
    list.iter().map(|(at, input)| (*at, (*input).to_owned())).collect()
}

#[test]
fn a_burst_begins_once_behind_its_last_dispatch_and_with_its_argument() {
    let mut gate = Gate::new("debounce");
    let first = gate.ask(0, debounce(10, None), "1", "a").unwrap();
    assert_eq!((first.how, first.id.as_str()), (How::Waits(until(10)), "stent:debounce/w/k/1"));
    let second = gate.ask(9, debounce(10, None), "2", "b").unwrap();
    assert_eq!((second.how, second.run, &second.id), (How::Folded(until(19)), first.run, &first.id));
    gate.run_until(18);
    assert_eq!(gate.inputs(), []);
    gate.run_until(100);
    assert_eq!(gate.inputs(), begins(&[(19, "b")]));
    assert_eq!(gate.begun[0].1.run, first.run);
    let next = gate.ask(20, debounce(10, None), "3", "c").unwrap();
    assert_eq!((next.how, next.id.as_str()), (How::Waits(until(30)), "stent:debounce/w/k/2"));
}

#[test]
fn a_dispatch_behind_the_due_time_opens_the_next_burst_though_nobody_has_begun_the_one_before() {
    let mut gate = Gate::new("debounce");
    gate.ask(0, debounce(10, None), "1", "a").unwrap();
    let late = gate.ask(10, debounce(10, None), "2", "b").unwrap();
    assert_eq!(late.how, How::Waits(until(20)));
    gate.run_until(100);
    assert_eq!(gate.inputs(), begins(&[(10, "a"), (20, "b")]));
}

#[test]
fn a_burst_that_does_not_end_is_put_off_until_its_limit_and_no_longer() {
    let mut gate = Gate::new("debounce");
    for now in (0..=24).step_by(8) {
        gate.ask(now, debounce(10, Some(25)), &now.to_string(), &now.to_string()).unwrap();
    }
    gate.run_until(100);
    assert_eq!(gate.inputs(), begins(&[(25, "24")]));
    // A limit that is over already: it begins with this very dispatch.
    gate.ask(200, debounce(50, None), "a", "a").unwrap();
    assert_eq!(gate.ask(230, debounce(50, Some(20)), "b", "b").unwrap().how, How::Begun);
    assert_eq!(gate.inputs()[1..], begins(&[(230, "b")]));
}

#[test]
fn a_clock_that_is_behind_begins_no_burst_early() {
    let mut gate = Gate::new("debounce");
    gate.ask(100, debounce(10, None), "1", "a").unwrap();
    assert_eq!(gate.ask(50, debounce(10, None), "2", "b").unwrap().how, How::Folded(until(110)));
}

#[test]
fn a_debounced_request_is_known_again_before_and_behind_its_beginning() {
    let mut gate = Gate::new("debounce");
    let first = gate.ask(0, debounce(10, None), "1", "a").unwrap();
    gate.ask(1, debounce(10, None), "2", "b").unwrap();
    assert_eq!(gate.ask(5, debounce(10, None), "1", "a").unwrap().how, How::Folded(until(11)), "it puts nothing off");
    gate.run_until(100);
    assert_eq!(gate.inputs(), begins(&[(11, "b")]));
    let again = gate.ask(50, debounce(10, None), "1", "a").unwrap();
    assert_eq!((again.how, again.run, again.id), (How::Attached, first.run, first.id));
    gate.run_until(1_000);
    assert_eq!(gate.begun.len(), 1);
    for n in 0..MOST_RECENT {
        gate.ask(1_000, debounce(10, None), &format!("other {n}"), "c").unwrap();
    }
    assert_eq!(gate.ask(1_001, debounce(10, None), "1", "d").unwrap().how, How::Folded(until(1_011)), "forgotten, as documented");
}

#[test]
fn what_is_more_than_a_window_has_waits_in_its_order() {
    let mut gate = Gate::new("throttle");
    let rule = throttle(2, 100);
    let asked = |gate: &mut Gate, now, n: &str| gate.ask(now, rule, n, n).unwrap().how;
    assert_eq!(asked(&mut gate, 0, "a"), How::Begun);
    assert_eq!(asked(&mut gate, 30, "b"), How::Begun);
    assert_eq!(asked(&mut gate, 40, "c"), How::Waits(until(100)));
    assert_eq!(asked(&mut gate, 41, "d"), How::Waits(until(130)));
    assert_eq!(asked(&mut gate, 42, "e"), How::Waits(until(200)));
    gate.run_until(1_000);
    assert_eq!(gate.inputs(), begins(&[(0, "a"), (30, "b"), (100, "c"), (130, "d"), (200, "e")]));
    assert_eq!(gate.begun[4].1.id, "stent:throttle/w/k/e");
    assert_eq!(asked(&mut gate, 1_000, "f"), How::Begun);
}

#[test]
fn nothing_is_made_up_for_in_a_rush_when_no_node_was_up() {
    let mut gate = Gate::new("throttle");
    for n in 0..6 {
        gate.ask(0, throttle(2, 100), &n.to_string(), "x").unwrap();
    }
    gate.at(5_000, &[]);
    gate.run_until(10_000);
    assert_eq!(gate.begun.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [0, 0, 5_000, 5_000, 5_100, 5_100]);
}

#[test]
fn a_throttled_request_is_known_again_while_it_waits_and_ever_after() {
    let mut gate = Gate::new("throttle");
    let rule = throttle(1, 100);
    let first = gate.ask(0, rule, "a", "x").unwrap();
    let second = gate.ask(0, rule, "b", "y").unwrap();
    assert_eq!(gate.ask(1, rule, "b", "y").unwrap(), second);
    assert!(matches!(gate.ask(1, rule, "b", "z"), Err(DispatchError::IdInUse { differs: true, .. })));
    gate.run_until(1_000);
    for (request, input, of) in [("a", "x", first), ("b", "y", second)] {
        let again = gate.ask(9_000, rule, request, input).unwrap();
        assert_eq!(again, Passed { how: How::Attached, ..of });
    }
    assert!(matches!(gate.ask(9_000, rule, "a", "y"), Err(DispatchError::IdInUse { differs: true, .. })));
    assert_eq!(gate.begun.len(), 2);
    // Twice in one go.
    let request = |run| Request { rule, wanted: wanted("w"), request: "c".into(), run: RunKey(run) };
    let answers = gate.at(9_000, &[request(71), request(72)]).answers;
    assert_eq!(answers.iter().map(|answer| answer.as_ref().unwrap().run).collect::<Vec<_>>(), [RunKey(71); 2]);
}

#[test]
fn a_line_that_is_full_refuses_and_records_nothing() {
    let mut gate = Gate::new("throttle");
    let rule = throttle(1, 100);
    let requests = |from: usize, to| -> Vec<Request> {
        (from..to)
            .map(|n| Request { rule, wanted: wanted("x"), request: n.to_string(), run: RunKey(i64::try_from(n).unwrap()) })
            .collect()
    };
    let decided = gate.at(0, &requests(0, MOST_WAITING + 2));
    let refused: Vec<_> = decided.answers.iter().enumerate().filter(|(_, answer)| answer.is_err()).map(|(n, _)| n).collect();
    assert_eq!(refused, [MOST_WAITING + 1], "one has begun");
    assert!(matches!(decided.answers[MOST_WAITING + 1], Err(DispatchError::GateFull { waiting: MOST_WAITING, .. })));
    assert!(gate.at(1, &requests(5_000, 5_001)).row.is_none());
    gate.at(100, &[]);
    assert!(gate.at(101, &requests(5_000, 5_001)).answers[0].is_ok(), "one has made room");
    // By bytes; one that is larger than all waits if nothing else does.
    let mut gate = Gate::new("throttle");
    let large = "x".repeat(MOST_BYTES / 2);
    let asked: Vec<_> = (0..4).map(|n| gate.ask(0, rule, &n.to_string(), &large).is_ok()).collect();
    assert_eq!(asked, [true, true, false, false]);
}

#[test]
fn a_commit_begins_a_bounded_number_and_the_rest_is_due_at_once() {
    let mut gate = Gate::new("throttle");
    for n in 0..3 * MOST_STARTS {
        gate.ask(0, throttle(1, 1), &n.to_string(), "x").unwrap();
    }
    gate.ask(0, throttle(1_000, 1_000), "last", "x").unwrap();
    assert_eq!(gate.begun.len(), 1 + MOST_STARTS);
    assert_eq!(gate.row.as_ref().and_then(Row::next_at), Some(until(0)));
    gate.run_until(0);
    assert_eq!(gate.begun.len(), 3 * MOST_STARTS + 1);
}

#[test]
fn one_stands_for_all_that_come_within_its_window() {
    let mut gate = Gate::new("dedupe");
    let rule = Rule::Dedupe { window: ms(100) };
    let first = gate.ask(0, rule, "1", "a").unwrap();
    assert_eq!((first.how, first.id.as_str()), (How::Begun, "stent:dedupe/w/k/1"));
    let second = gate.ask(99, rule, "2", "b").unwrap();
    assert_eq!(second, Passed { how: How::Attached, ..first.clone() });
    let third = gate.ask(100, rule, "3", "c").unwrap();
    assert_eq!((third.how, third.id.as_str()), (How::Begun, "stent:dedupe/w/k/2"));
    assert_eq!(gate.inputs(), begins(&[(0, "a"), (100, "c")]));
    assert_eq!(gate.row.as_ref().and_then(Row::next_at), None);
}

#[test]
fn a_request_that_began_one_is_known_again_also_behind_its_window() {
    let mut gate = Gate::new("dedupe");
    let rule = Rule::Dedupe { window: ms(1) };
    let first = gate.ask(0, rule, "1", "a").unwrap();
    let second = gate.ask(50, rule, "2", "b").unwrap();
    for (request, of) in [("1", first), ("2", second)] {
        assert_eq!(gate.ask(100, rule, request, "a").unwrap(), Passed { how: How::Attached, ..of });
    }
    assert_eq!(gate.begun.len(), 2);
}

#[test]
fn a_line_that_is_full_by_a_mistaken_rule_goes_on_by_the_next_dispatch_with_a_better_one() {
    let mut gate = Gate::new("throttle");
    let day = 24 * 60 * 60 * 1_000;
    for n in 0..=MOST_WAITING {
        gate.ask(0, throttle(1, day), &n.to_string(), "x").unwrap();
    }
    assert!(matches!(gate.ask(1, throttle(1, day), "more", "x"), Err(DispatchError::GateFull { .. })));
    assert!(gate.ask(2, throttle(100, 1_000), "more", "x").is_ok());
    gate.run_until(20_000);
    assert_eq!(gate.begun.len(), MOST_WAITING + 2);
}

#[test]
fn an_id_that_somebody_has_keeps_nobody_waiting() {
    let mut gate = Gate::new("debounce");
    let asked = gate.ask(0, debounce(10, None), "1", "a").unwrap();
    gate.in_use = HashSet::from([asked.id.clone()]);
    gate.run_until(100);
    assert_eq!((gate.begun[0].1.run, gate.begun[0].1.id.as_str()), (asked.run, "stent:debounce/w/k/1+"));
}

#[test]
fn names_of_gates_tell_workflow_and_key_apart() {
    let names =
        [("a/b", "c"), ("a", "b/c"), ("a%2Fb", "c"), ("a", "b%2Fc")].map(|(workflow, key)| gate_name("debounce", workflow, key));
    assert_eq!(names.iter().collect::<HashSet<_>>().len(), 4, "{names:?}");
    assert!(names.iter().all(|name| is_gate(name) && name.as_str() < super::BEHIND_GATES));
    let line = gate_name("throttle", "w", "k");
    assert_eq!(longest_id(&line, &throttle(1, 1), "r/1/2"), "stent:throttle/w/k/r%2F1%2F2", "no default id of a child");
}

// ---- at random -------------------------------------------------------------------------------------------------

struct Random(u64, u64);

impl Random {
    #[expect(clippy::print_stdout, reason = "a seed that fails must be known")]
    fn from_env() -> Random {
        let fresh = || u64::try_from(chrono::Utc::now().timestamp_micros()).unwrap_or(7);
        let seed = std::env::var("STENT_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(fresh);
        println!("STENT_SEED={seed}");
        Random(seed, 0)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.1 += 1;
        mix(self.0, self.1) % limit
    }

    fn time(&mut self, limit: u64) -> i64 {
        i64::try_from(self.below(limit)).unwrap()
    }
}

/// The model cuts the whole list of dispatches into bursts; the gate sees them one by one, some of them twice, and its timer comes late.
#[test]
fn a_debounce_agrees_with_a_model_that_knows_all_dispatches() {
    let mut random = Random::from_env();
    for _ in 0..300 {
        let (quiet, most) = (1 + random.below(20), 1 + random.below(60));
        let rule = debounce(quiet, Some(most));
        let (quiet, most) = (i64::try_from(quiet).unwrap(), i64::try_from(most).unwrap());
        let (mut gate, mut now, mut asked) = (Gate::new("debounce"), 0, Vec::new());
        // Of each burst: when it began, when it is due, its last argument, how many it has.
        let mut bursts: Vec<(i64, i64, String, u64)> = Vec::new();
        for n in 0..random.below(60) {
            now += random.time(25);
            if random.below(3) > 0 {
                gate.run_until(now);
            }
            let input = n.to_string();
            let answer = gate.ask(now, rule, &input, &input).unwrap();
            match bursts.last_mut() {
                Some((since, due, last, count)) if *due > now => {
                    (*due, *last, *count) = ((now + quiet).min(*since + most), input.clone(), *count + 1);
                    assert_eq!(answer.how, How::Folded(until(*due)));
                }
                _ => bursts.push((now, (now + quiet).min(now + most), input.clone(), 1)),
            }
            assert_eq!(answer.id, id_of(&gate.name, bursts.len()));
            asked.push((input, answer.run));
            if random.below(4) == 0 {
                let (input, run) = &asked[usize::try_from(random.below(asked.len() as u64)).unwrap()];
                assert_eq!(gate.ask(now, rule, input, input).unwrap().run, *run);
            }
        }
        gate.run_until(now + 1_000);
        let begun: Vec<String> = gate.inputs().into_iter().map(|(_, input)| input).collect();
        assert_eq!(begun, bursts.iter().map(|(.., last, _)| last.clone()).collect::<Vec<_>>());
        assert!(
            std::iter::zip(gate.inputs(), &bursts).all(|((at, _), (_, due, ..))| at >= *due),
            "{:?} {bursts:?}",
            gate.inputs()
        );
    }
}

/// No window has more than it may, nothing is lost, doubled or overtakes, and nothing waits longer than it must.
#[test]
fn a_throttle_keeps_every_window_whatever_comes() {
    let mut random = Random::from_env();
    for _ in 0..300 {
        let most = 1 + u32::try_from(random.below(5)).unwrap();
        let per = 1 + random.below(50);
        let rule = throttle(most, per);
        let (per, places) = (i64::try_from(per).unwrap(), most as usize);
        let (mut gate, mut now, mut told) = (Gate::new("throttle"), 0, Vec::new());
        let count = random.below(60);
        for n in 0..count {
            now += random.time(30);
            gate.run_until(now);
            let answer = gate.ask(now, rule, &n.to_string(), &n.to_string()).unwrap();
            told.push(match answer.how {
                How::Waits(until) => until.0 / 1_000,
                How::Begun => now,
                other => panic!("{other:?}"),
            });
            if random.below(4) == 0 {
                let again = random.below(n + 1).to_string();
                gate.ask(now, rule, &again, &again).unwrap();
            }
        }
        gate.run_until(now + 100_000);
        let begun = gate.inputs();
        let wanted: Vec<(i64, String)> = std::iter::zip(told, (0..count).map(|n| n.to_string())).collect();
        assert_eq!(begun, wanted, "each in its order, when it was told that it would");
        assert!(begun.windows(places + 1).all(|window| window[places].0 - window[0].0 >= per), "{begun:?}");
        if let Some(Row { state: State::Throttle(throttle), .. }) = &gate.row {
            assert!(throttle.waiting.is_empty() && throttle.begun.len() <= places);
        }
    }
}
