use std::{net::SocketAddr, process::Stdio, time::Duration};

use backstop_core::{ClassifyStream, End, Outcome};
use backstop_testkit::model::Model;
use backstop_wire::{ClassifyHttp, Dialect};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    sync::watch,
};

/// The program, serving.
pub(crate) struct Gateway {
    pub(crate) address: SocketAddr,
    child: Child,
    log: watch::Receiver<String>,
    _config: tempfile::TempDir,
}

/// The two ways of asking and the two dialects.
pub(crate) const KINDS: [Kind; 4] = [
    Kind::new(Dialect::OpenAiChat, true),
    Kind::new(Dialect::OpenAiChat, false),
    Kind::new(Dialect::Anthropic, true),
    Kind::new(Dialect::Anthropic, false),
];

/// How a question is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) dialect: Dialect,
    pub(crate) streamed: bool,
}

/// A response that was read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Whether the body ended in an error: the connection broke off.
    pub(crate) broke: bool,
    pub(crate) outcome: Outcome,
}

pub(crate) type Asking = Client<HttpConnector, BoxBody<Bytes, std::io::Error>>;

impl Gateway {
    /// Starts the program with a configuration, to listen on a free port.
    pub(crate) async fn start(config: &str) -> Self {
        Self::start_with(config, &[]).await
    }

    pub(crate) async fn start_with(config: &str, env: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("backstop.toml");
        std::fs::write(&file, format!("listen = \"127.0.0.1:0\"\n{config}")).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_backstop"))
            .arg("serve")
            .arg("--config")
            .arg(&file)
            .env_remove("RUST_LOG")
            .envs(env.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let (sender, mut log) = watch::channel(String::new());
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                sender.send_modify(|log| *log += &(line + "\n"));
            }
        });
        let started = log
            .wait_for(|log| log.contains("address="))
            .await
            .map(|log| log.clone());
        let started = started.expect("the gateway started");
        let address = started.split("address=").nth(1).unwrap();
        let address = address.split_whitespace().next().unwrap().parse().unwrap();
        Self {
            address,
            child,
            log,
            _config: folder,
        }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Waits until all that was logged holds `text`, and returns it.
    pub(crate) async fn logged(&mut self, text: &str) -> String {
        let found = self.log.wait_for(|log| log.contains(text)).await;
        found.expect("the process goes on").clone()
    }

    pub(crate) fn terminate(&self) {
        self.signal("-TERM");
    }

    pub(crate) fn signal(&self, signal: &str) {
        let id = self.child.id().unwrap();
        let killed = std::process::Command::new("kill")
            .args([signal, &id.to_string()])
            .status();
        assert!(killed.unwrap().success());
    }

    /// The exit code, once the process has ended.
    pub(crate) async fn exit(&mut self) -> Option<i32> {
        self.child.wait().await.unwrap().code()
    }

    /// Asks the model `chat` and reads the whole answer.
    pub(crate) async fn ask(&self, kind: Kind) -> Answer {
        self.send(kind, kind.question("chat")).await
    }

    pub(crate) async fn send(&self, kind: Kind, body: impl Into<Bytes>) -> Answer {
        let request = kind.request(self, body.into());
        read(kind, http1().request(request).await.unwrap()).await
    }
}

impl Kind {
    const fn new(dialect: Dialect, streamed: bool) -> Self {
        Self { dialect, streamed }
    }

    /// The same dialect, not streamed.
    pub(crate) const fn whole(self) -> Self {
        Self::new(self.dialect, false)
    }

    pub(crate) fn path(self) -> &'static str {
        match self.dialect {
            Dialect::Anthropic => "/v1/messages",
            _ => "/v1/chat/completions",
        }
    }

    pub(crate) fn word(self) -> &'static str {
        match self.dialect {
            Dialect::Anthropic => "anthropic",
            _ => "openai",
        }
    }

    pub(crate) fn question(self, model: &str) -> String {
        let mut body = json!({
            "model": model,
            "max_tokens": 100,
            "messages": [{"role": "user", "content": "Hello?"}],
        });
        if self.streamed {
            body["stream"] = true.into();
        }
        body.to_string()
    }

    pub(crate) fn request(
        self,
        gateway: &Gateway,
        body: Bytes,
    ) -> Request<BoxBody<Bytes, std::io::Error>> {
        Request::post(gateway.url(self.path()))
            .header("content-type", "application/json")
            .body(full(body))
            .unwrap()
    }
}

impl Answer {
    /// The text of a whole answer.
    pub(crate) fn text(&self, kind: Kind) -> String {
        assert!(!self.broke && self.outcome.is_success(), "{self:?}");
        let pointer = match (kind.dialect, kind.streamed) {
            (Dialect::Anthropic, false) => "/content/0/text",
            (Dialect::Anthropic, true) => "/delta/text",
            (_, false) => "/choices/0/message/content",
            (_, true) => "/choices/0/delta/content",
        };
        let text = |value: &Value| {
            let text = value.pointer(pointer).and_then(Value::as_str);
            text.unwrap_or_default().to_owned()
        };
        if !kind.streamed {
            return text(&self.json());
        }
        std::str::from_utf8(&self.body)
            .unwrap()
            .lines()
            .filter_map(|line| line.strip_prefix("data: "))
            .filter(|data| *data != "[DONE]")
            .map(|data| text(&serde_json::from_str(data).unwrap()))
            .collect()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    /// Who answered, how, and after how many attempts.
    pub(crate) fn served(&self) -> [&str; 3] {
        [
            "x-backstop-served-by",
            "x-backstop-mode",
            "x-backstop-attempts",
        ]
        .map(|name| self.header(name))
    }

    /// The error's type in the caller's dialect.
    pub(crate) fn error_type(&self) -> String {
        self.json()["error"]["type"].as_str().unwrap().to_owned()
    }
}

/// A configuration of one model `chat` over `primary` and `backup` at these addresses.
pub(crate) fn config(dialect: &str, primary: &str, backup: &str) -> String {
    format!(
        r#"
[target.primary]
dialect = "{dialect}"
base_url = "{primary}"
model = "large"
timeout = {{ connect = "500ms", headers = "500ms", first_token = "500ms", idle = "500ms" }}

[target.backup]
dialect = "{dialect}"
base_url = "{backup}"
model = "small"

[[model]]
name = "chat"
targets = ["primary", "backup"]
deadline = "10s"
"#
    )
}

/// A primary and a backup, and the program in front of them.
pub(crate) async fn trio(kind: Kind) -> (Model, Model, Gateway) {
    let primary = Model::start("primary").await.unwrap();
    let backup = Model::start("backup").await.unwrap();
    let config = config(kind.word(), &primary.base_url(), &backup.base_url());
    let gateway = Gateway::start(&config).await;
    (primary, backup, gateway)
}

pub(crate) fn http1() -> Asking {
    Client::builder(TokioExecutor::new()).build(connector())
}

/// HTTP/2 without TLS and without an upgrade.
pub(crate) fn http2() -> Asking {
    Client::builder(TokioExecutor::new())
        .http2_only(true)
        .build(connector())
}

fn connector() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    tcp
}

pub(crate) fn full(body: impl Into<Bytes>) -> BoxBody<Bytes, std::io::Error> {
    Full::new(body.into())
        .map_err(|never| match never {})
        .boxed()
}

/// Reads a response to its end, and judges it as an SDK would.
pub(crate) async fn read(kind: Kind, response: Response<Incoming>) -> Answer {
    let (head, mut body) = response.into_parts();
    let mut reader = ClassifyHttp::new(kind.dialect).reader(head.status, &head.headers);
    let mut read = Vec::new();
    let mut told = None;
    let ending = loop {
        match body.frame().await {
            None => break Ok(()),
            Some(Err(error)) => break Err(error),
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    told = told.or(reader.on_data(data).failed);
                    read.extend_from_slice(data);
                }
            }
        }
    };
    let outcome = match &ending {
        Ok(()) => reader.on_end(End::Clean(None)),
        Err(error) => reader.on_end(End::Error(error)),
    };
    Answer {
        status: head.status,
        headers: head.headers,
        body: read.into(),
        broke: ending.is_err(),
        outcome: told.unwrap_or(outcome),
    }
}

/// What a test waits for at most: far longer than anything takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
