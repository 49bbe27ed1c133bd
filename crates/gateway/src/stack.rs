//! The layers: per model a failover over its targets, around one HTTP client.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::body::Body;
use backstop_cache::{
    CacheConfig, CachedFallbackLayer, Entry, Key, KeySecret, MemoryStore, ProducedBy, ServeOn,
    SimplifiedAnswer, Store, Tenant,
};
use backstop_core::{
    BoxError, CarryExtensions, Classify, FrozenRequest, RetargetLayer, Trace, body::Replayable,
};
use backstop_failover::{
    Failover, FailoverHandle, Force, Judged,
    admission::Admission,
    budget::Budget,
    guards::Needs,
    health::Health,
    plan::{Affinity, LeastFirstToken, Ordered, Plan, Rendezvous, Sticky, Weighted},
};
use backstop_rate_limit::{RateLimitHandle, RateLimitLayer};
use backstop_redis::{ProbeLease, RedisLink, RedisStore, SharedHealth, SharedHealthTask};
use backstop_timeout::{Limits, TimeoutLayer};
use backstop_wire::{
    AnswerReader, ClassifyHttp, Dialect,
    answer::AnswerLayer,
    recorder::HttpRecorder,
    request::RequestFacts,
    retarget::{Credential, HttpTarget},
};
use http::{Request, Response};
use secrecy::{ExposeSecret as _, SecretString};
use tower::{Layer as _, ServiceBuilder, ServiceExt as _, service_fn, util::BoxCloneSyncService};

use crate::{
    client::{self, Tls},
    config::{self, Config, Order, StoreAt, TenantBy},
};

/// What answers for one model. It never fails: errors are answers in the caller's dialect.
pub(crate) type Stack = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// What may still fail, with bodies of one type, so that layers can be left out.
type Inner = BoxCloneSyncService<Request<Body>, Response<Body>, BoxError>;

/// The layers of one target.
type TargetService = BoxCloneSyncService<Request<Replayable<Body>>, Response<Body>, BoxError>;

type Target = backstop_failover::Target<TargetService>;

/// The stacks of all models, in their order, and what is known of the targets.
#[derive(Debug)]
pub(crate) struct Stacks {
    pub(crate) models: Vec<Stack>,
    /// The failover of each model.
    pub(crate) failovers: Vec<FailoverHandle>,
    /// The limits that are remembered, by target.
    pub(crate) limits: Vec<RateLimitHandle>,
    /// Tells other replicas of the targets' health as long as it lives.
    pub(crate) sharing: Option<SharedHealthTask>,
}

/// What environment variables hold, by their names.
#[derive(Debug, Default)]
pub(crate) struct Secrets(HashMap<String, SecretString>);

/// A store that the configuration chooses.
#[derive(Clone)]
enum AnyStore {
    Nowhere,
    Memory(MemoryStore),
    Redis(RedisStore),
}

/// What failover decided in a call, for the answer that stands in for its own: it rides in the request.
#[derive(Clone, Default)]
struct Decided(Arc<OnceLock<Trace>>);

/// What all models share.
struct Common {
    replay_limit: usize,
    store: Option<(config::Cache, AnyStore, KeySecret)>,
}

impl Secrets {
    /// Looks up the variables that the configuration names.
    ///
    /// # Errors
    ///
    /// Names every variable that is not set.
    pub(crate) fn look_up(
        config: &Config,
        lookup: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, BoxError> {
        let mut secrets = HashMap::new();
        let mut missing = Vec::new();
        for (key, env) in config.variables() {
            // A line break at the end is easily caught with a key, and never part of it.
            match lookup(env).map(|value| value.trim().to_owned()) {
                Some(value) if !value.is_empty() => {
                    secrets.insert(env.to_owned(), value.into());
                }
                _ => missing.push(format!("{key}: the environment variable {env} is not set")),
            }
        }
        if missing.is_empty() {
            return Ok(Self(secrets));
        }
        Err(missing.join("\n").into())
    }

    /// The value of a variable that was looked up.
    fn get(&self, env: &str) -> Result<&str, BoxError> {
        let secret = self.0.get(env).map(SecretString::expose_secret);
        secret.ok_or_else(|| format!("the environment variable {env} is not set").into())
    }
}

/// The links to Redis, one per address: what goes wrong with one is noticed, and said, once.
struct Links<'a> {
    secrets: &'a Secrets,
    open: HashMap<String, RedisLink>,
}

impl Links<'_> {
    fn get(&mut self, env: &str) -> Result<RedisLink, BoxError> {
        if let Some(link) = self.open.get(env) {
            return Ok(link.clone());
        }
        // The error does not say what the URL is.
        let link = RedisLink::open(self.secrets.get(env)?)
            .map_err(|_| format!("the value of {env} is not the URL of a Redis"))?;
        self.open.insert(env.to_owned(), link.clone());
        Ok(link)
    }
}

/// Builds the stacks of all models. Models that share a target share its connections, and what is
/// remembered of its limits and its health.
///
/// # Errors
///
/// When a key cannot be sent in a header, or TLS or a store cannot work.
///
/// # Panics
///
/// Outside of a tokio runtime, with Redis in the configuration.
pub(crate) fn build(config: &Config, secrets: &Secrets) -> Result<Stacks, BoxError> {
    let is_tls = |target: &config::Target| target.base_url.scheme_str() == Some("https");
    let tls = Tls::load(config.targets.values().any(is_tls))?;
    let mut links = Links {
        secrets,
        open: HashMap::new(),
    };
    let mut sharing = match &config.shared {
        Some(shared) => {
            let link = links.get(&shared.url_env)?;
            Some(SharedHealth::builder(link, &*shared.group))
        }
        None => None,
    };
    let mut targets = HashMap::new();
    let mut limits = Vec::new();
    for (name, target) in &config.targets {
        let lease = ProbeLease::new();
        let mut health = Health::builder(config.health);
        if sharing.is_some() {
            health = health.probe_gate(lease.clone());
        }
        let health = health.build()?;
        sharing = sharing.map(|sharing| sharing.target(Arc::clone(name), health.clone(), lease));
        let (service, limit) = service(name, target, secrets, &tls)?;
        limits.push(limit);
        targets.insert(name, declared(name, target, service, health)?);
    }
    let common = Common {
        replay_limit: config.replay_limit,
        store: store(config, secrets, &mut links)?,
    };
    let mut models = Vec::new();
    let mut failovers = Vec::new();
    for model in &config.models {
        let own = model
            .targets
            .iter()
            .filter_map(|name| targets.get(name).cloned());
        let (stack, failover) = stack(config, model, own.collect(), &common)?;
        models.push(stack);
        failovers.push(failover);
    }
    Ok(Stacks {
        models,
        failovers,
        limits,
        sharing: sharing.map(backstop_redis::SharedHealthBuilder::start),
    })
}

/// The layers of one target, and what is remembered of its limits.
fn service(
    name: &Arc<str>,
    target: &config::Target,
    secrets: &Secrets,
    tls: &Tls,
) -> Result<(TargetService, RateLimitHandle), BoxError> {
    let classify = ClassifyHttp::new(target.dialect).provider(target.provider);
    let rate_limit = RateLimitLayer::new(Arc::clone(name), classify);
    let limit = rate_limit.handle();
    let timeouts = Limits::default()
        .headers(target.timeout.headers)
        .first_token(target.timeout.first_token)
        .idle(target.timeout.idle);
    let timeout = TimeoutLayer::new(timeouts)?
        .target(&**name)
        .classify(classify);
    let service = ServiceBuilder::new()
        .layer(RetargetLayer::new(retarget(name, target, secrets)?))
        .layer(rate_limit)
        .layer(timeout)
        .map_err(client::noting(Arc::clone(name)))
        .service(tls.client(target.timeout.connect)?)
        .map_response(|response: Response<_>| response.map(Body::new));
    Ok((TargetService::new(service), limit))
}

/// A target with all that is declared of it.
fn declared(
    name: &Arc<str>,
    target: &config::Target,
    service: TargetService,
    health: Health,
) -> Result<Target, BoxError> {
    let mut declared = Target::new(Arc::clone(name), service)
        .guards(target.guards)
        .health(health)
        .least_time(target.least_time);
    if let Some((after, limits)) = target.cold {
        declared = declared.cold_after(after, limits);
    }
    if let Some(admission) = target.admission {
        declared = declared.admission(Admission::new(admission)?);
    }
    Ok(declared)
}

/// The layers around the targets of one model.
fn stack(
    config: &Config,
    model: &config::Model,
    targets: Vec<Target>,
    common: &Common,
) -> Result<(Stack, FailoverHandle), BoxError> {
    let classify = ClassifyHttp::new(model.dialect);
    let bad = model.bad_answers;
    let (mut inner, handle) = if bad.is_none() {
        failover(model, common.replay_limit, classify, targets)?
    } else {
        // It holds a copy of what it judges, so it is there only where it is asked for.
        let judge = move |reader: &AnswerReader, answer: &[u8]| bad.judge(reader, answer);
        let classify = Judged::new(classify, judge);
        failover(model, common.replay_limit, classify, targets)?
    };
    let stands_in = model.simplified.is_some() || (model.cache && common.store.is_some());
    if stands_in {
        inner = noting(inner);
    }
    if model.cache
        && let Some((cache, store, secret)) = &common.store
    {
        inner = cached(inner, config, model, (cache, store.clone(), secret.clone()))?;
    }
    if let Some(text) = &model.simplified {
        inner = simplified(inner, model, text, common.replay_limit)?;
    }
    if stands_in {
        inner = recalling(inner);
    }
    let answering = AnswerLayer::new(model.dialect)
        .layer(inner)
        .map_response(|response: Response<_>| response.map(Body::new));
    Ok((Stack::new(answering), handle))
}

/// The targets of a model behind one another, and their handle.
fn failover<C>(
    model: &config::Model,
    replay_limit: usize,
    classify: C,
    targets: Vec<Target>,
) -> Result<(Inner, FailoverHandle), BoxError>
where
    C: Classify<Request<Replayable<Body>>, Response<Body>> + Send + Sync + 'static,
{
    let (order, dwell) = (model.order.clone(), model.dwell);
    let mut builder = Failover::builder(classify)
        .deadline(model.deadline)
        .reserve(model.reserve)
        .replay_limit(replay_limit)
        .plan(move || plan(&order, dwell))
        .last_resort(model.last_resort)
        .budget(Budget::new(model.budget)?)
        .at_most_once(model.at_most_once)
        .carry_extension::<RequestFacts>()
        .carry_extension::<Needs>()
        .carry_extension::<Affinity>()
        .carry_extension::<Force>();
    if let Some(retry) = model.retry {
        builder = builder.retry(retry);
    }
    if let Some(hedge) = model.hedge {
        builder = builder.hedge(hedge);
    }
    if let Some(share) = model.exercise {
        builder = builder.exercise(share);
    }
    let failover = builder.build(targets)?;
    let handle = failover.handle();
    let inner = failover.map_response(|response: Response<_>| response.map(Body::new));
    Ok((Inner::new(inner), handle))
}

fn plan(
    order: &Order,
    dwell: Option<Duration>,
) -> Result<Box<dyn Plan>, backstop_failover::ConfigError> {
    let plan: Box<dyn Plan> = match order {
        Order::Ordered => Box::new(Ordered),
        Order::Weighted(weights) => Box::new(Weighted::new(weights.iter().copied())?),
        Order::LeastFirstToken => Box::new(LeastFirstToken::new()),
        Order::Rendezvous => Box::new(Rendezvous::default()),
    };
    match dwell {
        Some(dwell) => Ok(Box::new(Sticky::new(plan, dwell)?)),
        None => Ok(plan),
    }
}

/// Notes what failover decided, since an answer from elsewhere may take the place of its own.
fn noting(inner: Inner) -> Inner {
    Inner::new(service_fn(move |request: Request<Body>| {
        let decided = request.extensions().get::<Decided>().cloned();
        let answering = inner.clone().oneshot(request);
        async move {
            let answered = answering.await;
            let trace = match &answered {
                Ok(response) => Trace::of(response.extensions()),
                Err(error) => Trace::find(&**error),
            };
            if let (Some(Decided(noted)), Some(trace)) = (decided, trace) {
                // Nobody else asks in this call.
                let _ = noted.set(trace.clone());
            }
            answered
        }
    }))
}

/// Adds what failover decided to the answer that stands in for its own.
fn recalling(inner: Inner) -> Inner {
    Inner::new(service_fn(move |mut request: Request<Body>| {
        let decided = Decided::default();
        request.extensions_mut().insert(decided.clone());
        let answering = inner.clone().oneshot(request);
        async move {
            let mut response = answering.await?;
            let extensions = response.extensions_mut();
            if Trace::of(extensions).is_none()
                && let Some(trace) = decided.0.get()
            {
                extensions.insert(trace.clone());
            }
            Ok(response)
        }
    }))
}

/// Typed extensions that layers inside need.
fn carried() -> CarryExtensions {
    CarryExtensions::default()
        .with::<Decided>()
        .with::<RequestFacts>()
        .with::<Needs>()
        .with::<Affinity>()
        .with::<Force>()
}

/// Answers given before, when no model can answer.
fn cached(
    inner: Inner,
    config: &Config,
    model: &config::Model,
    (cache, store, secret): (&config::Cache, AnyStore, KeySecret),
) -> Result<Inner, BoxError> {
    let Some(mut recorder) = HttpRecorder::new(model.dialect) else {
        return Err("answers in this dialect cannot be kept".into());
    };
    if cache.tool_calls {
        recorder = recorder.allow_tool_calls();
    }
    let targets = || {
        model
            .targets
            .iter()
            .filter_map(|name| config.targets.get(name))
    };
    for header in targets().flat_map(|target| &target.forward_headers) {
        recorder = recorder.vary(header.clone());
    }
    let mut settings = CacheConfig::default();
    settings.stale_if_error = cache.stale_if_error;
    settings.fresh_for = cache.fresh_for;
    if cache.on_limits {
        settings.serve_on = ServeOn::rfc5861().and_limits();
    }
    settings.only_on_request = cache.only_on_request;
    settings.max_answer = cache.max_answer;
    settings.max_request = config.replay_limit;
    settings.coalesce = cache.coalesce;
    settings.carry = carried();
    let producers = model.targets.iter().filter_map(|name| {
        let target = config.targets.get(name)?;
        Some(ProducedBy::new(Arc::clone(name), &*target.model))
    });
    let by = cache.tenant.clone();
    let tenant = move |request: &FrozenRequest| match &by {
        TenantBy::Everyone => Some(Tenant::new(b"everyone")),
        TenantBy::Header(name) => {
            let mut values = request.parts().headers.get_all(name).iter();
            // Of two, who knows which one a proxy has looked at?
            match (values.next(), values.next()) {
                (Some(value), None) if !value.is_empty() => Some(Tenant::new(value.as_bytes())),
                _ => None,
            }
        }
    };
    let classify = ClassifyHttp::new(model.dialect);
    let layer = CachedFallbackLayer::new(
        settings, store, secret, producers, tenant, recorder, classify,
    )?;
    let inner = inner.map_request(|request: Request<_>| request.map(Body::new));
    let service = layer.layer(inner);
    Ok(Inner::new(service.map_response(|response: Response<_>| {
        response.map(Body::new)
    })))
}

/// The operator's text, when nobody else can answer. It is everybody's, so it needs no tenant.
fn simplified(
    inner: Inner,
    model: &config::Model,
    text: &config::Simplified,
    replay_limit: usize,
) -> Result<Inner, BoxError> {
    let Some(recorder) = HttpRecorder::new(model.dialect) else {
        return Err("a text cannot be given as an answer in this dialect".into());
    };
    let mut answer = SimplifiedAnswer::new(&*text.text);
    if text.is_error {
        answer = answer.as_error();
    }
    let mut settings = CacheConfig::default();
    settings.simplified = Some(answer);
    settings.serve_on = ServeOn::rfc5861().and_limits();
    settings.max_request = replay_limit;
    settings.carry = carried();
    let layer = CachedFallbackLayer::new(
        settings,
        AnyStore::Nowhere,
        KeySecret::random()?,
        [],
        |_: &FrozenRequest| Some(Tenant::new(b"everyone")),
        recorder,
        ClassifyHttp::new(model.dialect),
    )?;
    let inner = inner.map_request(|request: Request<_>| request.map(Body::new));
    let service = layer.layer(inner);
    Ok(Inner::new(service.map_response(|response: Response<_>| {
        response.map(Body::new)
    })))
}

fn store(
    config: &Config,
    secrets: &Secrets,
    links: &mut Links<'_>,
) -> Result<Option<(config::Cache, AnyStore, KeySecret)>, BoxError> {
    let Some(cache) = &config.cache else {
        return Ok(None);
    };
    let keep = cache.keep();
    let store = match &cache.store {
        StoreAt::Memory => AnyStore::Memory(MemoryStore::new(cache.max_bytes, keep)),
        StoreAt::Redis { url_env } => AnyStore::Redis(RedisStore::new(links.get(url_env)?, keep)),
    };
    let secret = match &cache.secret_env {
        Some(env) => KeySecret::from_passphrase(secrets.get(env)?),
        None => KeySecret::random()?,
    };
    Ok(Some((cache.clone(), store, secret)))
}

fn retarget(
    name: &Arc<str>,
    target: &config::Target,
    secrets: &Secrets,
) -> Result<HttpTarget, BoxError> {
    let mut to = HttpTarget::new(Arc::clone(name), target.dialect, target.base_url.clone())?
        .model(&target.model);
    for header in &target.forward_headers {
        to = to.forward(header.clone())?;
    }
    if let Some(declared) = &target.api_key {
        let key = secrets.get(&declared.env)?;
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

impl Store for AnyStore {
    async fn get(&self, key: &Key) -> Option<Entry> {
        match self {
            Self::Nowhere => None,
            Self::Memory(store) => store.get(key).await,
            Self::Redis(store) => store.get(key).await,
        }
    }

    async fn put(&self, key: Key, entry: Entry) {
        match self {
            Self::Nowhere => {}
            Self::Memory(store) => store.put(key, entry).await,
            Self::Redis(store) => store.put(key, entry).await,
        }
    }
}
