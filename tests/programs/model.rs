//! What comes of a program, without any of what runs it: no log, no store, no tasks, no time. The model walks the tree once and says, for
//! each run, how it ends, what must have been done, what may have been, and what is undone in which order.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    interpreter::{child_id, step_name},
    language::{Act, Grown, Never, Node, Part},
};

/// A value, or why there is none.
pub(crate) type End = Result<String, String>;

/// What is to be expected of one run of a program.
#[derive(Debug, Default)]
pub(crate) struct Expected {
    /// `None`: it never ends by itself.
    pub(crate) end: Option<End>,
    /// Acts that come to an end, and whether they succeed.
    pub(crate) must: BTreeMap<String, bool>,
    /// Acts that may, as whatever waits for them may be dropped before.
    pub(crate) may: BTreeSet<String>,
    /// How many attempts of an act fail, if none is lost.
    pub(crate) failures: BTreeMap<String, u32>,
    /// What is undone, saga by saga, each in its order.
    pub(crate) undone: Vec<Vec<u32>>,
    pub(crate) may_undo: BTreeSet<u32>,
    /// What is kept if the run comes to its own end.
    pub(crate) may_undo_if_cancelled: BTreeSet<u32>,
    /// What is counted once: whether it is certain.
    pub(crate) shows: BTreeMap<u32, bool>,
    /// The children.
    pub(crate) children: Vec<Child>,
}

#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) id: String,
    /// It is begun whenever its parent comes to its own end.
    pub(crate) certain: bool,
    pub(crate) detached: bool,
    pub(crate) expected: Expected,
}

/// Returns what is to be expected of a program.
pub(crate) fn expect(program: &Grown) -> Expected {
    expect_run(&program.name, &program.body)
}

fn expect_run(root: &str, body: &Node) -> Expected {
    let mut walk = Walk { root, expected: Expected::default() };
    let end = walk.node(body, true);
    Expected { end, ..walk.expected }
}

/// Tells whether a piece of a program ends with a value.
pub(crate) fn succeeds(node: &Node) -> bool {
    Walk { root: "", expected: Expected::default() }.node(node, false).is_some_and(|end| end.is_ok())
}

struct Walk<'a> {
    root: &'a str,
    expected: Expected,
}

impl Walk<'_> {
    /// `certain`: nothing can stop this piece before it ends.
    fn node(&mut self, node: &Node, certain: bool) -> Option<End> {
        match node {
            Node::Act(act) => Some(self.act(act, certain)),
            Node::Step { label, fails, .. } => {
                let name = step_name(*label);
                self.does(&name, !fails, certain);
                self.expected.failures.insert(name.clone(), u32::from(*fails));
                Some(if *fails { Err(name) } else { Ok(name) })
            }
            Node::Sleep { .. } => Some(Ok("z".to_owned())),
            Node::Receive => Some(Ok("go".to_owned())),
            Node::Until { updates } => Some(Ok(format!("u{updates}"))),
            // Whose result it is, is a matter of time.
            Node::Memo { key, .. } => Some(Ok(format!("m{key}"))),
            Node::Show { label } => {
                self.expected.shows.insert(*label, certain);
                Some(Ok(format!("p{label}")))
            }
            Node::Never(Never::Act { label }) => {
                self.expected.may.insert(format!("h{label}"));
                None
            }
            Node::Never(_) => None,
            Node::Fail { label } => Some(Err(format!("fail{label}"))),
            Node::Try(inner) => Some(Ok(self.node(inner, certain)?.unwrap_or_else(|why| format!("!{why}")))),
            Node::Sequence(nodes) => {
                let mut values = Vec::new();
                for node in nodes {
                    match self.node(node, certain)? {
                        Ok(value) => values.push(value),
                        Err(why) => return Some(Err(why)),
                    }
                }
                Some(Ok(values.join(" ")))
            }
            Node::Join(nodes) => {
                let ends: Option<Vec<End>> = nodes.iter().map(|node| self.node(node, certain)).collect();
                let values: Result<Vec<String>, String> = ends?.into_iter().collect();
                Some(values.map(|values| format!("{{{}}}", values.join(" "))))
            }
            Node::Race { ends, never, .. } => {
                self.node(never, false);
                self.node(ends, certain)
            }
            Node::Map { items, .. } => {
                let stops = items.iter().position(|item| !succeeds(item));
                let mut values = Vec::new();
                let mut error = None;
                for (at, item) in items.iter().enumerate() {
                    match self.node(item, certain && stops.is_none_or(|stops| stops == at))? {
                        Ok(value) => values.push(value),
                        Err(why) => error = Some(why),
                    }
                }
                Some(error.map_or_else(|| Ok(format!("({})", values.join(" "))), Err))
            }
            Node::Settle { items, .. } => {
                let ends: Option<Vec<End>> = items.iter().map(|item| self.node(item, certain)).collect();
                let values: Vec<String> = ends?.into_iter().map(|end| end.unwrap_or_else(|why| format!("!{why}"))).collect();
                Some(Ok(format!("[{}]", values.join(" "))))
            }
            Node::AtLeast { wanted: 0, .. } => Some(Ok("0of".to_owned())),
            Node::AtLeast { label, items, wanted, .. } => {
                let enough = items.iter().filter(|item| succeeds(item)).count() >= *wanted;
                for item in items {
                    self.node(item, certain && !enough);
                }
                Some(if enough { Ok(format!("{wanted}of")) } else { Err(format!("few{label}")) })
            }
            Node::Saga(parts) => self.saga(parts, certain),
            Node::Shielded(inner) => self.node(inner, certain),
            Node::Child { label, body, detached } => {
                let id = child_id(self.root, *label);
                let expected = expect_run(self.root, body);
                let end = expected.end.clone();
                self.expected.children.push(Child { id, certain, detached: *detached, expected });
                if *detached { Some(Ok(format!("d{label}"))) } else { Some(end?.map(|value| format!("c({value})"))) }
            }
        }
    }

    fn act(&mut self, act: &Act, certain: bool) -> End {
        let name = format!("a{}", act.label);
        self.does(&name, act.succeeds(), certain);
        self.expected.failures.insert(name.clone(), act.failures.min(act.attempts));
        if act.succeeds() { Ok(name) } else { Err(name) }
    }

    fn does(&mut self, name: &str, succeeds: bool, certain: bool) {
        if certain {
            self.expected.must.insert(name.to_owned(), succeeds);
        } else {
            self.expected.may.insert(name.to_owned());
        }
    }

    fn saga(&mut self, parts: &[Part], certain: bool) -> Option<End> {
        let (mut values, mut undo) = (Vec::new(), Vec::new());
        let mut end = Some(Ok(String::new()));
        for part in parts {
            let came = match part {
                Part::Plain(node) => self.node(node, certain),
                Part::Undo { label } => {
                    undo.push(*label);
                    continue;
                }
                Part::Act { act, undo: label } => {
                    // Registered along with the intent: it is undone also when it fails.
                    undo.push(*label);
                    Some(self.act(act, certain))
                }
            };
            match came {
                Some(Ok(value)) => values.push(value),
                stopped => {
                    end = stopped;
                    break;
                }
            }
        }
        if !certain {
            self.expected.may_undo.extend(undo);
        } else if matches!(end, Some(Err(_))) {
            undo.reverse();
            self.expected.undone.push(undo);
        } else if end.is_none() {
            unreachable!("what never ends is never certain");
        } else {
            // Nothing of it may be undone; but a run that is cancelled may have it open.
            self.expected.may_undo_if_cancelled.extend(undo);
        }
        match end {
            Some(Ok(_)) => Some(Ok(format!("<{}>", values.join(" ")))),
            stopped => stopped,
        }
    }
}
