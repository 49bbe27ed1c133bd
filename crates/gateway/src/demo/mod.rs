//! The demonstration: a failing primary, a backup, the gateway between them and a client, all in
//! this process and on loopback ports.

mod client;
mod script;
mod tally;
mod view;

use std::{net::Ipv4Addr, process::ExitCode, sync::Arc, time::Duration};

use backstop_core::BoxError;
use backstop_testkit::model::Model;
use clap::Args;
use tokio::{net::TcpListener, sync::Notify, time::Instant};

use self::{
    client::{Client, MODES},
    script::Act,
    tally::{Tally, Told},
    view::View,
};
use crate::{
    config::Config,
    routes::{self, Gateway},
    server,
    stack::Secrets,
};

/// The options of the demonstration.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Options {
    /// Start over until ctrl-c is pressed.
    #[arg(long)]
    forever: bool,
}

/// How often each act is asked in each mode.
const ROUNDS: u32 = 3;

/// Runs the demonstration. The exit code says whether every request was answered.
pub(crate) fn run(options: Options) -> ExitCode {
    let view = View::stdout();
    let done = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(BoxError::from)
        .and_then(|runtime| runtime.block_on(play(options, &view)));
    match done {
        Ok(total) if total.failed == 0 => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            view.trouble(&*error);
            ExitCode::FAILURE
        }
    }
}

async fn play(options: Options, view: &View) -> Result<Tally, BoxError> {
    let started = Instant::now();
    let primary = Model::start("primary").await?;
    let backup = Model::start("backup").await?;
    backup.always(script::healthy());

    let config = Config::parse(&script::config(&primary, &backup))?;
    let gateway = Arc::new(Gateway::new(&config, &Secrets::default())?);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let stop = Notify::new();
    let serving = server::serve(
        listener,
        routes::router(Arc::clone(&gateway)),
        config.max_connections,
        async || stop.notified().await,
        config.drain,
    );

    view.opening(&primary.base_url(), &backup.base_url(), &address);
    let mut stage = Stage {
        client: Client::new(address),
        usual: Client::new(backup.addr()).usual_times().await?,
        primary,
        backup,
        gateway,
        view,
        acts: script::acts().map(|act| (act, Tally::default())).into(),
    };
    let mut signals = server::Signals::listen();
    let playing = async {
        tokio::select! {
            () = stage.play(options) => {}
            () = signals.next() => view.interrupted(),
        }
        // The gateway then waits for the client's connections to end.
        drop(std::mem::replace(&mut stage.client, Client::new(address)));
        stop.notify_one();
    };
    tokio::join!(serving, playing);
    let total = stage.total();
    view.summary(
        &stage.acts,
        &total,
        Instant::now().saturating_duration_since(started),
    );
    Ok(total)
}

/// Everybody who takes part.
struct Stage<'v> {
    primary: Model,
    backup: Model,
    gateway: Arc<Gateway>,
    client: Client,
    /// How long a model takes that is asked directly, streamed and whole.
    usual: [Duration; 2],
    view: &'v View,
    acts: Vec<(Act, Tally)>,
}

impl Stage<'_> {
    async fn play(&mut self, options: Options) {
        loop {
            for index in 0..self.acts.len() {
                self.perform(index).await;
            }
            if !options.forever {
                return;
            }
        }
    }

    async fn perform(&mut self, index: usize) {
        let (act, tally) = &mut self.acts[index];
        self.view.act(act);
        // Each act begins with a gateway that has heard nothing, or the primary would be left alone
        // for what it did in the one before.
        self.gateway.forget();
        self.primary.always(act.reply.clone());
        for _ in 0..ROUNDS {
            for (mode, usual) in MODES.into_iter().zip(self.usual) {
                let before = self.primary.log().len();
                let answer = self.client.ask(mode).await;
                let was_asked = self.primary.log().len() > before;
                let (primary, backup) = (self.primary.text(), self.backup.text());
                let told = Told::of(answer, primary, backup, usual);
                tally.add(&told);
                self.view.request(act, mode, was_asked, &told);
            }
        }
        // What it was asked is of no use any more, and a demonstration may run for days.
        self.primary.log().clear();
        self.backup.log().clear();
    }

    fn total(&self) -> Tally {
        let mut total = Tally::default();
        for (_, tally) in &self.acts {
            total.merge(tally);
        }
        total
    }
}
