//! A host in memory for one run: what the Execution actor does, without actors, and with the test in charge of when.

use super::*;

/// Everything around one run.
pub(super) struct World {
    pub(super) begin: Begin,
    pub(super) id: RunId,
    pub(super) twin: bool,
    pub(super) now: Timestamp,
    pub(super) epoch: u64,
    pub(super) log: Vec<Record>,
    pub(super) run: Option<Box<Run>>,
    pub(super) in_flight: Option<Box<Decision>>,
    pub(super) arrived: VecDeque<Arrival>,
    pub(super) inbox: BTreeMap<u64, (String, MessageBody)>,
    pub(super) to_start: BTreeMap<Position, (Attempt, Timestamp)>,
    pub(super) running: BTreeMap<Position, (Attempt, Ended)>,
    pub(super) timers: BTreeMap<Position, Timestamp>,
    /// The rows of attempts in shared queues.
    pub(super) tasks: BTreeMap<Position, (Attempt, Timestamp)>,
    /// Children, in the order in which they were begun, and those that have not ended.
    pub(super) begun: Vec<Child>,
    pub(super) children: BTreeMap<Position, Child>,
    pub(super) told: Vec<Tell>,
    /// The rows of what is published, as a reader finds them.
    pub(super) shown: BTreeMap<String, Publication>,
    /// How the execution goes on, once the end of this run is stored.
    pub(super) onward: Option<Box<Onward>>,
    pub(super) handler: Handler,
    /// The side file: each act that was begun, with its attempt.
    pub(super) acts: Vec<(String, Attempt)>,
    pub(super) aborted: Vec<Position>,
    pub(super) nudged: Arc<AtomicBool>,
    pub(super) messages: u64,
    pub(super) deadline: Option<Timestamp>,
}

impl World {
    pub(super) fn new<W: Workflow>(workflow: &W) -> World {
        World::with(workflow, Limits::default(), true, None).unwrap()
    }

    pub(super) fn with<W: Workflow>(
        workflow: &W,
        limits: Limits,
        twin: bool,
        deadline: Option<Duration>,
    ) -> Result<World, Blocked> {
        let begin = crate::registry::begin::<W>();
        let deadline = deadline.map(|limit| Timestamp(1_000_000).after(limit));
        let input = Payload::encode(workflow, "the input").unwrap();
        let started = Started {
            workflow: W::NAME.into(),
            version: W::VERSION,
            input,
            seed: 7,
            deadline,
            deferred: false,
            limits: Some(Box::new(limits)),
            parent: None,
            retry: None,
            copied_from: None,
        };
        World::of(started, twin, begin)
    }

    /// The same, of a run that begins as it is said.
    pub(super) fn of(started: Started, twin: bool, begin: Begin) -> Result<World, Blocked> {
        let (id, now, deadline) = (RunId { id: "x".into(), run_no: 1 }, Timestamp(1_000_000), started.deadline);
        let (run, decision) = Run::begin(id.clone(), started, &begin, twin, now, writer(1))?;
        let mut world = World {
            begin,
            id,
            twin,
            now,
            epoch: 1,
            log: Vec::new(),
            run: None,
            in_flight: Some(decision),
            arrived: VecDeque::new(),
            inbox: BTreeMap::new(),
            to_start: BTreeMap::new(),
            running: BTreeMap::new(),
            timers: BTreeMap::new(),
            tasks: BTreeMap::new(),
            begun: Vec::new(),
            children: BTreeMap::new(),
            told: Vec::new(),
            shown: BTreeMap::new(),
            onward: None,
            handler: Box::new(|_, _| value(1)),
            acts: Vec::new(),
            aborted: Vec::new(),
            nudged: Arc::default(),
            messages: 0,
            deadline,
        };
        world.adopt(run);
        Ok(world)
    }

    pub(super) fn handle(mut self, handler: impl FnMut(&str, Attempt) -> Ended + 'static) -> World {
        self.handler = Box::new(handler);
        self
    }

    pub(super) fn adopt(&mut self, run: Box<Run>) {
        let nudged = self.nudged.clone();
        run.tell(Arc::new(move || nudged.store(true, Ordering::SeqCst)));
        self.run = Some(run);
    }

    pub(super) fn run(&mut self) -> &mut Run {
        self.run.as_mut().unwrap()
    }

    /// Stores the commit that is in flight.
    pub(super) fn store(&mut self) -> Option<Box<Decision>> {
        let decision = self.in_flight.take()?;
        self.log.push(codec::encode(&self.id, &decision.commit).unwrap());
        for seq in &decision.consumed {
            assert!(self.inbox.remove(seq).is_some(), "message {seq} was consumed twice");
        }
        for effect in &decision.effects {
            match effect {
                Effect::Queue { position, attempt, at } => {
                    let before = self.tasks.insert(*position, (*attempt, at.unwrap_or(self.now)));
                    assert!(before.is_none(), "#{position} is in a queue already");
                }
                Effect::Withdraw { position } => {
                    // It may have ended meanwhile: then its message is on the way.
                    self.tasks.remove(position);
                    self.aborted.push(*position);
                }
                _ => {}
            }
        }
        for child in &decision.starts {
            assert!(self.begun.iter().all(|before| before.id != child.id), "{} is begun twice", child.id);
            self.begun.push(child.clone());
            self.children.insert(child.position, child.clone());
        }
        self.told.extend(decision.tells.iter().cloned());
        for row in &decision.published {
            let before = self.shown.insert(row.key.clone(), row.clone());
            assert!(before.is_none_or(|before| before.version < row.version), "{} did not get newer", row.key);
        }
        self.onward.clone_from(&decision.onward);
        Some(decision)
    }

    pub(super) fn ack(&mut self) {
        if let Some(decision) = self.store() {
            let digest = self.log.last().unwrap().digest;
            self.run().recorded(&decision.commit, digest);
            self.act(decision.effects);
        }
    }

    pub(super) fn act(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Start { position, attempt, at } => {
                    assert!(!self.running.contains_key(&position), "a running attempt of #{position} was started again");
                    self.to_start.insert(position, (attempt, at.unwrap_or(self.now)));
                }
                // Done by the commit itself.
                Effect::Queue { .. } | Effect::Withdraw { .. } => {}
                Effect::Timer { position, due } => {
                    self.timers.insert(position, due);
                }
                Effect::Abort { position } => {
                    self.to_start.remove(&position);
                    self.running.remove(&position);
                    self.aborted.push(position);
                }
            }
        }
    }

    pub(super) fn start(&mut self, position: Position) {
        let (attempt, at) = self.to_start.remove(&position).unwrap();
        assert!(at <= self.now, "started before its time");
        let Some(call) = self.run.as_ref().unwrap().state().call(position).cloned() else {
            return;
        };
        assert_eq!(call.attempt, attempt, "only the current attempt is started");
        match call.place {
            Some(StepPlace::Inline) => {
                self.run().grant(position, attempt);
                self.poll_steps();
            }
            Some(StepPlace::Blocking) => {
                let Some(StepWork::Blocking(work)) = self.run().closure(position) else { panic!("it has its closure") };
                self.running.insert(position, (attempt, work()));
            }
            // The world has no database: what it would run in one ends as the test says.
            Some(StepPlace::Transaction) => {
                let result = (self.handler)(&call.name, attempt);
                self.running.insert(position, (attempt, result));
            }
            None => {
                let what: String = call.input.unwrap().decode("the input").unwrap();
                self.acts.push((what.clone(), attempt));
                let result = (self.handler)(&what, attempt);
                self.running.insert(position, (attempt, result));
            }
        }
    }

    pub(super) fn poll_steps(&mut self) {
        self.nudged.store(false, Ordering::SeqCst);
        for (position, attempt, result) in self.run().poll_steps().unwrap() {
            self.arrived.push_back(Arrival::Ended { position, attempt, result });
        }
    }

    pub(super) fn deliver(&mut self, position: Position) {
        let (attempt, result) = self.running.remove(&position).unwrap();
        self.arrived.push_back(Arrival::Ended { position, attempt, result });
    }

    pub(super) fn try_turn(&mut self) -> Result<(), Blocked> {
        assert!(self.in_flight.is_none(), "one commit in flight");
        let (now, writer) = (self.now, writer(self.epoch));
        let mut arrived = std::mem::take(&mut self.arrived);
        let turned = self.run().turn(&mut arrived, now, writer);
        self.arrived = arrived;
        self.in_flight = turned?;
        Ok(())
    }

    pub(super) fn turn(&mut self) {
        self.try_turn().unwrap();
    }

    /// Records what is in flight, and then one turn of what has arrived.
    pub(super) fn turn_or_ack(&mut self) {
        self.ack();
        self.turn();
        self.ack();
    }

    /// Puts a message into the inbox and hands it over.
    pub(super) fn send(&mut self, message: &str, body: MessageBody) {
        self.messages += 1;
        self.inbox.insert(self.messages, (message.to_owned(), body.clone()));
        self.arrived.push_back(Arrival::Message { seq: self.messages, message: message.to_owned(), body });
    }

    pub(super) fn word(&mut self, text: &str) {
        let body = MessageBody::Signal { name: "word".into(), payload: Payload::encode(&Word(text.into()), "word").unwrap() };
        self.send(&format!("word-{text}"), body);
    }

    pub(super) fn cancel(&mut self) {
        self.send("cancel", MessageBody::Cancel { reason: "enough".into() });
    }

    /// Lets time pass and says which sleeps are over.
    pub(super) fn pass(&mut self, time: Duration) {
        self.now = self.now.after(time);
        for (position, due) in std::mem::take(&mut self.timers) {
            if due <= self.now {
                self.arrived.push_back(Arrival::Due { position });
            } else {
                self.timers.insert(position, due);
            }
        }
        if self.deadline.is_some_and(|deadline| deadline <= self.now) {
            self.deadline = None;
            self.arrived.push_back(Arrival::Deadline);
        }
    }

    /// Does one of the things that can happen next; `false` when there is none.
    pub(super) fn step(&mut self, dice: &mut Dice) -> bool {
        let now = self.now;
        let ready: Vec<Position> = self.to_start.iter().filter(|(_, (_, at))| *at <= now).map(|(&p, _)| p).collect();
        let running: Vec<Position> = self.running.keys().copied().collect();
        let mut choices: Vec<u8> = Vec::new();
        choices.extend(self.in_flight.is_some().then_some(0));
        choices.extend((self.in_flight.is_none() && !self.arrived.is_empty()).then_some(1));
        choices.extend((!ready.is_empty()).then_some(2));
        choices.extend((!running.is_empty()).then_some(3));
        choices.extend(self.nudged.load(Ordering::SeqCst).then_some(4));
        choices.extend((!self.children.is_empty()).then_some(5));
        if self.outcome().is_some() && self.in_flight.is_none() {
            return false;
        }
        let Some(choice) = choices.get(dice.below(choices.len())) else {
            return self.skip_time();
        };
        match choice {
            0 => self.ack(),
            1 => self.turn(),
            2 => self.start(ready[dice.below(ready.len())]),
            3 => self.deliver(running[dice.below(running.len())]),
            5 => {
                let children: Vec<Position> = self.children.keys().copied().collect();
                self.end_child(children[dice.below(children.len())], None);
            }
            _ => self.poll_steps(),
        }
        true
    }

    pub(super) fn skip_time(&mut self) -> bool {
        let starts = self.to_start.values().map(|(_, at)| *at);
        let Some(next) = self.timers.values().copied().chain(starts).chain(self.deadline).min() else {
            return false;
        };
        self.pass(next.since(self.now));
        true
    }

    /// Lets everything happen until nothing more does.
    pub(super) fn settle(&mut self) {
        self.settle_by(&mut Dice::new(0));
    }

    pub(super) fn settle_by(&mut self, dice: &mut Dice) {
        for _ in 0..100_000 {
            if !self.step(dice) {
                return;
            }
        }
        panic!("the run never comes to rest");
    }

    pub(super) fn replayed(&self, commits: usize) -> Result<Box<Run>, Blocked> {
        let log = self.log[..commits].iter().enumerate().map(|(n, record)| {
            let commit = codec::decode(&self.id, u32::try_from(n).unwrap(), record).unwrap();
            (commit, record.digest)
        });
        Run::replay(&self.id, log.map(Ok).collect::<Vec<_>>(), &self.begin, self.twin)
    }

    /// Drops the living workflow and replays it; attempts live on.
    pub(super) fn evict(&mut self) {
        let open = self.open();
        self.run = None;
        let mut run = self.replayed(self.log.len()).unwrap();
        run.found_queued(self.found());
        self.adopt(run);
        assert_eq!(self.open(), open, "replay came to another state");
    }

    /// Kills the node. The commit in flight is lost or was stored, and nobody heard of it; all attempts die.
    pub(super) fn crash(&mut self, stored: bool) {
        if stored {
            self.store();
        }
        self.in_flight = None;
        self.run = None;
        self.arrived.clear();
        self.to_start.clear();
        self.running.clear();
        self.timers.clear();
        if self.log.is_empty() {
            return;
        }
        let mut run = self.replayed(self.log.len()).unwrap();
        run.found_queued(self.found());
        self.adopt(run);
        if self.outcome().is_some() {
            return;
        }
        let state = self.run().state();
        self.deadline = state.started.deadline.filter(|_| !state.deadline_passed);
        self.epoch += 1;
        let by = writer(self.epoch).incarnation;
        self.arrived.push_back(Arrival::Taken { by, epoch: self.epoch });
        if !self.run().state().begun() {
            self.arrived.push_back(Arrival::Begin);
        }
        for (&seq, (message, body)) in &self.inbox {
            self.arrived.push_back(Arrival::Message { seq, message: message.clone(), body: body.clone() });
        }
        self.turn();
        let decision = self.store().unwrap();
        let digest = self.log.last().unwrap().digest;
        self.run().recorded(&decision.commit, digest);
        let effects = self.run().open_effects(&|queue, _, _| (writer(1).is_shared)(queue));
        self.act(effects);
    }

    /// The run has continued: its next one takes its place, as stores and claims do it, when its time has come.
    pub(super) fn go_on(&mut self) {
        let at = self.follow();
        self.now = at.map_or(self.now, |at| at.max(self.now));
        self.turn();
    }

    /// The next run takes the place of the one that has continued, and comes to memory at once. Returns when it may begin.
    pub(super) fn follow(&mut self) -> Option<Timestamp> {
        let Onward { started, inherited, at } = *self.onward.take().expect("it goes on");
        self.id.run_no += 1;
        self.epoch = 1;
        self.deadline = started.deadline.filter(|_| !inherited.deadline_passed);
        let facts = [Fact::Started(Box::new(started)), Fact::Inherited(Box::new(inherited))];
        let commit = Commit {
            commit_no: 0,
            prev: None,
            incarnation: writer(1).incarnation,
            epoch: 0,
            build: BuildId(1),
            time: self.now,
            events: facts.map(Event::Fact).into(),
        };
        self.log = vec![codec::encode(&self.id, &commit).unwrap()];
        self.inbox.retain(|_, (_, body)| body.is_for_the_execution());
        self.to_start.clear();
        self.running.clear();
        self.timers.clear();
        self.tasks.clear();
        self.arrived = VecDeque::from([Arrival::Begin]);
        let run = self.replayed(1).unwrap();
        self.adopt(run);
        for (&seq, (message, body)) in &self.inbox {
            self.arrived.push_back(Arrival::Message { seq, message: message.clone(), body: body.clone() });
        }
        at
    }

    /// The attempts that are in queues, or whose ends are in the inbox.
    fn found(&self) -> Vec<(Position, Attempt)> {
        let told = self.inbox.values().filter_map(|(_, body)| match body {
            MessageBody::Task { position, attempt, .. } => Some((*position, *attempt)),
            _ => None,
        });
        self.tasks.iter().map(|(position, (attempt, _))| (*position, *attempt)).chain(told).collect()
    }

    /// Ends the attempt of a call that is in a queue, as its worker or a sweep does.
    pub(super) fn end_task(&mut self, position: Position, end: TaskEnd) {
        let (attempt, _) = self.tasks.remove(&position).unwrap();
        let body = MessageBody::Task { position, attempt, end, details: None };
        self.send(&format!("task-{position}-{attempt}"), body);
    }

    /// Ends a child, as its own last commit does: with seven times its argument unless something else is said.
    pub(super) fn end_child(&mut self, position: Position, end: Option<Outcome>) {
        let child = self.children.remove(&position).unwrap();
        let seven = || {
            let orders::Leaf(n) = child.input.decode("the input").unwrap();
            Outcome::Completed(Payload::encode(&(n * 7), "a number").unwrap())
        };
        let body = MessageBody::Child { position, end: Box::new(end.unwrap_or_else(seven)) };
        self.send(&child_message(position), body);
    }

    pub(super) fn open(&self) -> String {
        format!("{:?}", self.run.as_ref().unwrap().state().open)
    }

    /// What a reader finds under a key.
    pub(super) fn value<T: serde::de::DeserializeOwned>(&self, key: &str) -> Option<T> {
        self.shown.get(key).map(|row| row.value.decode("a value").unwrap())
    }

    pub(super) fn outcome(&self) -> Option<Outcome> {
        self.run.as_ref()?.outcome().cloned()
    }

    pub(super) fn output<T: serde::de::DeserializeOwned>(&self) -> T {
        match self.outcome() {
            Some(Outcome::Completed(output)) => output.decode("the output").unwrap(),
            other => panic!("not completed but {other:?}: {:?}", self.run.as_ref().map(|run| run.state().waits())),
        }
    }

    pub(super) fn events(&self) -> Vec<Event> {
        let decode = |(n, record)| codec::decode(&self.id, u32::try_from(n).unwrap(), record).unwrap().events;
        self.log.iter().enumerate().flat_map(decode).collect()
    }

    pub(super) fn facts(&self, wanted: impl Fn(&Fact) -> bool) -> usize {
        self.events().iter().filter(|event| matches!(event, Event::Fact(fact) if wanted(fact))).count()
    }

    pub(super) fn commands(&self, wanted: impl Fn(&Command) -> bool) -> usize {
        self.events().iter().filter(|event| matches!(event, Event::Command(command) if wanted(command))).count()
    }

    /// What the run ended with, if it failed.
    pub(super) fn failure(&self) -> Failure {
        match self.outcome() {
            Some(Outcome::Failed(failure)) => failure,
            other => panic!("not failed but {other:?}"),
        }
    }

    pub(super) fn acts_named(&self, what: &str) -> usize {
        self.acts.iter().filter(|(name, _)| name == what).count()
    }
}
