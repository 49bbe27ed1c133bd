//! What model providers put on the wire: streams, error bodies and headers, as sans-I/O code.
//!
//! * [`scan`] cuts bytes into events, [`StreamReader`] reads them in a [`Dialect`].
//! * [`ClassifyHttp`] tells what an HTTP response is, with the knowledge of [`errors`].
//! * [`BadAnswers`] tells which whole answers are of no use, for who asks for it.
//! * [`errors`] tells why there is no answer, [`hints`] when to ask again, [`headroom`] what is left.
//! * [`record`] does so for recorded answers.
//! * [`request`] and [`retarget`] rewrite what a target is sent.
//! * [`recorder`] keeps whole answers and writes them again, for a cache.
//! * [`answer`] tells a caller in its own dialect that there is no answer.

pub mod answer;
mod classify;
mod dialect;
pub mod errors;
pub mod headroom;
pub mod hints;
mod json;
mod judge;
mod provider;
pub mod record;
pub mod recorder;
pub mod request;
pub mod retarget;
pub mod scan;
mod stream;

pub use classify::{AnswerReader, ClassifyHttp, ERROR_LIMIT, UNARY_LIMIT};
pub use dialect::Dialect;
pub use judge::BadAnswers;
pub use provider::Provider;
pub use stream::{FinishReason, Framing, StreamReader, Usage};
