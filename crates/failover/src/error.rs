use std::{error::Error, fmt};

/// A setting that cannot work, found when a failover is built.
///
/// ```
/// use backstop_failover::budget::{Budget, BudgetConfig};
///
/// let error = Budget::new(BudgetConfig::default().share(f64::NAN)).unwrap_err();
/// assert_eq!(error.field(), "budget.share");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    field: &'static str,
    expected: &'static str,
}

// === impl ConfigError ===

impl ConfigError {
    /// `field` holds something else than what is `expected`.
    #[must_use]
    pub const fn new(field: &'static str, expected: &'static str) -> Self {
        Self { field, expected }
    }

    /// `Ok` when `holds`.
    pub(crate) fn ensure(
        holds: bool,
        field: &'static str,
        expected: &'static str,
    ) -> Result<(), Self> {
        if holds {
            Ok(())
        } else {
            Err(Self::new(field, expected))
        }
    }

    /// The setting that is wrong.
    #[must_use]
    pub const fn field(&self) -> &'static str {
        self.field
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {}", self.field, self.expected)
    }
}

impl Error for ConfigError {}
