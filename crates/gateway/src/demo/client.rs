//! A caller: asks for a chat answer, streamed or whole, and reads it as an SDK would.

use std::{net::SocketAddr, time::Duration};

use backstop_core::{BoxError, ClassifyStream as _, End};
use backstop_wire::{ClassifyHttp, Dialect};
use bytes::Bytes;
use http::{HeaderMap, Request, header::CONTENT_TYPE};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{
    client::legacy::{Client as HyperClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;
use tokio::time::{Instant, timeout};

/// A request is given up, and has failed, after this time.
const PATIENCE: Duration = Duration::from_secs(15);

/// How an answer is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Streamed,
    Whole,
}

/// Both ways of asking.
pub(super) const MODES: [Mode; 2] = [Mode::Streamed, Mode::Whole];

/// A whole answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) text: String,
    /// Who answered, as the header says.
    pub(super) served_by: String,
    /// From sending to the first token; of an answer that is not streamed, to its end.
    pub(super) begun: Duration,
}

pub(super) struct Client {
    http: HyperClient<HttpConnector, Full<Bytes>>,
    gateway: SocketAddr,
}

impl Client {
    pub(super) fn new(gateway: SocketAddr) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        Self {
            http: HyperClient::builder(TokioExecutor::new()).build(tcp),
            gateway,
        }
    }

    /// Asks once. An error says what was wrong with the answer.
    pub(super) async fn ask(&self, mode: Mode) -> Result<Answer, BoxError> {
        timeout(PATIENCE, self.exchange(mode))
            .await
            .map_err(|_| "no whole answer in time")?
    }

    /// How long it usually takes until an answer begins, streamed and whole: the middle of five.
    pub(super) async fn usual_times(&self) -> Result<[Duration; 2], BoxError> {
        let mut usual = [Duration::ZERO; 2];
        for (mode, usual) in MODES.into_iter().zip(&mut usual) {
            let mut times = Vec::new();
            for _ in 0..5 {
                times.push(self.ask(mode).await?.begun);
            }
            times.sort_unstable();
            *usual = times[2];
        }
        Ok(usual)
    }

    async fn exchange(&self, mode: Mode) -> Result<Answer, BoxError> {
        let started = Instant::now();
        let request = Request::post(format!("http://{}/v1/chat/completions", self.gateway))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(mode.body()))?;
        let (head, mut body) = self.http.request(request).await?.into_parts();
        let mut reader = ClassifyHttp::new(Dialect::OpenAiChat).reader(head.status, &head.headers);
        let mut begun = None;
        let mut read = Vec::new();
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                if reader.on_data(&data).commits() {
                    begun.get_or_insert_with(Instant::now);
                }
                read.extend_from_slice(&data);
            }
        }
        let outcome = reader.on_end(End::Clean(None));
        if !outcome.is_success() {
            return Err(format!("{} {outcome}", head.status.as_u16()).into());
        }
        Ok(Answer {
            text: mode.text(&read)?,
            served_by: text_of(&head.headers, "x-backstop-served-by").to_owned(),
            begun: begun
                .unwrap_or_else(Instant::now)
                .saturating_duration_since(started),
        })
    }
}

fn text_of<'h>(headers: &'h HeaderMap, name: &str) -> &'h str {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

impl Mode {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Streamed => "streamed",
            Self::Whole => "whole",
        }
    }

    const fn body(self) -> &'static str {
        match self {
            Self::Streamed => {
                r#"{"model":"chat","stream":true,"messages":[{"role":"user","content":"Hello?"}]}"#
            }
            Self::Whole => r#"{"model":"chat","messages":[{"role":"user","content":"Hello?"}]}"#,
        }
    }

    /// The answer's text.
    fn text(self, read: &[u8]) -> Result<String, BoxError> {
        match self {
            Self::Whole => {
                let answer: Value = serde_json::from_slice(read)?;
                let text = answer["choices"][0]["message"]["content"].as_str();
                Ok(text.ok_or("an answer without a text")?.to_owned())
            }
            Self::Streamed => {
                let mut text = String::new();
                for line in std::str::from_utf8(read)?.lines() {
                    let Some(data) = line.strip_prefix("data: ") else {
                        continue;
                    };
                    if data == "[DONE]" {
                        return Ok(text);
                    }
                    let chunk: Value = serde_json::from_str(data)?;
                    text += chunk["choices"][0]["delta"]["content"]
                        .as_str()
                        .unwrap_or_default();
                }
                Err("a stream without its end".into())
            }
        }
    }
}
