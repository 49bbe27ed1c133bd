//! Scripted models, fault scripts and the tower contract laws, for testing a stack of backstop
//! layers.
//!
//! * [`model`]: a model that fails as it is told to, on a real socket or as a tower service, and
//!   keeps a log of what it was asked.
//! * [`laws`]: what every tower middleware must hold, checked on any stack.
//! * [`body`]: what every body wrapper must hold, checked by hand and through hyper.
//!
//! Everything here is meant for tests and demonstrations: it favours plain failure over recovery
//! and keeps what it hears, prompts and headers included.

pub mod body;
pub mod laws;
pub mod model;
