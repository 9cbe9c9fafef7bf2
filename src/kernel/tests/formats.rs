//! The stored form: whatever can be recorded comes back the same, and no damage makes the reader panic.

use super::{
    super::{
        chain::{Inherited, Signalled},
        event::{Call, CallOptions, Commit, Compensation, Ignored, Next, Order, Ordered, Reply, Skipped},
        failure::Origin,
        id::{Digest, RunId},
        memo::{self, MemoKey, MemoUse, MemoWord},
        published::{Kept, Shown},
    },
    *,
};

fn payload(dice: &mut Dice) -> Payload {
    let bytes: Vec<u8> = (0..dice.below(40)).map(|_| u8::try_from(dice.below(256)).unwrap()).collect();
    Payload::encode(&bytes, "x").unwrap()
}

fn failure(dice: &mut Dice) -> Failure {
    let failure = Failure::new("kind", text(dice)).with_details(payload(dice)).with_causes(vec![text(dice)]);
    let failure = if dice.below(2) == 0 { failure.into_final() } else { failure.with_backtrace("here") };
    let failure = failure.with_retry_after(secs(dice.below(9) as u64));
    let origin = || Origin { run: RunId { id: "far".into(), run_no: 3 }, name: "away".into(), call: Some((7, 2)) };
    if dice.below(2) == 0 { failure.with_origin(origin) } else { failure }
}

fn text(dice: &mut Dice) -> String {
    ["", "a", "é\u{1f980}", "a rather longer text \0 with a zero"][dice.below(4)].to_owned()
}

fn number(dice: &mut Dice) -> u32 {
    [0, 1, 127, 128, 65_536, u32::MAX][dice.below(6)]
}

fn time(dice: &mut Dice) -> Timestamp {
    Timestamp([i64::MIN, -1, 0, 1_700_000_000_000_000, i64::MAX][dice.below(5)])
}

fn next(dice: &mut Dice) -> Next {
    match dice.below(3) {
        0 => Next::Retry { at: time(dice) },
        1 => Next::GiveUp,
        _ => Next::Park,
    }
}

fn compensation(dice: &mut Dice) -> Box<Compensation> {
    Box::new(Compensation { activity: text(dice), input: payload(dice), options: None })
}

fn ordered(dice: &mut Dice) -> Ordered {
    let position = number(dice);
    match dice.below(6) {
        0 => Ordered::Terminate,
        1 => Ordered::Pause,
        2 => Ordered::GoOn,
        3 => Ordered::Retry { position: (dice.below(2) == 0).then_some(position) },
        4 => Ordered::Skip { position },
        _ => {
            let failed = dice.below(2) == 0;
            let end = if failed { TaskEnd::Failed(Box::new(failure(dice))) } else { TaskEnd::Done(payload(dice)) };
            Ordered::Complete { position, end: Box::new(end) }
        }
    }
}

fn shares(dice: &mut Dice) -> MemoUse {
    let ttl = [None, Some(secs(7))][dice.below(2)];
    MemoUse { key: MemoKey::new(&text(dice), number(dice), &text(dice), b"key"), ttl }
}

fn word(dice: &mut Dice) -> MemoWord {
    match dice.below(3) {
        0 => MemoWord::Granted,
        1 => MemoWord::Revoked,
        _ => {
            let run = RunId { id: text(dice), run_no: number(dice) };
            MemoWord::Value(Box::new(memo::Kept { output: payload(dice), run, position: number(dice) }))
        }
    }
}

fn event(dice: &mut Dice) -> Event {
    let (position, attempt, scope) = (number(dice), number(dice), number(dice));
    let message = text(dice);
    let fact = match dice.below(14) {
        0 => Fact::Claimed { by: Incarnation(uuid::Uuid::from_u128(9)), epoch: u64::MAX },
        1 => Fact::Completed { position, attempt, output: payload(dice) },
        2 => Fact::Failed { position, attempt, failure: Box::new(failure(dice)), next: next(dice) },
        3 => Fact::Lost { position, attempt, next: next(dice) },
        4 => Fact::Fired { position },
        5 => Fact::Received { message, body: MessageBody::Signal { name: text(dice), payload: payload(dice) } },
        6 => Fact::Received { message, body: MessageBody::Retry { position: Some(position) } },
        7 => Fact::Ignored { message, why: if dice.below(2) == 0 { Ignored::Late } else { Ignored::Duplicate } },
        8 => Fact::Received { message, body: MessageBody::Update { name: text(dice), payload: payload(dice) } },
        9 => Fact::Refused { message, failure: Box::new(failure(dice)) },
        11 => Fact::Received { message, body: MessageBody::Memo { position, ask: number(dice), word: word(dice) } },
        10 => Fact::Inherited(Box::new(Inherited {
            unread: vec![Signalled { name: text(dice), payload: payload(dice) }],
            known: vec![message, text(dice)],
            cancel: Some(text(dice)).filter(|reason| !reason.is_empty()),
            deadline_passed: dice.below(2) == 0,
            published: [Shown::Value(payload(dice)), Shown::Counter(i64::MIN)]
                .into_iter()
                .take(dice.below(3))
                .map(|what| Kept { key: text(dice), version: u64::MAX, what })
                .collect(),
        })),
        12 => {
            let order = Order { by: text(dice), reason: text(dice), what: ordered(dice) };
            Fact::Received { message, body: MessageBody::Order(Box::new(order)) }
        }
        _ => Fact::DeadlinePassed,
    };
    let options =
        || Some(Box::new(CallOptions { schedule_to_close: Some(secs(3)), queue: "q".into(), ..CallOptions::default() }));
    let command = match dice.below(16) {
        0 => Command::Call(Box::new(Call {
            position,
            activity: text(dice),
            input: payload(dice),
            options: options(),
            undo: Some(compensation(dice)),
            scope: Some(scope),
            compensating: dice.below(2) == 0,
            memo: Some(Box::new(shares(dice))).filter(|memo| memo.ttl.is_some()),
        })),
        1 => Command::Step {
            position,
            name: text(dice),
            place: [StepPlace::Blocking, StepPlace::Transaction][dice.below(2)],
            options: options(),
        },
        2 => Command::Sleep { position, due: time(dice) },
        13 => Command::Continue { input: payload(dice) },
        3 => Command::Receive { position, signal: text(dice) },
        4 => Command::Cancel { position },
        5 => Command::OpenSaga { position },
        6 => Command::Undo { position, scope, compensation: compensation(dice) },
        7 => Command::KeepSaga { scope },
        8 => Command::Compensate { scope },
        9 => Command::Publish { key: text(dice), value: payload(dice) },
        10 => Command::Count { key: text(dice), by: [i64::MIN, -1, 7, i64::MAX][dice.below(4)] },
        11 => Command::Answered { message: text(dice), reply: Box::new(Reply::Done(payload(dice))) },
        12 => Command::Answered { message: text(dice), reply: Box::new(Reply::Failed(failure(dice))) },
        14 => Command::End {
            outcome: Box::new(Outcome::Terminated {
                reason: text(dice),
                by: text(dice),
                skipped: vec![Skipped { position, activity: text(dice) }],
            }),
        },
        _ => Command::End { outcome: Box::new(Outcome::Failed(failure(dice))) },
    };
    if dice.below(2) == 0 { Event::Fact(fact) } else { Event::Command(command) }
}

fn commit(dice: &mut Dice) -> Commit {
    Commit {
        commit_no: number(dice),
        prev: (dice.below(2) == 0).then_some(Digest([7; 32])),
        incarnation: Incarnation(uuid::Uuid::from_u128(u128::MAX)),
        epoch: u64::from(number(dice)),
        build: BuildId(i64::MIN),
        time: time(dice),
        events: (0..dice.below(8)).map(|_| event(dice)).collect(),
    }
}

#[test]
fn every_commit_comes_back_as_it_was() {
    let id = RunId { id: "x".into(), run_no: 1 };
    for seed in seeds(2000) {
        let _named = Named(seed);
        let commit = commit(&mut Dice::new(seed));
        let record = codec::encode(&id, &commit).unwrap();
        assert_eq!(codec::decode(&id, commit.commit_no, &record), Ok(commit));
    }
}

#[test]
fn damaged_bytes_are_refused_and_never_panic_even_with_a_fitting_checksum() {
    let id = RunId { id: "x".into(), run_no: 1 };
    for seed in seeds(2000) {
        let _named = Named(seed);
        let mut dice = Dice::new(seed);
        let commit = commit(&mut dice);
        let record = codec::encode(&id, &commit).unwrap();
        let mut body = record.body.to_vec();
        for _ in 0..=dice.below(3) {
            let at = dice.below(body.len());
            match dice.below(3) {
                0 => body[at] = u8::try_from(dice.below(256)).unwrap(),
                1 => body.truncate(at),
                _ => body.insert(at, 0xdd),
            }
            if body.is_empty() {
                break;
            }
        }
        if body[..] == record.body[..] {
            continue;
        }
        if dice.below(2) == 0 && body.len() >= 6 {
            let crc = crc32c::crc32c_append(crc32c::crc32c(&body[..2]), &body[6..]);
            body[2..6].copy_from_slice(&crc.to_le_bytes());
        }
        if body[..] == record.body[..] {
            continue;
        }
        let damaged = Record { digest: record.digest, body: body.into() };
        assert!(codec::decode(&id, commit.commit_no, &damaged).is_err());
    }
}
