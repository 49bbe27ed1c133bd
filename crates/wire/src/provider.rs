/// The family whose error bodies and headers a response follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Provider {
    /// Not known: the generic rules of all envelopes apply.
    #[default]
    Unknown,
}
