//! What a function process and its host may say to each other, apart from HTTP.
//!
//! The process polls for work, the host offers invocations, and the two are paired while fewer
//! invocations are in flight than the host allows; a poll beyond that waits. Each invocation is
//! answered once, by the process that was given it. Everything is decided here on plain values: a
//! poll, an event and a reply are whatever the caller needs to carry them (channels in production,
//! numbers in tests).
//!
//! When the process ends, [`Conversation::end`] hands back every reply that is still owed.

use std::collections::VecDeque;

use super::SPARE_POLLS_MAX;

/// How many answered request ids are remembered, to tell a second answer from a wrong one.
const ANSWERED_IDS_MAX: usize = 16;

/// One function process's side of the Runtime API: `P` is a waiting poll, `E` an event to hand over,
/// `R` where the answer goes.
#[derive(Debug)]
pub struct Conversation<P, E, R> {
    concurrency: usize,
    stage: Stage,
    polls: VecDeque<P>,
    offers: VecDeque<Offer<E, R>>,
    in_flight: Vec<InFlight<R>>,
    answered: VecDeque<String>,
}

/// How far a conversation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The process starts up; it has not polled yet.
    Init,
    /// The process has polled at least once.
    Serving,
    /// The process said that it cannot start.
    InitFailed,
    /// The process is gone.
    Ended,
}

#[derive(Debug)]
struct Offer<E, R> {
    id: String,
    event: E,
    reply: R,
}

#[derive(Debug)]
struct InFlight<R> {
    id: String,
    reply: R,
}

/// Why something that the function process said is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No invocation of this process has this id, or the host has withdrawn it.
    #[error("request {id} is not an invocation of this process")]
    UnknownRequest {
        /// The id in the path.
        id: String,
    },
    /// The invocation was answered before: the first answer stands.
    #[error("request {id} has been answered already")]
    AnsweredBefore {
        /// The id in the path.
        id: String,
    },
    /// An init error can only be reported before the first `next`.
    #[error("an init error is only accepted before the first `next`")]
    InitErrorTooLate,
    /// The process reported an init error, and then went on talking.
    #[error("this process has reported an init error and is being stopped")]
    InitFailed,
    /// More polls wait than the process can ever have answered.
    #[error("{waiting} polls of `next` are waiting already")]
    TooManyPolls {
        /// Polls that wait.
        waiting: usize,
    },
    /// The host has given this process up.
    #[error("the host has ended this conversation")]
    Ended,
}

/// Why the host cannot offer an invocation to this process.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OfferRefused {
    /// As many invocations are offered or in flight as the process may hold.
    #[error("the process holds {concurrency} invocations, which is all it may")]
    NoRoom {
        /// How many it may hold.
        concurrency: usize,
    },
    /// Two invocations under one id could not be told apart.
    #[error("request {id} is in flight already")]
    SameId {
        /// The id of both.
        id: String,
    },
    /// The process is gone, or never came up.
    #[error("the process takes no invocations any more")]
    Ended,
}

impl<P, E, R> Conversation<P, E, R> {
    /// Begins the conversation with a process that may hold `concurrency` invocations at once (at
    /// least one).
    pub fn new(concurrency: usize) -> Self {
        Self {
            concurrency: concurrency.max(1),
            stage: Stage::Init,
            polls: VecDeque::new(),
            offers: VecDeque::new(),
            in_flight: Vec::new(),
            answered: VecDeque::new(),
        }
    }

    /// Notes that the process asks for work; the poll waits for [`hand_over`](Self::hand_over).
    pub fn poll(&mut self, poll: P) -> Result<(), Refusal> {
        match self.stage {
            Stage::Init | Stage::Serving => {}
            Stage::InitFailed => return Err(Refusal::InitFailed),
            Stage::Ended => return Err(Refusal::Ended),
        }
        let waiting = self.polls.len();
        if waiting >= self.concurrency + SPARE_POLLS_MAX {
            return Err(Refusal::TooManyPolls { waiting });
        }
        self.stage = Stage::Serving;
        self.polls.push_back(poll);
        Ok(())
    }

    /// Forgets the waiting polls for which `alive` is false: their connections are gone.
    pub fn keep_polls(&mut self, alive: impl FnMut(&P) -> bool) {
        self.polls.retain(alive);
    }

    /// Takes an invocation for the process; it waits for [`hand_over`](Self::hand_over).
    pub fn offer(&mut self, id: String, event: E, reply: R) -> Result<(), OfferRefused> {
        if !matches!(self.stage, Stage::Init | Stage::Serving) {
            return Err(OfferRefused::Ended);
        }
        let concurrency = self.concurrency;
        if self.offers.iter().any(|offer| offer.id == id) || self.is_in_flight(&id) {
            return Err(OfferRefused::SameId { id });
        }
        if self.offers.len() + self.in_flight.len() >= concurrency {
            return Err(OfferRefused::NoRoom { concurrency });
        }
        self.offers.push_back(Offer { id, event, reply });
        Ok(())
    }

    /// Pairs offers with polls, oldest first. `deliver` gets the request id, the poll and the event,
    /// and gives the event back if the poll turned out to be dead; the next poll then gets it.
    pub fn hand_over(&mut self, mut deliver: impl FnMut(&str, P, E) -> Option<E>) {
        while !self.polls.is_empty() {
            let Some(Offer { id, event, reply }) = self.offers.pop_front() else {
                return;
            };
            let Some(poll) = self.polls.pop_front() else {
                return;
            };
            match deliver(&id, poll, event) {
                None => self.in_flight.push(InFlight { id, reply }),
                Some(event) => self.offers.push_front(Offer { id, event, reply }),
            }
        }
    }

    /// Says whether an answer to `id` would be accepted now, so that a body need not be read in vain.
    pub fn expects(&self, id: &str) -> Result<(), Refusal> {
        if self.stage == Stage::Ended {
            return Err(Refusal::Ended);
        }
        if self.is_in_flight(id) {
            return Ok(());
        }
        let id = id.to_owned();
        if self.answered.contains(&id) {
            return Err(Refusal::AnsweredBefore { id });
        }
        Err(Refusal::UnknownRequest { id })
    }

    /// Ends the invocation `id` by an answer of the process, and says where the answer goes.
    pub fn answer(&mut self, id: &str) -> Result<R, Refusal> {
        self.expects(id)?;
        let found = self.in_flight.iter().position(|held| held.id == id);
        let Some(index) = found else {
            return Err(Refusal::UnknownRequest { id: id.to_owned() });
        };
        let InFlight { id, reply } = self.in_flight.swap_remove(index);
        if self.answered.len() == ANSWERED_IDS_MAX {
            self.answered.pop_front();
        }
        self.answered.push_back(id);
        Ok(reply)
    }

    /// Takes back an offer that nobody waits for any more. One that was handed over stays in flight
    /// until the process answers or ends: it still holds the process.
    pub fn withdraw(&mut self, id: &str) -> Option<R> {
        let index = self.offers.iter().position(|offer| offer.id == id)?;
        self.offers.remove(index).map(|offer| offer.reply)
    }

    /// Notes that the process cannot start. Legal once, before its first poll.
    pub fn init_error(&mut self) -> Result<(), Refusal> {
        match self.stage {
            Stage::Init => {
                self.stage = Stage::InitFailed;
                Ok(())
            }
            Stage::Serving => Err(Refusal::InitErrorTooLate),
            Stage::InitFailed => Err(Refusal::InitFailed),
            Stage::Ended => Err(Refusal::Ended),
        }
    }

    /// Ends the conversation: the process is gone. Returns every reply that is still owed, and drops
    /// the polls that wait.
    pub fn end(&mut self) -> Vec<R> {
        self.stage = Stage::Ended;
        self.polls.clear();
        let handed_over = self.in_flight.drain(..).map(|held| held.reply);
        handed_over.chain(self.offers.drain(..).map(|offer| offer.reply)).collect()
    }

    /// How many invocations the process may hold at once.
    pub fn concurrency(&self) -> usize {
        self.concurrency
    }

    /// The invocations that the process has been given and has not answered.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    fn is_in_flight(&self, id: &str) -> bool {
        self.in_flight.iter().any(|held| held.id == id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Talk = Conversation<u32, &'static str, u32>;

    /// Pairs what can be paired and returns it as (request id, poll, event).
    fn paired(talk: &mut Talk) -> Vec<(String, u32, &'static str)> {
        let mut pairs = Vec::new();
        talk.hand_over(|id, poll, event| {
            pairs.push((id.to_owned(), poll, event));
            None
        });
        pairs
    }

    fn serving_one(id: &str) -> Talk {
        let mut talk = Talk::new(1);
        talk.poll(1).unwrap();
        talk.offer(id.into(), "event", 10).unwrap();
        assert_eq!(paired(&mut talk).len(), 1);
        talk
    }

    #[test]
    fn an_offer_waits_for_a_poll() {
        let mut talk = Talk::new(1);
        talk.offer("a".into(), "event a", 10).unwrap();
        assert_eq!(paired(&mut talk), []);
        talk.poll(1).unwrap();
        assert_eq!(paired(&mut talk), [("a".into(), 1, "event a")]);
        assert_eq!(talk.in_flight(), 1);
    }

    #[test]
    fn a_poll_waits_for_an_offer() {
        let mut talk = Talk::new(1);
        talk.poll(1).unwrap();
        assert_eq!(paired(&mut talk), []);
        talk.offer("a".into(), "event a", 10).unwrap();
        assert_eq!(paired(&mut talk), [("a".into(), 1, "event a")]);
    }

    #[test]
    fn an_answer_goes_to_the_reply_of_its_request() {
        let mut talk = serving_one("a");
        assert_eq!(talk.answer("a"), Ok(10));
        assert_eq!(talk.in_flight(), 0);
    }

    #[test]
    fn a_second_answer_is_refused_as_such() {
        let mut talk = serving_one("a");
        talk.answer("a").unwrap();
        let again = Err(Refusal::AnsweredBefore { id: "a".into() });
        assert_eq!(talk.answer("a"), again);
    }

    #[test]
    fn an_answer_to_another_processs_request_is_refused_and_changes_nothing() {
        let mut talk = serving_one("a");
        let unknown = Err(Refusal::UnknownRequest { id: "b".into() });
        assert_eq!(talk.answer("b"), unknown);
        assert_eq!(talk.answer("a"), Ok(10));
    }

    #[test]
    fn an_answer_to_an_offer_that_was_not_handed_over_is_refused() {
        let mut talk = Talk::new(1);
        talk.offer("a".into(), "event", 10).unwrap();
        assert!(matches!(talk.answer("a"), Err(Refusal::UnknownRequest { .. })));
    }

    #[test]
    fn a_process_of_concurrency_one_gets_nothing_more_while_it_owes_an_answer() {
        let mut talk = serving_one("a");
        talk.poll(2).unwrap();
        let full = Err(OfferRefused::NoRoom { concurrency: 1 });
        assert_eq!(talk.offer("b".into(), "event b", 11), full);
        talk.answer("a").unwrap();
        talk.offer("b".into(), "event b", 11).unwrap();
        assert_eq!(paired(&mut talk), [("b".into(), 2, "event b")]);
    }

    #[test]
    fn several_invocations_are_in_flight_where_the_host_allows_it() {
        let mut talk = Talk::new(2);
        talk.poll(1).unwrap();
        talk.poll(2).unwrap();
        talk.offer("a".into(), "event a", 10).unwrap();
        talk.offer("b".into(), "event b", 11).unwrap();
        let pairs = [("a".into(), 1, "event a"), ("b".into(), 2, "event b")];
        assert_eq!(paired(&mut talk), pairs);
        assert_eq!(talk.answer("b"), Ok(11));
        assert_eq!(talk.answer("a"), Ok(10));
    }

    #[test]
    fn concurrency_zero_means_one() {
        let mut talk = Talk::new(0);
        talk.offer("a".into(), "event", 10).unwrap();
    }

    #[test]
    fn two_invocations_under_one_id_are_refused() {
        let mut talk = Talk::new(3);
        talk.offer("a".into(), "event", 10).unwrap();
        let same = Err(OfferRefused::SameId { id: "a".into() });
        assert_eq!(talk.offer("a".into(), "event", 11), same);
        talk.poll(1).unwrap();
        paired(&mut talk);
        assert_eq!(talk.offer("a".into(), "event", 12), same);
    }

    #[test]
    fn an_event_that_met_a_dead_poll_goes_to_the_next_one() {
        let mut talk = Talk::new(1);
        talk.poll(1).unwrap();
        talk.poll(2).unwrap();
        talk.offer("a".into(), "event", 10).unwrap();
        let mut tried = Vec::new();
        talk.hand_over(|_, poll, event| {
            tried.push(poll);
            (poll == 1).then_some(event)
        });
        assert_eq!(tried, [1, 2]);
        assert_eq!(talk.answer("a"), Ok(10));
    }

    #[test]
    fn an_event_that_met_only_dead_polls_stays_offered() {
        let mut talk = Talk::new(1);
        talk.poll(1).unwrap();
        talk.offer("a".into(), "event", 10).unwrap();
        talk.hand_over(|_, _, event| Some(event));
        assert_eq!(talk.in_flight(), 0);
        talk.poll(2).unwrap();
        assert_eq!(paired(&mut talk), [("a".into(), 2, "event")]);
    }

    #[test]
    fn polls_of_lost_connections_are_forgotten() {
        let mut talk = Talk::new(1);
        talk.poll(1).unwrap();
        talk.poll(2).unwrap();
        talk.keep_polls(|poll| *poll != 1);
        talk.offer("a".into(), "event", 10).unwrap();
        assert_eq!(paired(&mut talk), [("a".into(), 2, "event")]);
    }

    #[test]
    fn polls_have_a_limit() {
        let mut talk = Talk::new(1);
        let polls_max = 1 + u32::try_from(SPARE_POLLS_MAX).unwrap();
        for poll in 0..polls_max {
            talk.poll(poll).unwrap();
        }
        assert!(matches!(talk.poll(99), Err(Refusal::TooManyPolls { .. })));
    }

    #[test]
    fn a_withdrawn_offer_is_not_handed_over() {
        let mut talk = Talk::new(1);
        talk.offer("a".into(), "event", 10).unwrap();
        assert_eq!(talk.withdraw("a"), Some(10));
        talk.poll(1).unwrap();
        assert_eq!(paired(&mut talk), []);
    }

    #[test]
    fn an_invocation_in_flight_cannot_be_withdrawn() {
        let mut talk = serving_one("a");
        assert_eq!(talk.withdraw("a"), None);
        assert_eq!(talk.answer("a"), Ok(10));
    }

    #[test]
    fn an_init_error_is_accepted_once_and_only_before_the_first_poll() {
        let mut talk = Talk::new(1);
        assert_eq!(talk.init_error(), Ok(()));
        assert_eq!(talk.init_error(), Err(Refusal::InitFailed));
        assert_eq!(talk.poll(1), Err(Refusal::InitFailed));

        let mut talk = Talk::new(1);
        talk.poll(1).unwrap();
        assert_eq!(talk.init_error(), Err(Refusal::InitErrorTooLate));
    }

    #[test]
    fn nothing_is_offered_to_a_process_that_did_not_come_up() {
        let mut talk = Talk::new(1);
        talk.init_error().unwrap();
        assert_eq!(talk.offer("a".into(), "event", 10), Err(OfferRefused::Ended));
    }

    #[test]
    fn the_end_of_the_process_hands_back_every_reply_that_is_owed() {
        let mut talk = Talk::new(3);
        talk.poll(1).unwrap();
        talk.offer("a".into(), "event", 10).unwrap();
        paired(&mut talk);
        talk.offer("b".into(), "event", 11).unwrap();
        assert_eq!(talk.end(), [10, 11]);
        assert!(talk.end().is_empty());
    }

    #[test]
    fn after_the_end_everything_is_refused() {
        let mut talk = serving_one("a");
        talk.end();
        assert_eq!(talk.answer("a"), Err(Refusal::Ended));
        assert_eq!(talk.poll(2), Err(Refusal::Ended));
        assert_eq!(talk.init_error(), Err(Refusal::Ended));
        assert_eq!(talk.offer("b".into(), "event", 11), Err(OfferRefused::Ended));
    }

    #[test]
    fn only_the_last_answered_ids_are_remembered() {
        let mut talk = Talk::new(1);
        for n in 0..=ANSWERED_IDS_MAX {
            talk.poll(1).unwrap();
            talk.offer(n.to_string(), "event", 10).unwrap();
            paired(&mut talk);
            talk.answer(&n.to_string()).unwrap();
        }
        assert!(matches!(talk.answer("0"), Err(Refusal::UnknownRequest { .. })));
        assert!(matches!(talk.answer("1"), Err(Refusal::AnsweredBefore { .. })));
    }
}
