//! The gateway as a process, and the SDKs in another.

use std::{collections::HashMap, fmt::Write as _, path::PathBuf, process::Stdio, time::Duration};

use backstop_testkit::model::{Ended, Exchange, Model};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

/// Longer than any step of a test takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The limits of time of every target: enough on a busy machine, little enough to wait for.
const LIMIT: Duration = Duration::from_millis(500);

/// With what is easily changed on the way.
const PROMPT: &str = "a prompt with \"quotes\" and Umläute";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Api {
    OpenAi,
    Anthropic,
}

pub(crate) const APIS: [Api; 2] = [Api::OpenAi, Api::Anthropic];

/// A running `backstop serve`. Dropped, it is killed.
pub(crate) struct Gateway {
    pub(crate) addr: String,
    pid: u32,
    _process: Child,
    _config: tempfile::TempDir,
}

/// What a configuration says of one target.
pub(crate) struct Target<'a> {
    pub(crate) name: &'a str,
    pub(crate) base_url: String,
}

/// A process with the official SDKs.
pub(crate) struct Sdk {
    questions: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    _process: Child,
}

/// What an SDK's user sees.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct Answer {
    pub(crate) text: String,
    pub(crate) status: Option<u16>,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) finished: bool,
    pub(crate) error: Option<SdkError>,
}

#[derive(Debug, serde::Deserialize)]
pub(crate) struct SdkError {
    pub(crate) sdk: String,
    pub(crate) status: Option<u16>,
    pub(crate) body: Option<String>,
    pub(crate) headers: HashMap<String, String>,
}

// === impl Api ===

impl Api {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Anthropic => "anthropic",
        }
    }

    pub(crate) const fn path(self) -> &'static str {
        match self {
            Self::OpenAi => "/v1/chat/completions",
            Self::Anthropic => "/v1/messages",
        }
    }
}

// === impl Target ===

impl<'a> Target<'a> {
    pub(crate) fn new(name: &'a str, model: &Model) -> Self {
        Self {
            name,
            base_url: model.base_url(),
        }
    }
}

// === impl Gateway ===

impl Gateway {
    /// Serves the model `chat` by these targets in turn, each asked for the model `model-of-NAME`
    /// with the key `sk-of-NAME`.
    pub(crate) async fn start(api: Api, targets: &[Target<'_>]) -> Self {
        Self::start_with(api, targets, "", &[]).await
    }

    /// The same with more in the configuration, after the table of the model, and in the
    /// environment.
    pub(crate) async fn start_with(
        api: Api,
        targets: &[Target<'_>],
        more: &str,
        environment: &[(&str, &str)],
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("backstop.toml");
        std::fs::write(&file, configuration(api, targets) + more).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_backstop"));
        command.args(["serve", "--config"]).arg(&file);
        command.envs(environment.iter().copied());
        command.env("RUST_LOG", "info").kill_on_drop(true);
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        for Target { name, .. } in targets {
            command.env(format!("KEY_OF_{name}"), format!("sk-of-{name}"));
        }
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let starting = async {
            let mut logs = String::new();
            while let Some(line) = lines.next_line().await.unwrap() {
                logs.push_str(&line);
                if let Some((_, rest)) = line.split_once("address=") {
                    return rest.split_whitespace().next().unwrap().to_owned();
                }
            }
            panic!("the gateway did not start: {logs}");
        };
        let addr = timeout(PATIENCE, starting).await.unwrap();
        #[expect(
            clippy::disallowed_methods,
            reason = "reads until the process ends, which is killed with the gateway"
        )]
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self {
            addr,
            pid: process.id().unwrap(),
            _process: process,
            _config: dir,
        }
    }

    /// How many sockets the process has open.
    pub(crate) fn sockets(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid))
            .unwrap()
            .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
            .filter(|target| target.to_string_lossy().starts_with("socket:"))
            .count()
    }
}

fn configuration(api: Api, targets: &[Target<'_>]) -> String {
    let dialect = api.as_str();
    let limit = format!("\"{}ms\"", LIMIT.as_millis());
    let mut config = "listen = \"127.0.0.1:0\"\n".to_owned();
    for Target { name, base_url } in targets {
        write!(
            config,
            r#"
[target.{name}]
dialect = "{dialect}"
base_url = "{base_url}"
model = "model-of-{name}"
api_key_env = "KEY_OF_{name}"
timeout = {{ connect = {limit}, headers = {limit}, first_token = {limit}, idle = {limit} }}
"#
        )
        .unwrap();
    }
    let names: Vec<_> = targets.iter().map(|target| target.name).collect();
    write!(
        config,
        r#"
[[model]]
name = "chat"
targets = {names:?}
deadline = "10s"
"#
    )
    .unwrap();
    config
}

// === impl Sdk ===

/// A question, to be changed before it is asked.
pub(crate) fn question(api: Api, gateway: &Gateway, stream: bool) -> Value {
    json!({
        "api": api.as_str(),
        "base_url": format!("http://{}/v1", gateway.addr),
        "model": "chat",
        "prompt": PROMPT,
        "stream": stream,
        "retries": 0,
    })
}

impl Sdk {
    pub(crate) fn start() -> Self {
        Self::run("ask.py")
    }

    /// Runs a script of this folder that answers a line of JSON with another.
    pub(crate) fn run(script: &str) -> Self {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/end_to_end");
        let mut command = Command::new(python());
        command.arg(format!("{folder}/{script}")).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        Self {
            questions: process.stdin.take().unwrap(),
            answers: BufReader::new(process.stdout.take().unwrap()).lines(),
            _process: process,
        }
    }

    pub(crate) async fn ask(&mut self, question: &Value) -> Answer {
        serde_json::from_value(self.tell(question).await).unwrap()
    }

    /// Sends a line of JSON and reads one.
    pub(crate) async fn tell(&mut self, question: &Value) -> Value {
        let line = format!("{question}\n");
        self.questions.write_all(line.as_bytes()).await.unwrap();
        let answer = timeout(PATIENCE, self.answers.next_line()).await;
        let answer = answer.expect("the SDK answers in time").unwrap();
        serde_json::from_str(&answer.expect("the SDKs can be imported")).unwrap()
    }
}

/// The interpreter that has the SDKs: the one that `scripts/test` names, or installed before.
fn python() -> PathBuf {
    if let Some(python) = std::env::var_os("BACKSTOP_PYTHON") {
        return python.into();
    }
    let named = std::env::var_os("BACKSTOP_CACHE").map(PathBuf::from);
    let home = std::env::home_dir().map(|home| home.join(".cache/backstop"));
    [named, Some("/var/cache/backstop".into()), home]
        .into_iter()
        .flatten()
        .filter_map(|place| std::fs::read_dir(place).ok())
        .flatten()
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.join("complete").exists())
        .expect("the SDKs are installed: run scripts/test once")
        .join("bin/python")
}

// === the models' logs ===

/// Waits until every exchange of a model has ended, and returns them.
pub(crate) async fn ended(model: &Model) -> Vec<Exchange> {
    let all = |log: &[Exchange]| log.iter().all(|exchange| exchange.ended.is_some());
    let log = timeout(PATIENCE, model.log().wait_for(all)).await;
    log.expect("every exchange ends")
}

/// Waits until the client of the model's only exchange has gone.
pub(crate) async fn gone(model: &Model) -> Exchange {
    let gone = |log: &[Exchange]| log.len() == 1 && log[0].is(Ended::ClientGone);
    let log = timeout(PATIENCE, model.log().wait_for(gone)).await;
    log.expect("the connection is closed").remove(0)
}
