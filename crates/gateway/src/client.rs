//! The HTTP client that asks the targets.

use std::{error::Error as _, iter::successors, sync::Arc, time::Duration};

use axum::body::Body;
use backstop_core::{BoxError, body::Replayable};
use backstop_timeout::{ConfigError, ConnectTimeout, ConnectTimeoutLayer};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client as HyperClient, Error, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tower::Layer as _;

/// What a target is sent: the caller's body, as failover keeps it.
pub(crate) type SentBody = Replayable<Body>;

/// A client that follows no redirects and keeps its connections.
pub(crate) type Client = HyperClient<ConnectTimeout<HttpsConnector<HttpConnector>>, SentBody>;

/// How long an unused connection is kept: less than the least that is seen at providers' edges
/// (AWS load balancers: 60 s), so that it is not closed while a request is on its way.
const IDLE: Duration = Duration::from_secs(50);

/// How often a connection is probed, so that one that a firewall forgot is noticed: HTTP/2 while
/// requests are under way on it, TCP while nothing else is sent.
const PING: Duration = Duration::from_secs(20);

/// Says in the log why no connection to `target` was made. The outcome cannot: a host that does not
/// exist, a certificate that nobody trusts and a port where nobody listens are all one to the caller.
pub(crate) fn noting(target: Arc<str>) -> impl Fn(Error) -> Error + Clone {
    move |error| {
        if error.is_connect() {
            let causes = successors(error.source(), |cause| (*cause).source());
            let why: Vec<_> = causes.map(ToString::to_string).collect();
            tracing::warn!(%target, why = why.join(": "), "no connection");
        }
        error
    }
}

/// What TLS connections trust: the platform's certificates.
#[derive(Clone, Debug)]
pub(crate) struct Tls(ClientConfig);

impl Tls {
    /// Loads the platform's certificates. Without any, connections by TLS would all fail: that is
    /// an error only if there are to be some.
    pub(crate) fn load(is_needed: bool) -> Result<Self, BoxError> {
        let builder = || {
            ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_safe_default_protocol_versions()
        };
        let config = match builder()?.try_with_platform_verifier() {
            Ok(builder) => builder.with_no_client_auth(),
            Err(error) if is_needed => {
                return Err(format!("no certificates to trust: {error}").into());
            }
            Err(_) => builder()?
                .with_root_certificates(RootCertStore::empty())
                .with_no_client_auth(),
        };
        Ok(Self(config))
    }

    /// A client whose connections are made within `connect`, TLS included.
    ///
    /// # Errors
    ///
    /// When the limit cannot be meant.
    pub(crate) fn client(&self, connect: Duration) -> Result<Client, ConfigError> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        // Without it the second of two small writes waits for the reader's acknowledgement.
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(PING));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(self.0.clone())
            .https_or_http()
            .enable_http1()
            .enable_http2()
            .wrap_connector(tcp);
        Ok(HyperClient::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .http2_keep_alive_interval(PING)
            .build(ConnectTimeoutLayer::new(connect)?.layer(connector)))
    }
}
