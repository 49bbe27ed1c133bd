use backstop_core::{Outcome, body::Watch};
use bytes::Bytes;

/// Collects the chunks of an answer as they pass by, and hands them over if it ends well.
///
/// Chunks are shared, not copied. An answer above the limit is let go at once.
pub(crate) struct Tee {
    chunks: Vec<Bytes>,
    room: usize,
    keep: Option<Keep>,
}

/// What happens with the chunks of an answer that ended well.
pub(crate) type Keep = Box<dyn FnOnce(Result<Vec<Bytes>, &'static str>) + Send>;

impl Tee {
    pub(crate) fn new(limit: usize, keep: Option<Keep>) -> Self {
        Self {
            chunks: Vec::new(),
            room: limit,
            keep,
        }
    }
}

impl Watch for Tee {
    fn on_data(&mut self, data: &Bytes) {
        // Kept, chunks without bytes would take memory without end.
        if self.keep.is_none() || data.is_empty() {
            return;
        }
        match self.room.checked_sub(data.len()) {
            Some(room) => {
                self.room = room;
                self.chunks.push(data.clone());
            }
            None => {
                self.chunks = Vec::new();
                if let Some(keep) = self.keep.take() {
                    keep(Err("larger than max_answer"));
                }
            }
        }
    }

    fn on_finish(self, outcome: &Outcome) {
        if let Some(keep) = self.keep {
            keep(if outcome.is_success() {
                Ok(self.chunks)
            } else {
                Err("did not end well")
            });
        }
    }
}

impl std::fmt::Debug for Tee {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tee")
            .field("chunks", &self.chunks.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use backstop_core::Kind;

    use super::*;

    /// What is handed over of these chunks after this end.
    fn kept(chunks: &[&'static str], end: &Outcome) -> Vec<Result<Vec<Bytes>, &'static str>> {
        let (sender, receiver) = mpsc::channel();
        let keep: Keep = Box::new(move |kept| sender.send(kept).unwrap());
        let mut tee = Tee::new(10, Some(keep));
        for chunk in chunks {
            tee.on_data(&Bytes::from(*chunk));
        }
        tee.on_finish(end);
        receiver.into_iter().collect()
    }

    /// Whatever the chunks look like: the classifier's word counts, not the recorder's alone.
    #[test]
    fn only_an_answer_that_ends_well_is_handed_over() {
        let chunks = ["12345", "67890"];
        let well = Outcome::success();
        assert_eq!(kept(&chunks, &well), [Ok(chunks.map(Bytes::from).into())]);
        let with_empty = ["12345", "", "67890", ""];
        assert_eq!(kept(&with_empty, &well), kept(&chunks, &well));
        for kind in [Kind::Cancelled, Kind::Malformed, Kind::Unavailable] {
            let end = Outcome::new(kind);
            assert_eq!(kept(&chunks, &end), [Err("did not end well")]);
        }
        let long = ["12345", "678901", "2"];
        assert_eq!(kept(&long, &well), [Err("larger than max_answer")]);
    }

    #[test]
    fn what_is_too_large_is_let_go_at_once() {
        let held = std::sync::Arc::new([0_u8; 8]);
        let mut tee = Tee::new(10, Some(Box::new(|_| ())));
        tee.on_data(&Bytes::from_owner(Held(held.clone())));
        assert_eq!(std::sync::Arc::strong_count(&held), 2);
        tee.on_data(&Bytes::from_static(b"123"));
        assert_eq!(std::sync::Arc::strong_count(&held), 1);
        tee.on_data(&Bytes::from_owner(Held(held.clone())));
        assert_eq!(std::sync::Arc::strong_count(&held), 1);
    }

    struct Held(std::sync::Arc<[u8; 8]>);

    impl AsRef<[u8]> for Held {
        fn as_ref(&self) -> &[u8] {
            &*self.0
        }
    }
}
