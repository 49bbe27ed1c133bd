//! What goes wrong, in order.

use std::time::Duration;

use backstop_testkit::model::{Model, Refusal, Reply};

/// When healthy models begin to answer: quick for a model, slow beside what the gateway adds.
const FIRST_TOKEN: Duration = Duration::from_millis(40);

/// Between two tokens: a hundred tokens per second.
const GAP: Duration = Duration::from_millis(10);

/// The limits of the demonstration's configuration. Short, so that it ends soon; in life a model
/// has longer to think.
pub(super) const LIMIT: &str = "500ms";

/// What the primary does for a while.
pub(super) struct Act {
    /// A short name, for the summary.
    pub(super) name: &'static str,
    /// What a person is told.
    pub(super) title: &'static str,
    /// What the first attempt meets.
    pub(super) meets: &'static str,
    pub(super) reply: Reply,
}

/// A healthy answer at a pace that can be watched.
pub(super) fn healthy() -> Reply {
    Reply::healthy()
        .first_token_after(FIRST_TOKEN)
        .token_gap(GAP)
}

/// The acts.
pub(super) fn acts() -> [Act; 8] {
    let act = |name, title, meets, reply| Act {
        name,
        title,
        meets,
        reply,
    };
    [
        act("healthy", "The primary is healthy", "", healthy()),
        act(
            "429",
            "The primary is rate-limited: 429, Retry-After: 2",
            "429",
            Reply::status(429).header("retry-after", "2"),
        ),
        act(
            "529",
            "The primary is overloaded: 529",
            "529",
            Reply::status(529),
        ),
        act(
            "hang",
            "The primary takes the request and says nothing",
            "silence",
            Reply::hang(),
        ),
        act(
            "slow",
            "The primary's first token takes 30 s",
            "no token",
            Reply::healthy().first_token_after(Duration::from_secs(30)),
        ),
        act(
            "error",
            "The primary answers 200, then an error in place of the first token",
            "error in 200",
            Reply::healthy().error_after(0, Refusal::ServerError),
        ),
        act(
            "reset",
            "The primary resets the connection",
            "reset",
            Reply::reset(),
        ),
        act("recovered", "The primary is healthy again", "", healthy()),
    ]
}

/// The configuration that the gateway of the demonstration runs on.
pub(super) fn config(primary: &Model, backup: &Model) -> String {
    format!(
        r#"
drain = "1s"

[target.primary]
dialect = "openai"
base_url = "{}"
model = "large-model"
timeout = {{ connect = "{LIMIT}", headers = "{LIMIT}", first_token = "{LIMIT}", idle = "{LIMIT}" }}

[target.backup]
dialect = "openai"
base_url = "{}"
model = "small-model"

[[model]]
name = "chat"
targets = ["primary", "backup"]
deadline = "10s"
"#,
        primary.base_url(),
        backup.base_url()
    )
}
