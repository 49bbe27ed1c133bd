//! The bodies and the freezing of requests.

use std::{hint::black_box, process::ExitCode};

use backstop_benches::{Case, block_on, main_with};
use backstop_core::{
    CarryExtensions, ClassifyStream, End, Frozen, Http, Outcome, Progress, Replay, Step,
    body::{Watched, peek},
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};

/// Commits at once and ends well.
struct Commits;

impl ClassifyStream for Commits {
    fn on_data(&mut self, _: &[u8]) -> Step {
        Step::progress(Progress::Token)
    }

    fn on_end(&mut self, _: End<'_>) -> Outcome {
        Outcome::success()
    }
}

const DATA: Bytes = Bytes::from_static(&[b'x'; 200]);

fn bare_body(iterations: u64) {
    block_on(async {
        for _ in 0..iterations {
            let mut body = Full::new(DATA);
            while let Some(frame) = body.frame().await {
                let _ = black_box(frame);
            }
        }
    });
}

fn watched(iterations: u64) {
    block_on(async {
        for _ in 0..iterations {
            let mut body = std::pin::pin!(Watched::new(Full::new(DATA), Commits, |_: &Outcome| {}));
            while let Some(frame) = body.frame().await {
                let _ = black_box(frame);
            }
        }
    });
}

fn peeked(iterations: u64) {
    block_on(async {
        for _ in 0..iterations {
            let _ = black_box(peek(Full::new(DATA), Commits, 1024).await);
        }
    });
}

fn request() -> http::Request<Full<Bytes>> {
    let mut request = http::Request::new(Full::new(DATA));
    let headers = request.headers_mut();
    headers.insert(
        "content-type",
        http::HeaderValue::from_static("application/json"),
    );
    headers.insert("accept", http::HeaderValue::from_static("*/*"));
    request
}

fn request_alone(iterations: u64) {
    for _ in 0..iterations {
        black_box(request());
    }
}

fn freeze_and_thaw(iterations: u64) {
    block_on(async {
        let carry = CarryExtensions::default();
        for _ in 0..iterations {
            let frozen = Http::freeze(request(), 1024, &carry).await;
            if let Ok(Frozen::Replayable(frozen)) = frozen {
                black_box(<Http as Replay<http::Request<Full<Bytes>>>>::thaw(&frozen));
            }
        }
    });
}

fn main() -> ExitCode {
    main_with(
        "core: bodies and replay",
        &[
            Case {
                name: "body, bare",
                run: bare_body,
            },
            Case {
                name: "body, watched",
                run: watched,
            },
            Case {
                name: "body, peeked until it commits",
                run: peeked,
            },
            Case {
                name: "request alone",
                run: request_alone,
            },
            Case {
                name: "request, frozen and thawed once",
                run: freeze_and_thaw,
            },
        ],
    )
}
