//! One process's conversation, shared by its server and by whoever invokes the function.
//!
//! The invoking side leaves the written response and a channel for the answer; whichever side comes
//! second, the invocation or the poll, hands over. When the process ends, every invocation that is
//! still owed an answer is told how it ended.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{oneshot, watch};

use super::request::HttpResponse;
use super::{Answer, Conversation, FunctionError, Invocation, InvocationEnd, OfferRefused, Refusal};
use crate::process::ExitStatus;

type Poll = oneshot::Sender<HttpResponse>;
type Reply = oneshot::Sender<Result<Answer, InvocationEnd>>;

/// Is told when invocations begin and end in the function, before anybody else learns of it.
pub trait Watcher: Send + Sync + 'static {
    /// The invocation is about to be given to the process. May be said twice of one invocation.
    fn handed_over(&self, request_id: &str);
    /// The process has answered the invocation.
    fn answered(&self, request_id: &str);
}

/// How far a function process has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It starts up.
    Init,
    /// It has asked for work.
    Serving,
    /// It said that it cannot start, and why.
    InitFailed(FunctionError),
    /// It is gone.
    Ended {
        /// How it ended.
        status: ExitStatus,
        /// The last of what it printed.
        output_tail: String,
    },
}

/// The conversation of one function process, and the channels that carry it.
pub struct Exchange {
    conversation: Mutex<Conversation<Poll, HttpResponse, Reply>>,
    phase: watch::Sender<Phase>,
    watcher: Arc<dyn Watcher>,
}

impl Exchange {
    /// Begins the conversation with a process that may hold `concurrency` invocations at once.
    pub fn new(concurrency: usize, watcher: Arc<dyn Watcher>) -> Self {
        Self {
            conversation: Mutex::new(Conversation::new(concurrency)),
            phase: watch::Sender::new(Phase::Init),
            watcher,
        }
    }

    /// Gives one invocation to the process and waits for what it comes to, however long that takes.
    ///
    /// Dropping the future takes back an invocation that the process has not been given; one that it
    /// was given occupies the process until it answers, and the answer is thrown away.
    pub async fn invoke(&self, invocation: Invocation) -> Result<Answer, InvocationEnd> {
        let (id, event) = invocation.into_response()?;
        let (reply, answer) = oneshot::channel();
        let mut withdrawal = Withdrawal { exchange: self, id: Some(id.clone()) };
        {
            let mut conversation = self.conversation();
            if let Err(refused) = conversation.offer(id, event, reply) {
                withdrawal.id = None;
                drop(conversation);
                return Err(self.not_offered(&refused));
            }
            self.hand_over(&mut conversation);
        }
        let answer = answer.await;
        withdrawal.id = None;
        answer.unwrap_or_else(|_| Err(self.not_offered(&OfferRefused::Ended)))
    }

    /// Follows how far the process has come.
    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Ends the conversation: the process is gone, and every open invocation ends with it.
    pub fn end(&self, status: ExitStatus, output_tail: String) {
        let owed = self.conversation().end();
        for reply in owed {
            let output_tail = output_tail.clone();
            // Nobody may be waiting any more.
            let _ = reply.send(Err(InvocationEnd::ProcessDied { status, output_tail }));
        }
        self.phase.send_replace(Phase::Ended { status, output_tail });
    }

    pub(super) fn concurrency(&self) -> usize {
        self.conversation().concurrency()
    }

    /// Takes a poll of `next`; the receiver gets the invocation.
    pub(super) fn poll(&self) -> Result<oneshot::Receiver<HttpResponse>, Refusal> {
        let (poll, event) = oneshot::channel();
        let mut conversation = self.conversation();
        conversation.keep_polls(|poll| !poll.is_closed());
        conversation.poll(poll)?;
        self.hand_over(&mut conversation);
        drop(conversation);
        self.phase.send_if_modified(|phase| {
            let first = *phase == Phase::Init;
            if first {
                *phase = Phase::Serving;
            }
            first
        });
        Ok(event)
    }

    /// Says whether an answer to `id` would be accepted now.
    pub(super) fn expects(&self, id: &str) -> Result<(), Refusal> {
        self.conversation().expects(id)
    }

    /// Ends the invocation `id` with what the process made of it.
    pub(super) fn answer(&self, id: &str, answer: Result<Answer, InvocationEnd>) -> Result<(), Refusal> {
        let reply = self.conversation().answer(id)?;
        self.watcher.answered(id);
        // The invoking side may have given up; the answer is then nobody's.
        let _ = reply.send(answer);
        Ok(())
    }

    /// Notes that the process cannot start.
    pub(super) fn init_error(&self, error: FunctionError) -> Result<(), Refusal> {
        self.conversation().init_error()?;
        self.phase.send_replace(Phase::InitFailed(error));
        Ok(())
    }

    fn hand_over(&self, conversation: &mut Conversation<Poll, HttpResponse, Reply>) {
        conversation.hand_over(|id, poll, event| {
            self.watcher.handed_over(id);
            poll.send(event).err()
        });
    }

    fn not_offered(&self, refused: &OfferRefused) -> InvocationEnd {
        match &*self.phase.borrow() {
            Phase::Ended { status, output_tail } if *refused == OfferRefused::Ended => {
                InvocationEnd::ProcessDied { status: *status, output_tail: output_tail.clone() }
            }
            _ => InvocationEnd::NotOffered { reason: refused.to_string() },
        }
    }

    fn conversation(&self) -> MutexGuard<'_, Conversation<Poll, HttpResponse, Reply>> {
        // The state machine keeps no half-done step across a panic, so a poisoned lock is sound.
        self.conversation.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange").field("phase", &*self.phase.borrow()).finish_non_exhaustive()
    }
}

/// Takes the offer back if the invoking side goes away before it was answered.
struct Withdrawal<'a> {
    exchange: &'a Exchange,
    id: Option<String>,
}

impl Drop for Withdrawal<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.exchange.conversation().withdraw(&id);
        }
    }
}
