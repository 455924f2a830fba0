//! One run of a script, apart from the connection.

use std::fmt;
use std::sync::Arc;

use super::expect::{Expect, Found, Search};
use crate::probe::excerpt::Excerpt;

/// What a script does, one after another.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Send(Arc<[u8]>),
    Expect(Expect),
    ExpectNot(Expect),
}

/// For reasons: printable and short.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Send(bytes) => write!(f, "send {}", Excerpt(bytes)),
            Self::Expect(expect) => write!(f, "expect {expect}"),
            Self::ExpectNot(expect) => write!(f, "expect not {expect}"),
        }
    }
}

/// What has to be done next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Todo {
    Send(Arc<[u8]>),
    /// At most so many bytes, and at least one.
    Read(usize),
    Nothing,
}

/// One run of a script.
#[derive(Debug)]
pub(super) struct Run<'a> {
    steps: &'a [Step],
    most: usize,
    at: usize,
    // What has come, and no step has used up.
    seen: Vec<u8>,
    ended: bool,
    search: Search,
    // What must not come before what is expected next.
    unwanted: Vec<(usize, &'a Expect, Search)>,
}

impl<'a> Run<'a> {
    /// From the first step on; never keeps more than `most` bytes, at least 1.
    pub(super) fn new(steps: &'a [Step], most: usize) -> Self {
        Self {
            steps,
            most: most.max(1),
            at: 0,
            seen: Vec::new(),
            ended: false,
            search: Search::default(),
            unwanted: Vec::new(),
        }
    }

    /// Goes on as far as it can. Fails with the reason.
    pub(super) fn go_on(&mut self) -> Result<Todo, String> {
        loop {
            let todo = match self.steps.get(self.at) {
                Some(Step::ExpectNot(expect)) => {
                    self.unwanted.push((self.at, expect, Search::default()));
                    None
                }
                Some(Step::Expect(expect)) => self.look_for(expect)?,
                Some(Step::Send(bytes)) => self.or_read(|run| {
                    // It answers what was said before.
                    run.seen.clear();
                    Todo::Send(Arc::clone(bytes))
                })?,
                None => self.or_read(|_| Todo::Nothing)?,
            };
            let stays = matches!(todo, Some(Todo::Read(_) | Todo::Nothing));
            if !stays {
                self.at += 1;
            }
            if let Some(todo) = todo {
                return Ok(todo);
            }
        }
    }

    /// This has come. Nothing: the peer says no more.
    pub(super) fn came(&mut self, bytes: &[u8]) {
        self.ended |= bytes.is_empty();
        self.seen.extend_from_slice(bytes);
    }

    /// The reason why reading, or else sending, has failed because of `problem`.
    pub(super) fn because(&self, problem: impl fmt::Display, reading: bool) -> String {
        if reading { self.failure(problem) } else { self.named(self.at.saturating_sub(1), problem) }
    }

    fn look_for(&mut self, expect: &'a Expect) -> Result<Option<Todo>, String> {
        let found = self.search.look(expect, &self.seen, self.ended);
        let end = match found {
            Found::Until(end) => end,
            _ => self.seen.len(),
        };
        self.refuse_unwanted(end)?;
        match found {
            Found::Until(end) => {
                self.seen.drain(..end);
                self.search = Search::default();
                self.unwanted.clear();
                Ok(None)
            }
            Found::NotYet if self.seen.len() < self.most => {
                Ok(Some(Todo::Read(self.most - self.seen.len())))
            }
            Found::NotYet => Err(self.failure(format_args!("not in {} bytes", self.most))),
            Found::Never if self.ended => Err(self.failure("the connection ended")),
            Found::Never => Err(self.failure("something else came")),
        }
    }

    /// Goes on with `then`, once what must not come has been looked for in something.
    fn or_read(&mut self, then: impl FnOnce(&mut Self) -> Todo) -> Result<Option<Todo>, String> {
        if !self.unwanted.is_empty() {
            if self.seen.is_empty() {
                let ended = || self.failure("the connection ended");
                return if self.ended { Err(ended()) } else { Ok(Some(Todo::Read(self.most))) };
            }
            self.refuse_unwanted(self.seen.len())?;
            self.unwanted.clear();
        }
        Ok(Some(then(self)))
    }

    /// Fails if something unwanted is in the first `end` bytes.
    fn refuse_unwanted(&mut self, end: usize) -> Result<(), String> {
        let seen = &self.seen[..end];
        let ended = self.ended && end == self.seen.len();
        let came = |(_, expect, search): &mut (usize, &Expect, Search)| {
            matches!(search.look(expect, seen, ended), Found::Until(_))
        };
        let Some(unwanted) = self.unwanted.iter_mut().position(came) else { return Ok(()) };
        Err(self.failed(self.unwanted[unwanted].0, "it is there"))
    }

    /// The step that waits has failed.
    fn failure(&self, problem: impl fmt::Display) -> String {
        // Before what is sent, and after the end, that is what must not come.
        let waits = self.unwanted.last().map(|(at, ..)| *at);
        let at = match self.steps.get(self.at) {
            Some(Step::Expect(_)) => self.at,
            _ => waits.unwrap_or(self.at),
        };
        self.failed(at, problem)
    }

    fn failed(&self, at: usize, problem: impl fmt::Display) -> String {
        let seen = Excerpt(&self.seen);
        self.named(at, format_args!("{problem}; what came: {seen}"))
    }

    fn named(&self, at: usize, problem: impl fmt::Display) -> String {
        match self.steps.get(at) {
            Some(step) => format!("step {}, {step}: {problem}", at + 1),
            None => problem.to_string(),
        }
    }
}
