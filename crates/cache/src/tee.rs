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
        if self.keep.is_none() {
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
