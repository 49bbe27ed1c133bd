//! Scripted models: a fake provider whose every fault is chosen by the test.
//!
//! A [`Model`] listens on a loopback port and speaks HTTP/1.1 and HTTP/2 without TLS. It answers
//! `POST …/chat/completions` as OpenAI does and `POST …/messages` as Anthropic does, streamed when
//! the request says `"stream": true`, and `GET …/models` with a list. What it does with each
//! request is a [`Reply`]; what it was asked, and how each exchange ended, is in its [`Log`], which
//! is the oracle of a test: a layer cannot talk itself out of a request that the model has seen.
//!
//! A [`Scripted`] is the same thing without a socket, as a tower service, for tests with paused
//! time.
//!
//! ```
//! use backstop_testkit::model::{Model, Reply};
//!
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! let primary = Model::start("primary").await?;
//! primary.push(Reply::status(529)); // the first request
//! primary.push(Reply::healthy().cut_after(2)); // the second
//! assert!(primary.base_url().ends_with("/v1"));
//! // … send two requests; the third gets a whole answer:
//! assert_eq!(primary.text(), "This is the whole answer of primary, in order.");
//! assert!(primary.log().exchanges().is_empty());
//! # Ok::<(), std::io::Error>(())
//! # })?;
//! # Ok::<(), std::io::Error>(())
//! ```

mod answer;
mod body;
mod log;
mod refusal;
mod reply;
mod server;
mod service;

pub use body::ReplyBody;
pub use log::{Ended, Exchange, Log};
pub use refusal::Refusal;
pub use reply::{Framing, Reply};
pub use server::{ClosedPort, Model};
pub use service::{ReplyFuture, Scripted};

/// Which API a request is for, by its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Api {
    /// OpenAI chat completions.
    OpenAi,
    /// Anthropic Messages.
    Anthropic,
}

impl Api {
    /// The API that a request's path asks for.
    #[must_use]
    pub fn of_path(path: &str) -> Option<Self> {
        if path.ends_with("/chat/completions") {
            Some(Self::OpenAi)
        } else if path.ends_with("/messages") {
            Some(Self::Anthropic)
        } else {
            None
        }
    }
}
