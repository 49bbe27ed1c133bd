//! The layers: per model a failover over its targets, around one HTTP client.

use std::{collections::HashMap, convert::Infallible, sync::Arc};

use axum::body::Body;
use backstop_core::{BoxError, RetargetLayer, body::Replayable};
use backstop_failover::{Failover, FailoverHandle};
use backstop_rate_limit::{RateLimitHandle, RateLimitLayer};
use backstop_timeout::{Limits, TimeoutLayer};
use backstop_wire::{
    ClassifyHttp, Dialect,
    answer::AnswerLayer,
    request::RequestModel,
    retarget::{Credential, HttpTarget},
};
use http::{Request, Response};
use secrecy::{ExposeSecret as _, SecretString};
use tower::{ServiceBuilder, ServiceExt as _, util::BoxCloneSyncService};

use crate::{
    body::Rest,
    client::Tls,
    config::{self, Config},
};

/// What answers for one model. It never fails: errors are answers in the caller's dialect.
pub(crate) type Stack = BoxCloneSyncService<Request<Replayable<Rest>>, Response<Body>, Infallible>;

/// The stacks of all models, in their order, and what is known of the targets.
#[derive(Debug)]
pub(crate) struct Stacks {
    pub(crate) models: Vec<Stack>,
    /// The failover of each model.
    pub(crate) failovers: Vec<FailoverHandle>,
    /// The limits that are remembered, by target.
    pub(crate) limits: Vec<RateLimitHandle>,
}

/// The keys of the targets, by target.
pub(crate) type Keys = HashMap<Arc<str>, SecretString>;

/// Looks up the keys that the configuration names.
///
/// # Errors
///
/// Names every variable that is not set.
pub(crate) fn keys(
    config: &Config,
    lookup: impl Fn(&str) -> Option<String>,
) -> Result<Keys, BoxError> {
    let mut keys = Keys::new();
    let mut missing = Vec::new();
    for (name, target) in &config.targets {
        let Some(key) = &target.api_key else {
            continue;
        };
        // A line break at the end is easily caught with a key, and never part of it.
        match lookup(&key.env).map(|value| value.trim().to_owned()) {
            Some(value) if !value.is_empty() => {
                keys.insert(Arc::clone(name), value.into());
            }
            _ => missing.push(format!(
                "target.{name}.api_key_env: the environment variable {} is not set",
                key.env
            )),
        }
    }
    if missing.is_empty() {
        return Ok(keys);
    }
    Err(missing.join("\n").into())
}

/// Builds the stacks of all models. Models that share a target share its connections, and what is
/// remembered of its limits.
///
/// # Errors
///
/// When a key cannot be sent in a header, or TLS cannot work.
pub(crate) fn build(config: &Config, keys: &Keys) -> Result<Stacks, BoxError> {
    let is_tls = |target: &config::Target| target.base_url.scheme_str() == Some("https");
    let tls = Tls::load(config.targets.values().any(is_tls))?;
    let mut targets = HashMap::new();
    let mut limits = Vec::new();
    for (name, target) in &config.targets {
        let classify = ClassifyHttp::new(target.dialect).provider(target.provider);
        let rate_limit = RateLimitLayer::new(Arc::clone(name), classify);
        limits.push(rate_limit.handle());
        let timeout = TimeoutLayer::new(time_limits(&target.timeout))?
            .target(&**name)
            .classify(classify);
        let service = ServiceBuilder::new()
            .layer(RetargetLayer::new(retarget(name, target, keys.get(name))?))
            .layer(rate_limit)
            .layer(timeout)
            .service(tls.client(target.timeout.connect)?);
        let mut named = backstop_failover::Target::new(Arc::clone(name), service);
        if let Some(tokens) = target.context_window {
            named = named.context_window(tokens);
        }
        targets.insert(name, named);
    }
    let mut failovers = Vec::new();
    let model = |model: &config::Model| {
        let targets = model
            .targets
            .iter()
            .filter_map(|name| targets.get(name).cloned())
            .collect();
        let failover = Failover::builder(ClassifyHttp::new(model.dialect))
            .deadline(model.deadline)
            .replay_limit(config.replay_limit)
            .carry_extension::<RequestModel>()
            .build(targets)?;
        failovers.push(failover.handle());
        let answering = ServiceBuilder::new()
            .layer(AnswerLayer::new(model.dialect))
            .service(failover)
            .map_response(|response| response.map(Body::new));
        Ok(BoxCloneSyncService::new(answering))
    };
    let models = config.models.iter().map(model);
    let models = models.collect::<Result<_, BoxError>>()?;
    Ok(Stacks {
        models,
        failovers,
        limits,
    })
}

fn time_limits(timeouts: &config::Timeouts) -> Limits {
    Limits::default()
        .headers(timeouts.headers)
        .first_token(timeouts.first_token)
        .idle(timeouts.idle)
}

fn retarget(
    name: &Arc<str>,
    target: &config::Target,
    key: Option<&SecretString>,
) -> Result<HttpTarget, BoxError> {
    let mut to = HttpTarget::new(Arc::clone(name), target.dialect, target.base_url.clone())?
        .model(&target.model);
    for header in &target.forward_headers {
        to = to.forward(header.clone())?;
    }
    if let (Some(declared), Some(key)) = (&target.api_key, key) {
        let key = key.expose_secret();
        let credential = match (&declared.header, target.dialect) {
            (Some(header), _) => Credential::header(header.clone(), key),
            (None, Dialect::Anthropic) => Credential::x_api_key(key),
            (None, _) => Credential::bearer(key),
        };
        // The error does not say what the key is.
        let credential = credential.map_err(|_| {
            format!(
                "target.{name}.api_key_env: the value of {} holds what a header cannot carry",
                declared.env
            )
        })?;
        to = to.credential(credential);
    }
    Ok(to)
}
