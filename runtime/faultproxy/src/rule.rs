//! Which requests something becomes of, and what.

use std::{ops::RangeInclusive, time::Duration};

use fastrand::Rng;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// The service never sees it, and the connection ends.
    DropRequest,
    /// The service does it, and the connection ends before the answer.
    DropAnswer,
    /// The service sees it only after this.
    Delay(Duration),
    /// The service does it twice; the second answer is given.
    Twice,
    /// As AWS does and emulators do not: the service sees only what was signed within five minutes of now.
    CheckDate,
    /// It is answered with this status and code, as AWS would, and the service never sees it.
    Answer {
        /// The status.
        status: u16,
        /// The error's code, such as `ThrottlingException`.
        code: &'static str,
    },
}

impl Wrong {
    /// What DynamoDB answers to a table that is written or read faster than it may be.
    pub const THROUGHPUT: Self = Self::Answer { status: 400, code: "ProvisionedThroughputExceededException" };
    /// What AWS answers to a caller that is too fast.
    pub const THROTTLED: Self = Self::Answer { status: 400, code: "ThrottlingException" };
    /// A failure of the service's own.
    pub const FAILED: Self = Self::Answer { status: 500, code: "InternalServerError" };
    /// The service is there and does nothing.
    pub const UNAVAILABLE: Self = Self::Answer { status: 503, code: "ServiceUnavailable" };
}

/// What becomes of some requests.
#[derive(Clone, Debug)]
pub struct Rule {
    target: String,
    body: Option<String>,
    when: When,
    wrong: Wrong,
    matched: u64,
}

#[derive(Clone, Debug)]
enum When {
    Always,
    /// The matching requests of these numbers, from 1.
    Numbers(RangeInclusive<u64>),
    /// So many of a hundred.
    Share(u64, Rng),
}

impl Rule {
    /// This becomes of every request whose target contains `target`: a piece of the `x-amz-target` header
    /// (`SendMessage`), of the method, or of the path with its query.
    #[must_use]
    pub fn every(target: &str, wrong: Wrong) -> Self {
        Self { target: target.to_owned(), body: None, when: When::Always, wrong, matched: 0 }
    }

    /// As [`Self::every`], but only the n-th such request from now on, counted from 1.
    #[must_use]
    pub fn nth(number: u64, target: &str, wrong: Wrong) -> Self {
        Self { when: When::Numbers(number..=number), ..Self::every(target, wrong) }
    }

    /// As [`Self::every`], but only the first so many.
    #[must_use]
    pub fn first(count: u64, target: &str, wrong: Wrong) -> Self {
        Self { when: When::Numbers(1..=count), ..Self::every(target, wrong) }
    }

    /// As [`Self::every`], but only about so many of a hundred, which the seed decides.
    #[must_use]
    pub fn share(percent: u64, seed: u64, target: &str, wrong: Wrong) -> Self {
        Self { when: When::Share(percent, Rng::with_seed(seed)), ..Self::every(target, wrong) }
    }

    /// Only requests whose body contains this too.
    #[must_use]
    pub fn with_body(self, piece: &str) -> Self {
        Self { body: Some(piece.to_owned()), ..self }
    }

    fn applies(&mut self, target: &str, body: &[u8]) -> bool {
        if !target.contains(&self.target) {
            return false;
        }
        if let Some(piece) = self.body.as_deref().map(str::as_bytes)
            && !body.windows(piece.len().max(1)).any(|window| window == piece)
        {
            return false;
        }
        self.matched += 1;
        match &mut self.when {
            When::Always => true,
            When::Numbers(numbers) => numbers.contains(&self.matched),
            When::Share(percent, random) => random.u64(0..100) < *percent,
        }
    }
}

/// The rules of a proxy, in order.
#[derive(Debug, Default)]
pub(super) struct Rules(Vec<Rule>);

impl Rules {
    pub(super) fn add(&mut self, rule: Rule) {
        self.0.push(rule);
    }

    /// What becomes of a request. Each rule counts the requests that it matches, also where another decides.
    pub(super) fn decide(&mut self, target: &str, body: &[u8]) -> Option<Wrong> {
        let applying = self.0.iter_mut().filter_map(|rule| rule.applies(target, body).then_some(rule.wrong));
        applying.collect::<Vec<Wrong>>().first().copied()
    }
}
