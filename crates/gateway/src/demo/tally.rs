//! What came of the requests.

use std::time::Duration;

use backstop_core::BoxError;

use super::client::Answer;

/// Who answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    Primary,
    Backup,
}

/// What came of one request.
#[derive(Debug)]
pub(super) enum Told {
    /// The whole text of the model that the header names.
    Answered {
        by: Who,
        /// The time to the first token, beyond what a model takes that is asked directly.
        added: Duration,
    },
    /// Anything else, and what.
    Failed(String),
}

/// Counts of requests.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    pub(super) by_primary: u32,
    pub(super) by_backup: u32,
    pub(super) failed: u32,
    added: Vec<Duration>,
}

impl Told {
    /// Judges an answer: it must be the whole text of the model that is said to have answered.
    pub(super) fn of(
        answer: Result<Answer, BoxError>,
        primary: &str,
        backup: &str,
        usual: Duration,
    ) -> Self {
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => return Self::Failed(error.to_string()),
        };
        let (by, text) = match &*answer.served_by {
            "primary" => (Who::Primary, primary),
            "backup" => (Who::Backup, backup),
            _ => return Self::Failed("an answer by nobody knows whom".to_owned()),
        };
        if answer.text != text {
            return Self::Failed("not the whole answer".to_owned());
        }
        Self::Answered {
            by,
            added: answer.begun.saturating_sub(usual),
        }
    }
}

impl Tally {
    pub(super) fn add(&mut self, told: &Told) {
        match told {
            Told::Answered { by, added } => {
                match by {
                    Who::Primary => self.by_primary += 1,
                    Who::Backup => self.by_backup += 1,
                }
                self.added.push(*added);
            }
            Told::Failed(_) => self.failed += 1,
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.by_primary += other.by_primary;
        self.by_backup += other.by_backup;
        self.failed += other.failed;
        self.added.extend(&other.added);
        // A demonstration that runs for days forgets its beginning.
        let excess = self.added.len().saturating_sub(100_000);
        self.added.drain(..excess);
    }

    pub(super) fn requests(&self) -> u32 {
        self.by_primary + self.by_backup + self.failed
    }

    /// The added latency that a share of the answers, in hundredths, did not exceed (nearest
    /// rank).
    pub(super) fn percentile(&self, percent: usize) -> Option<Duration> {
        let mut sorted = self.added.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent).div_ceil(100);
        sorted.get(rank.checked_sub(1)?).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(served_by: &str, text: &str) -> Answer {
        Answer {
            text: text.to_owned(),
            served_by: served_by.to_owned(),
            begun: Duration::from_millis(45),
        }
    }

    #[test]
    fn only_the_whole_text_of_who_is_named_counts() {
        let usual = Duration::from_millis(40);
        let told = |answer| Told::of(answer, "first", "second", usual);
        let Told::Answered { by, added } = told(Ok(answer("backup", "second"))) else {
            panic!("a right answer");
        };
        assert_eq!((by, added), (Who::Backup, Duration::from_millis(5)));
        for wrong in [
            Ok(answer("backup", "first")),
            Ok(answer("backup", "sec")),
            Ok(answer("", "second")),
            Err("503".into()),
        ] {
            assert!(matches!(told(wrong), Told::Failed(_)));
        }
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let mut tally = Tally::default();
        assert_eq!(tally.percentile(50), None);
        for ms in (1..=100).rev() {
            tally.add(&Told::Answered {
                by: Who::Primary,
                added: Duration::from_millis(ms),
            });
        }
        assert_eq!(tally.percentile(50), Some(Duration::from_millis(50)));
        assert_eq!(tally.percentile(99), Some(Duration::from_millis(99)));
        assert_eq!(tally.requests(), 100);
    }
}
