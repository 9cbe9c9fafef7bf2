//! A small language of programs, each grown from a seed: every way to wait, to branch, to fail and to undo that a workflow has.
//!
//! What comes of a program does not depend on when things happen, wherever that is possible: a race has one branch that never ends,
//! a map that stops early has at most one item that can stop it. Where it does depend on time, [`crate::model`] says what may happen.
//! Everything with an effect has a label of its own in the whole program, children included.

use serde::{Deserialize, Serialize};

/// A piece of a program. To extend the language: a variant here, an arm in `Growth::node`, one in the interpreter, one in the model.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Node {
    /// Calls an activity.
    Act(Act),
    /// Runs a closure, inline or on a thread that may block.
    Step {
        label: u32,
        blocking: bool,
        fails: bool,
    },
    Sleep {
        millis: u64,
    },
    /// Waits for one of the signals that are sent from outside.
    Receive,
    /// Waits until so many updates were made.
    Until {
        updates: u32,
    },
    /// Calls an activity whose result is shared by all programs that name the key.
    Memo {
        label: u32,
        key: String,
    },
    /// Publishes a value and counts.
    Show {
        label: u32,
    },
    /// Waits for ever, in one of several ways.
    Never(Never),
    Fail {
        label: u32,
    },
    /// Takes a failure for a value.
    Try(Box<Node>),
    Sequence(Vec<Node>),
    /// All at once; each comes to its own end, and the first error in their order counts.
    Join(Vec<Node>),
    /// `ends` against one that does not.
    Race {
        ends: Box<Node>,
        never: Box<Node>,
        swapped: bool,
    },
    /// `cx.map`: the first error ends it.
    Map {
        items: Vec<Node>,
        concurrency: usize,
    },
    Settle {
        items: Vec<Node>,
        concurrency: usize,
    },
    AtLeast {
        label: u32,
        items: Vec<Node>,
        wanted: usize,
        concurrency: usize,
    },
    Saga(Vec<Part>),
    Shielded(Box<Node>),
    Child {
        label: u32,
        body: Box<Node>,
        detached: bool,
    },
}

/// A call of an activity.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Act {
    pub(crate) label: u32,
    /// So many attempts fail; more than are allowed: all of them.
    pub(crate) failures: u32,
    pub(crate) attempts: u32,
    pub(crate) once: bool,
}

impl Act {
    /// Tells whether it succeeds in the end.
    pub(crate) fn succeeds(&self) -> bool {
        self.failures < self.attempts
    }
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) enum Never {
    Sleep,
    Signal,
    /// An activity that goes on until it is asked to stop.
    Act {
        label: u32,
    },
}

/// A piece of a saga.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Part {
    Plain(Node),
    /// Registers a compensation for what was done before.
    Undo {
        label: u32,
    },
    /// Calls an activity, whose compensation is registered along with the intent.
    Act {
        act: Act,
        undo: u32,
    },
}

/// A whole program, as it is dispatched.
#[derive(Clone, Debug)]
pub(crate) struct Grown {
    pub(crate) name: String,
    /// All of it, …
    pub(crate) body: Node,
    /// …and in the pieces that are runs of their own: each continues as the next.
    pub(crate) runs: Vec<Node>,
    /// So many signals are sent to it.
    pub(crate) signals: u32,
    /// …and so many updates.
    pub(crate) updates: u32,
    /// When it is cancelled from outside, if it is.
    pub(crate) cancel_after: Option<u64>,
    /// What an operator may do to it meanwhile, one after the other; nothing of what comes of it depends on that.
    pub(crate) pauses: Vec<Pause>,
}

/// A pause of an execution, which is always followed by the word to go on.
#[derive(Clone, Debug)]
pub(crate) struct Pause {
    /// So long after the one before, in milliseconds.
    pub(crate) after: u64,
    /// The child that is paused, by its label; else the program itself.
    pub(crate) child: Option<u32>,
    pub(crate) until: Until,
}

/// When somebody is let go on who was paused.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    /// After so many milliseconds.
    After(u64),
    /// As soon as something more has been said to the program.
    Said,
    /// Whoever lets it go on does not wait until the pause is recorded.
    AtOnce,
}

/// Seeds below grow programs of the language as it was first, so that what was found with them stays as it was.
pub(crate) const NEWER: u64 = 1_000_000_000;

/// Grows the program of a seed.
pub(crate) fn grow(seed: u64) -> Grown {
    let newer = seed >= NEWER;
    let mut growth = Growth {
        state: seed,
        newer,
        labels: 0,
        children: Vec::new(),
        signals: 0,
        updates: 0,
        budget: 4 + seed % 23,
        group: seed / 6,
    };
    let pieces: Vec<Node> = (0..growth.between(2, 4)).map(|_| growth.node(0, true)).collect();
    let runs = growth.runs(&pieces);
    let cancelled = growth.one_in(6);
    let cancel_after = cancelled.then(|| growth.between(0, 60));
    let body = Node::Sequence(pieces);
    let pauses = growth.pauses();
    let Growth { signals, updates, .. } = growth;
    Grown { name: format!("program-{seed}"), body, runs, signals, updates, cancel_after, pauses }
}

struct Growth {
    state: u64,
    newer: bool,
    labels: u32,
    children: Vec<u32>,
    signals: u32,
    updates: u32,
    /// So many more nodes that contain others.
    budget: u64,
    /// Programs of a group share results.
    group: u64,
}

impl Growth {
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }

    fn label(&mut self) -> u32 {
        self.labels += 1;
        self.labels
    }

    fn act(&mut self) -> Act {
        let (label, once) = (self.label(), self.one_in(8));
        let attempts = if once { 1 } else { u32::try_from(self.between(1, 3)).unwrap_or(1) };
        let failures = match self.between(0, 9) {
            0 => u32::MAX,
            1..=3 => attempts - 1,
            _ => 0,
        };
        Act { label, failures, attempts, once }
    }

    /// `own`: a piece of the root's own run, and not of a child of it: signals are sent to the root.
    fn node(&mut self, depth: u32, own: bool) -> Node {
        if self.newer && self.one_in(6) {
            return self.newer_node(own);
        }
        let leaf = depth >= 5 || self.budget == 0;
        let kind = self.between(0, if leaf { 9 } else { 21 });
        self.budget = self.budget.saturating_sub(u64::from(kind > 9));
        match kind {
            0..=3 => Node::Act(self.act()),
            4 | 5 => Node::Step { label: self.label(), blocking: self.one_in(2), fails: self.one_in(8) },
            6 | 7 => Node::Sleep { millis: self.between(0, 12) },
            8 if own => {
                self.signals += 1;
                Node::Receive
            }
            8 => Node::Sleep { millis: 1 },
            9 if self.one_in(3) => Node::Fail { label: self.label() },
            9 => Node::Sleep { millis: 0 },
            10 => Node::Try(Box::new(self.node(depth + 1, own))),
            11 => Node::Sequence(self.nodes(1, 3, depth, own)),
            12 | 13 => Node::Join(self.nodes(1, 4, depth, own)),
            14 => {
                let ends = Box::new(self.node(depth + 1, own));
                // What comes first must not end the branch, so its failures are values.
                let mut never: Vec<Node> =
                    self.nodes(0, 2, depth, own).into_iter().map(|node| Node::Try(Box::new(node))).collect();
                never.push(Node::Never(self.never()));
                let never = if self.one_in(3) { saga_around(never) } else { Node::Sequence(never) };
                Node::Race { ends, never: Box::new(never), swapped: self.one_in(2) }
            }
            15 => {
                let mut items = self.nodes(0, 5, depth, own);
                // At most one that can stop it: which of two comes first is a matter of time.
                let mut fails = 0;
                for item in &mut items {
                    fails += usize::from(!crate::model::succeeds(item));
                    if fails > 1 && !crate::model::succeeds(item) {
                        *item = Node::Try(Box::new(item.clone()));
                    }
                }
                Node::Map { items, concurrency: self.concurrency() }
            }
            16 => Node::Settle { items: self.nodes(0, 4, depth, own), concurrency: self.concurrency() },
            17 => {
                let mut items = self.nodes(0, 4, depth, own);
                let good = items.iter().filter(|item| crate::model::succeeds(item)).count();
                let wanted = usize::try_from(self.between(0, items.len() as u64 + 1)).unwrap_or(0);
                let mut concurrency = self.concurrency();
                if wanted <= good && self.one_in(2) {
                    items.insert(0, Node::Never(self.never()));
                    concurrency = items.len();
                }
                Node::AtLeast { label: self.label(), items, wanted, concurrency }
            }
            18 | 19 => Node::Saga(self.parts(depth, own)),
            20 => Node::Shielded(Box::new(self.node(depth + 1, own))),
            _ => {
                let label = self.label();
                self.children.push(label);
                Node::Child { label, body: Box::new(self.node(depth + 1, false)), detached: self.one_in(3) }
            }
        }
    }

    /// What the language did not have at first.
    fn newer_node(&mut self, own: bool) -> Node {
        match self.between(0, 2) {
            0 if own => {
                self.updates += 1;
                Node::Until { updates: self.updates }
            }
            1 => {
                let (label, which) = (self.label(), self.between(0, 1));
                Node::Memo { label, key: format!("{}-{which}", self.group) }
            }
            _ => Node::Show { label: self.label() },
        }
    }

    /// Cuts a program into runs.
    fn runs(&mut self, pieces: &[Node]) -> Vec<Node> {
        let mut runs: Vec<Vec<Node>> = Vec::new();
        for piece in pieces {
            match runs.last_mut() {
                Some(run) if !self.newer || self.one_in(2) => run.push(piece.clone()),
                _ => runs.push(vec![piece.clone()]),
            }
        }
        runs.into_iter().map(Node::Sequence).collect()
    }

    /// Grown last, so that a program is the same with them and without.
    fn pauses(&mut self) -> Vec<Pause> {
        let children = self.children.clone();
        let mut pauses = Vec::new();
        for _ in 0..self.between(1, 4) {
            let after = self.between(0, 25);
            let which = usize::try_from(self.between(0, children.len() as u64 * 2)).unwrap_or(0);
            let until = match self.between(0, 3) {
                0 => Until::Said,
                1 => Until::AtOnce,
                _ => Until::After(self.between(0, 25)),
            };
            pauses.push(Pause { after, child: children.get(which).copied(), until });
        }
        pauses
    }

    fn nodes(&mut self, least: u64, most: u64, depth: u32, own: bool) -> Vec<Node> {
        (0..self.between(least, most)).map(|_| self.node(depth + 1, own)).collect()
    }

    fn parts(&mut self, depth: u32, own: bool) -> Vec<Part> {
        let parts = (0..self.between(1, 4)).map(|_| match self.between(0, 3) {
            0 => Part::Undo { label: self.label() },
            1 => Part::Plain(self.node(depth + 1, own)),
            _ => {
                let act = self.act();
                Part::Act { act, undo: self.label() }
            }
        });
        let mut parts: Vec<Part> = parts.collect();
        if self.one_in(2) {
            parts.push(Part::Plain(Node::Fail { label: self.label() }));
        }
        parts
    }

    fn concurrency(&mut self) -> usize {
        usize::try_from(self.between(1, 4)).unwrap_or(1)
    }

    fn never(&mut self) -> Never {
        match self.between(0, 2) {
            0 => Never::Sleep,
            1 => Never::Signal,
            _ => Never::Act { label: self.label() },
        }
    }
}

/// A saga that never ends by itself: dropped, it is undone as far as it came.
fn saga_around(nodes: Vec<Node>) -> Node {
    let parts = nodes.into_iter().map(|node| match node {
        Node::Try(inner) => match *inner {
            // Only what succeeds: an error would end it.
            Node::Act(act) if act.succeeds() => Part::Act { undo: act.label + 1_000_000, act },
            other => Part::Plain(Node::Try(Box::new(other))),
        },
        other => Part::Plain(other),
    });
    Node::Saga(parts.collect())
}
