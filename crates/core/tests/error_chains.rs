//! The outcome of an error is found wherever in the chain it is.

use std::{error::Error, fmt, io};

use backstop_core::{BoxError, Elapsed, Failure, Kind, Outcome, Phase, outcome_of};
use proptest::{collection::vec, prelude::*, sample::select};

/// Some library's error around another.
#[derive(Debug)]
struct Wrapped(BoxError);

impl fmt::Display for Wrapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("wrapped")
    }
}

impl Error for Wrapped {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}

#[derive(Clone, Copy, Debug)]
enum Wrap {
    Plain,
    /// `io::Error` hides what it wraps from its `source()` chain.
    Io,
    /// As rustls and proxies do: an inner error in an `io::Error` with a kind that says little.
    IoOther,
}

fn wrap(error: BoxError, how: Wrap) -> BoxError {
    match how {
        Wrap::Plain => Wrapped(error).into(),
        Wrap::Io => io::Error::new(io::ErrorKind::InvalidData, error).into(),
        Wrap::IoOther => io::Error::other(error).into(),
    }
}

#[derive(Clone, Copy, Debug)]
enum Root {
    Failure,
    Elapsed,
    Refused,
    Unknown,
}

impl Root {
    fn error(self) -> BoxError {
        match self {
            Self::Failure => Failure::new(Outcome::new(Kind::Overloaded)).into(),
            Self::Elapsed => {
                let second = std::time::Duration::from_secs(1);
                Elapsed::new(Phase::Idle, second, second).into()
            }
            Self::Refused => io::Error::from(io::ErrorKind::ConnectionRefused).into(),
            Self::Unknown => "nobody knows".into(),
        }
    }

    fn kind(self) -> Kind {
        match self {
            Self::Failure => Kind::Overloaded,
            Self::Elapsed => Kind::TimedOut(Phase::Idle),
            Self::Refused => Kind::NotProcessed,
            Self::Unknown => Kind::Unavailable,
        }
    }
}

proptest! {
    #[test]
    fn wrappers_hide_nothing(
        root in select(vec![Root::Failure, Root::Elapsed, Root::Refused, Root::Unknown]),
        wraps in vec(select(vec![Wrap::Plain, Wrap::Io, Wrap::IoOther]), 0..6),
    ) {
        let error = wraps.into_iter().fold(root.error(), wrap);
        prop_assert_eq!(outcome_of(&*error).kind(), root.kind());
        let is = |other: Root| root.kind() == other.kind();
        prop_assert_eq!(Failure::find(&*error).is_some(), is(Root::Failure));
        prop_assert_eq!(Elapsed::find(&*error).is_some(), is(Root::Elapsed));
    }

    #[test]
    fn the_outermost_verdict_decides(
        inner in vec(select(vec![Wrap::Plain, Wrap::Io, Wrap::IoOther]), 0..4),
        outer in vec(select(vec![Wrap::Plain, Wrap::Io, Wrap::IoOther]), 0..4),
    ) {
        let cause = inner.into_iter().fold(Root::Refused.error(), wrap);
        let verdict = Failure::with_source(Outcome::new(Kind::Rejected), cause).into();
        let error = outer.into_iter().fold(verdict, wrap);
        prop_assert_eq!(outcome_of(&*error).kind(), Kind::Rejected);
    }
}

#[test]
fn elapsed_is_found_behind_a_verdict() {
    let error = Failure::with_source(Outcome::timed_out(Phase::Idle), Root::Elapsed.error());
    let error = io::Error::other(error);
    assert!(Elapsed::find(&error).is_some_and(Elapsed::is_idle));
}
