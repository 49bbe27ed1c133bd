//! What model providers put on the wire: streams, error bodies and headers, as sans-I/O code.

mod dialect;
pub mod errors;
mod provider;
pub mod request;
pub mod retarget;

pub use dialect::Dialect;
pub use provider::Provider;
