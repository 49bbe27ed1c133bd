use std::{fmt, sync::Arc};

/// A service that may answer, and what is declared of it.
///
/// The service is cloned for every attempt, so its clones should be cheap; everything that must
/// change in a request for this target (model name, address, credential) is done by layers on the
/// service.
#[derive(Clone)]
pub struct Target<S> {
    pub(crate) service: S,
    pub(crate) about: About,
}

/// What is declared of a target.
#[derive(Clone, Debug)]
pub(crate) struct About {
    pub(crate) name: Arc<str>,
    pub(crate) context_window: Option<u64>,
    pub(crate) takes_refused_content: bool,
}

// === impl Target ===

impl<S> Target<S> {
    /// A target that is called `name` in traces, headers and events.
    pub fn new(name: impl Into<Arc<str>>, service: S) -> Self {
        Self {
            service,
            about: About {
                name: name.into(),
                context_window: None,
                takes_refused_content: false,
            },
        }
    }

    /// Declares how many tokens the model's context window holds.
    ///
    /// A request that another target refused because it did not fit its window is only offered to
    /// targets that declare a larger one. A window that is not declared counts as smaller than any
    /// that is.
    #[must_use]
    pub fn context_window(mut self, tokens: u64) -> Self {
        self.about.context_window = Some(tokens);
        self
    }

    /// Offers this target the requests whose content another one refused. Off by default: showing
    /// a refused prompt to other providers is a decision for the operator.
    #[must_use]
    pub fn take_refused_content(mut self) -> Self {
        self.about.takes_refused_content = true;
        self
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.about.name
    }

    /// The service.
    pub const fn get_ref(&self) -> &S {
        &self.service
    }

    /// Changes the service and keeps what is declared.
    pub fn map<T>(self, map: impl FnOnce(S) -> T) -> Target<T> {
        Target {
            service: map(self.service),
            about: self.about,
        }
    }
}

impl<S> fmt::Debug for Target<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The service may hold a credential.
        f.debug_struct("Target")
            .field("about", &self.about)
            .finish_non_exhaustive()
    }
}
