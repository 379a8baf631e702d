//! The Lambda Runtime API, as one function process sees it.
//!
//! A function process asks for work with `next`, and answers each invocation with `response` or
//! `error`. [`Conversation`] holds what may be said when, and knows no HTTP; [`Server`] puts it on a
//! loopback port of its own, so that a process can answer only what it was given. Paths under
//! [`ROUTES_PREFIX`] go to a [`Routes`].
//!
//! A process that dies ends its conversation: every invocation that was not answered ends with
//! [`InvocationEnd::ProcessDied`], after whatever the process still managed to send has been read.

mod answer;
mod body;
mod conversation;
mod exchange;
mod late_eof;
mod request;
mod server;

pub use answer::{Answer, FunctionError, InvocationEnd};
pub use conversation::{Conversation, OfferRefused, Refusal};
pub use exchange::{Exchange, Phase, Watcher};
pub use request::Invocation;
pub use server::{Routes, Server};

/// The version of the Runtime API that is spoken, as it stands in every path.
pub const RUNTIME_API_VERSION: &str = "2018-06-01";
/// Where the host's own routes begin.
pub const ROUTES_PREFIX: &str = "/rhubarb/v1/";

/// Lambda gives no larger event to a function.
pub const EVENT_BYTES_MAX: usize = 6 * 1024 * 1024;
/// Lambda takes no larger answer from a function: 6 MiB and room for its own wrapping.
pub const RESPONSE_BYTES_MAX: usize = EVENT_BYTES_MAX + 100;
/// A body over its limit is read on and thrown away up to this size, so that its sender gets to read
/// the refusal; after that the connection is closed.
pub const DRAINED_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Connections one function process may hold open, beside those its invocations need.
pub const CONNECTIONS_MAX: usize = 128;
/// Polls that may wait beside those that the concurrency allows.
pub const SPARE_POLLS_MAX: usize = 16;
/// A request id, as it stands in paths and headers.
pub const REQUEST_ID_BYTES_MAX: usize = 128;
/// What is kept of an error's message.
pub const ERROR_MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// What is kept of an error's stack trace.
pub const STACK_LINES_MAX: usize = 200;

const _: () = assert!(RESPONSE_BYTES_MAX < DRAINED_BYTES_MAX);
const _: () = assert!(ERROR_MESSAGE_BYTES_MAX < RESPONSE_BYTES_MAX);
