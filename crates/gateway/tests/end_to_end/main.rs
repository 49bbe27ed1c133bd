//! The main job, end to end: official SDKs ask the `backstop` binary, scripted models fail, and
//! their own logs say what they were asked.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod cached;
mod leaving;
mod sdk;
mod support;

use backstop_testkit::model::Model;

use support::{Api, Gateway, Target};

/// Two models and the gateway in front of them.
struct Pair {
    primary: Model,
    backup: Model,
    gateway: Gateway,
}

impl Pair {
    async fn start(api: Api) -> Self {
        let primary = Model::start("primary").await.unwrap();
        let backup = Model::start("backup").await.unwrap();
        let targets = [
            Target::new("primary", &primary),
            Target::new("backup", &backup),
        ];
        let gateway = Gateway::start(api, &targets).await;
        Self {
            primary,
            backup,
            gateway,
        }
    }

    /// How many requests the primary and the backup have seen.
    fn asked(&self) -> (usize, usize) {
        (self.primary.log().len(), self.backup.log().len())
    }
}
