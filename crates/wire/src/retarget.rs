//! Requests for one target, built from an allow-list.

use std::{fmt, sync::Arc};

use backstop_core::{BoxError, Failure, Kind, Outcome, Retarget, body::Replayable};
use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Uri,
    header::{
        ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, InvalidHeaderValue, USER_AGENT,
    },
    uri::PathAndQuery,
};

use crate::{
    Dialect,
    request::{BadBody, RequestFacts},
};

/// Turns a caller's request into the one that a target is sent.
///
/// The request is *built*, not passed on: method, address, credential and model are the target's,
/// and of the caller's headers only an allow-list is copied. Whatever else the caller sent, its own
/// credential first of all, stays here. Typed extensions stay, they never reach the wire.
///
/// | header | what is sent |
/// |---|---|
/// | `content-type`, `accept` | the caller's; `application/json` if it gave no type |
/// | `accept-encoding` | `identity`: what is compressed cannot be looked into |
/// | `user-agent` | `backstop/` and the version |
/// | `idempotency-key` | the caller's with the target's name added: a repetition at one target is recognised, the same key never means two requests at one provider |
/// | `anthropic-version`, `anthropic-beta` | the caller's, to targets that speak [`Dialect::Anthropic`]; `2023-06-01` if it gave no version |
/// | `openai-beta` | the caller's, to targets that speak [`Dialect::OpenAiChat`] or [`Dialect::OpenAiResponses`] |
/// | the credential | the target's own |
/// | those named with [`forward`](Self::forward) | the caller's |
///
/// Of the body only the top-level `model` is replaced, see [`RequestFacts`]. The length is left to
/// the HTTP client, which knows it from the body.
///
/// ```
/// use backstop_core::{Retarget, body::Replayable};
/// use backstop_wire::{Dialect, retarget::{Credential, HttpTarget}};
/// use http_body_util::Full;
///
/// # fn main() -> Result<(), backstop_core::BoxError> {
/// let target = HttpTarget::new("backup", Dialect::OpenAiChat, "https://models.example/v1".parse()?)?
///     .model("small-model")
///     .credential(Credential::bearer("the target's key")?);
/// let request = http::Request::post("http://gateway/v1/chat/completions")
///     .header("authorization", "Bearer the caller's key")
///     .body(Replayable::<Full<bytes::Bytes>>::full(r#"{"model":"chat","seed":1.0}"#.into()))?;
///
/// let sent = target.retarget(request)?;
/// assert_eq!(sent.uri(), "https://models.example/v1/chat/completions");
/// assert_eq!(sent.headers()["authorization"], "Bearer the target's key");
/// assert_eq!(sent.body().read(), r#"{"model":"small-model","seed":1.0}"#);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct HttpTarget {
    shared: Arc<Shared>,
}

#[derive(Clone)]
struct Shared {
    name: Arc<str>,
    dialect: Dialect,
    uri: Uri,
    /// The model as JSON text.
    model: Option<Box<[u8]>>,
    credential: Option<Credential>,
    forward: Vec<HeaderName>,
}

/// What a target is shown to prove who asks. `Debug` shows the header's name alone.
#[derive(Clone)]
pub struct Credential {
    name: HeaderName,
    value: HeaderValue,
}

/// Why an [`HttpTarget`] cannot be built.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BadTarget {
    /// The base URL has no scheme or no host.
    NotAbsolute,
    /// The base URL has another scheme than `http` or `https`.
    Scheme,
    /// The base URL holds a user name or password.
    UserInfo,
    /// The base URL has a query.
    Query,
    /// Requests in this dialect are not sent by [`HttpTarget`].
    Dialect,
    /// This header of the caller must never be passed on.
    Forbidden(HeaderName),
}

/// Sent to a target that speaks Anthropic's dialect when the caller names no version: the first and
/// still current one (<https://docs.anthropic.com/en/api/versioning>).
const ANTHROPIC_VERSION: &str = "2023-06-01";

const USER_AGENT_VALUE: &str = concat!("backstop/", env!("CARGO_PKG_VERSION"));

const ACCEPT_ANYTHING: HeaderValue = HeaderValue::from_static("*/*");

/// Headers that belong to one connection, to one account or to the caller's own network, so that
/// not even an operator can have them passed on.
const NEVER_FORWARDED: [&str; 23] = [
    // What a signature of the caller's covers.
    "x-amz-date",
    "x-amz-content-sha256",
    // The identity of another account.
    "openai-organization",
    "openai-project",
    "anthropic-organization-id",
    "x-goog-user-project",
    "chatgpt-account-id",
    // The caller's network.
    "via",
    // One connection (RFC 9110 section 7.6.1), and what follows from the body that is sent.
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "host",
    "content-length",
    "content-encoding",
    "accept-encoding",
    "expect",
    // Set here.
    "content-type",
    "idempotency-key",
    "user-agent",
];

/// What the names of credentials and of addresses in the caller's network contain: every gateway has
/// its own (`ocp-apim-subscription-key`, `cf-aig-authorization`, `x-litellm-api-key`,
/// `cf-connecting-ip`).
const NEVER_IN_A_NAME: [&str; 12] = [
    "authorization",
    "api-key",
    "apikey",
    "subscription-key",
    "auth-token",
    "access-token",
    "security-token",
    "cookie",
    "forwarded",
    "client-ip",
    "connecting-ip",
    "real-ip",
];

impl HttpTarget {
    /// A target at `base_url`, to which the path of the dialect's operation is added:
    /// `https://api.openai.com/v1` becomes `https://api.openai.com/v1/chat/completions`,
    /// `https://api.anthropic.com/v1` becomes `https://api.anthropic.com/v1/messages`.
    ///
    /// # Errors
    ///
    /// When the URL cannot serve, or the dialect is not one of [`Dialect::OpenAiChat`],
    /// [`Dialect::OpenAiResponses`], [`Dialect::Anthropic`] and [`Dialect::Cohere`], whose
    /// operations have a fixed path and a `model` in the body.
    pub fn new(
        name: impl Into<Arc<str>>,
        dialect: Dialect,
        base_url: Uri,
    ) -> Result<Self, BadTarget> {
        let operation = match dialect {
            Dialect::OpenAiChat => "/chat/completions",
            Dialect::OpenAiResponses => "/responses",
            Dialect::Anthropic => "/messages",
            Dialect::Cohere => "/chat",
            _ => return Err(BadTarget::Dialect),
        };
        let mut parts = base_url.into_parts();
        match parts.scheme.as_ref().map(http::uri::Scheme::as_str) {
            Some("http" | "https") => {}
            Some(_) => return Err(BadTarget::Scheme),
            None => return Err(BadTarget::NotAbsolute),
        }
        let authority = parts.authority.as_ref().ok_or(BadTarget::NotAbsolute)?;
        if authority.as_str().contains('@') {
            return Err(BadTarget::UserInfo);
        }
        let base = parts.path_and_query.take();
        if base.as_ref().is_some_and(|base| base.query().is_some()) {
            return Err(BadTarget::Query);
        }
        let base = base.as_ref().map_or("", PathAndQuery::path);
        let path = format!("{}{operation}", base.trim_end_matches('/'));
        parts.path_and_query = path.parse().ok();
        let uri = Uri::from_parts(parts).map_err(|_| BadTarget::NotAbsolute)?;
        Ok(Self {
            shared: Arc::new(Shared {
                name: name.into(),
                dialect,
                uri,
                model: None,
                credential: None,
                forward: Vec::new(),
            }),
        })
    }

    /// Replaces the top-level `model` of each request. Without it the caller's stays.
    #[must_use]
    pub fn model(mut self, model: &str) -> Self {
        let json = serde_json::Value::from(model).to_string();
        self.edit().model = Some(json.into_bytes().into());
        self
    }

    /// What the target is shown. Without it the target gets no credential at all, not the caller's.
    #[must_use]
    pub fn credential(mut self, credential: Credential) -> Self {
        self.edit().credential = Some(credential);
        self
    }

    /// Passes on one more header of the caller's.
    ///
    /// # Errors
    ///
    /// When it is one that must not leave: a credential, the identity of an account, the caller's
    /// network, what belongs to one connection or to the body's form.
    pub fn forward(mut self, header: HeaderName) -> Result<Self, BadTarget> {
        let name = header.as_str();
        let has = |part: &&str| memchr::memmem::find(name.as_bytes(), part.as_bytes()).is_some();
        if NEVER_FORWARDED.contains(&name) || NEVER_IN_A_NAME.iter().any(has) {
            return Err(BadTarget::Forbidden(header));
        }
        self.edit().forward.push(header);
        Ok(self)
    }

    /// The target's name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.shared.name
    }

    /// The dialect that it speaks.
    #[must_use]
    pub fn dialect(&self) -> Dialect {
        self.shared.dialect
    }

    fn edit(&mut self) -> &mut Shared {
        Arc::make_mut(&mut self.shared)
    }

    fn headers(&self, from: &HeaderMap) -> HeaderMap {
        let target = &*self.shared;
        let mut to = HeaderMap::with_capacity(8 + target.forward.len());
        let json = || HeaderValue::from_static("application/json");
        to.insert(
            CONTENT_TYPE,
            from.get(CONTENT_TYPE).cloned().unwrap_or_else(json),
        );
        to.insert(ACCEPT, from.get(ACCEPT).cloned().unwrap_or(ACCEPT_ANYTHING));
        to.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        to.insert(USER_AGENT, HeaderValue::from_static(USER_AGENT_VALUE));
        match target.dialect {
            Dialect::Anthropic => {
                let version = HeaderName::from_static("anthropic-version");
                let first = || HeaderValue::from_static(ANTHROPIC_VERSION);
                let value = from.get(&version).cloned().unwrap_or_else(first);
                to.insert(version, value);
                copy(from, &mut to, &HeaderName::from_static("anthropic-beta"));
            }
            Dialect::OpenAiChat | Dialect::OpenAiResponses => {
                copy(from, &mut to, &HeaderName::from_static("openai-beta"));
            }
            _ => {}
        }
        for name in &target.forward {
            // What passes anyway passes once.
            if !to.contains_key(name) {
                copy(from, &mut to, name);
            }
        }
        let idempotency = HeaderName::from_static("idempotency-key");
        if let Some(key) = from.get(&idempotency) {
            let scoped = [key.as_bytes(), b"-", target.name.as_bytes()].concat();
            // A name that cannot be written in a header leaves the request without a key.
            if let Ok(scoped) = HeaderValue::from_bytes(&scoped) {
                to.insert(idempotency, scoped);
            }
        }
        if let Some(Credential { name, value }) = &target.credential {
            to.insert(name, value.clone());
        }
        to
    }
}

/// Copies all values of one header.
fn copy(from: &HeaderMap, to: &mut HeaderMap, name: &HeaderName) {
    for value in from.get_all(name) {
        to.append(name, value.clone());
    }
}

impl<B> Retarget<Request<Replayable<B>>> for HttpTarget {
    type Request = Request<Replayable<B>>;

    fn retarget(&self, request: Request<Replayable<B>>) -> Result<Self::Request, BoxError> {
        let (mut parts, mut body) = request.into_parts();
        if let Some(model) = &self.shared.model {
            let read = body.read();
            let facts = match parts.extensions.get::<RequestFacts>() {
                Some(facts) if facts.is_of_length(read.len()) => facts.clone(),
                _ => {
                    let facts = find(&read, body.bytes().is_some()).map_err(refused)?;
                    // The layers around the target have not read the body.
                    parts.extensions.insert(facts.clone());
                    facts
                }
            };
            facts.model().map_err(refused)?;
            body = body.with_read(facts.replace_model(&read, model));
        }
        let mut request = Request::new(body);
        *request.method_mut() = parts.method;
        *request.uri_mut() = self.shared.uri.clone();
        *request.headers_mut() = self.headers(&parts.headers);
        *request.extensions_mut() = parts.extensions;
        Ok(request)
    }
}

fn find(read: &[u8], is_whole: bool) -> Result<RequestFacts, BadBody> {
    if is_whole {
        return RequestFacts::find(read);
    }
    let mut scanner = RequestFacts::scanner();
    scanner.feed(read)?;
    Ok(RequestFacts::of(&scanner, read))
}

/// The caller's own fault, which another target does not mend.
fn refused(why: BadBody) -> BoxError {
    let outcome = Outcome::new(Kind::Rejected).with_evidence("a body whose model cannot be read");
    Failure::with_source(outcome, why).into()
}

impl fmt::Debug for HttpTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpTarget")
            .field("name", &self.shared.name)
            .field("dialect", &self.shared.dialect)
            .field("credential", &self.shared.credential)
            .finish_non_exhaustive()
    }
}

// === impl Credential ===

impl Credential {
    /// `authorization: Bearer …`, as OpenAI and most others want it.
    ///
    /// # Errors
    ///
    /// When the key holds what a header cannot, such as a line break.
    pub fn bearer(key: &str) -> Result<Self, InvalidHeaderValue> {
        Self::header(AUTHORIZATION, &format!("Bearer {key}"))
    }

    /// `x-api-key: …`, as Anthropic wants it.
    ///
    /// # Errors
    ///
    /// When the key holds what a header cannot, such as a line break.
    pub fn x_api_key(key: &str) -> Result<Self, InvalidHeaderValue> {
        Self::header(HeaderName::from_static("x-api-key"), key)
    }

    /// Any header, such as Azure's `api-key`.
    ///
    /// # Errors
    ///
    /// When the key holds what a header cannot, such as a line break.
    pub fn header(name: HeaderName, key: &str) -> Result<Self, InvalidHeaderValue> {
        let mut value = HeaderValue::from_str(key)?;
        // Keeps it out of Debug and of HPACK's table (RFC 7541 section 7.1.3).
        value.set_sensitive(true);
        Ok(Self { name, value })
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

// === impl BadTarget ===

impl fmt::Display for BadTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAbsolute => f.write_str("not an absolute URL"),
            Self::Scheme => f.write_str("not an http or https URL"),
            Self::UserInfo => f.write_str("a URL with a user name or password"),
            Self::Query => f.write_str("a URL with a query"),
            Self::Dialect => f.write_str("a dialect without a fixed path"),
            Self::Forbidden(name) => write!(f, "the header `{name}` is never passed on"),
        }
    }
}

impl std::error::Error for BadTarget {}

#[cfg(test)]
mod tests {
    use backstop_core::outcome_of;
    use bytes::Bytes;
    use http_body::Body as _;
    use http_body_util::Full;

    use super::*;

    type Body = Replayable<Full<Bytes>>;

    fn target(dialect: Dialect) -> HttpTarget {
        HttpTarget::new("b", dialect, "https://h.example:8443/v1/".parse().unwrap()).unwrap()
    }

    fn ask(target: &HttpTarget, headers: &[(&str, &str)], body: Body) -> Request<Body> {
        let mut request = Request::post("/v1/chat/completions?key=canary-query")
            .body(body)
            .unwrap();
        for (name, value) in headers {
            let name: HeaderName = name.parse().unwrap();
            request.headers_mut().append(name, value.parse().unwrap());
        }
        target.retarget(request).unwrap()
    }

    fn sent(target: &HttpTarget, headers: &[(&str, &str)]) -> Vec<String> {
        let body = Body::full(Bytes::from_static(br#"{"model":"m"}"#));
        let request = ask(target, headers, body);
        let mut lines: Vec<_> = request
            .headers()
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        lines.sort();
        lines
    }

    #[test]
    fn only_the_allow_list_passes() {
        let mut canaries: Vec<_> = NEVER_FORWARDED
            .iter()
            .filter(|name| !matches!(**name, "content-type" | "idempotency-key"))
            .map(|name| (*name, "canary"))
            .collect();
        canaries.extend([
            ("x-stainless-lang", "canary"),
            ("baggage", "canary"),
            ("tracestate", "canary"),
            ("x-forwarded-port", "canary"),
            ("anthropic-beta", "canary"),
            ("x-unknown", "canary"),
            ("accept", "text/event-stream"),
            ("openai-beta", "assistants=v2"),
            ("idempotency-key", "k1"),
            ("content-type", "application/json; charset=utf-8"),
        ]);
        assert_eq!(
            sent(&target(Dialect::OpenAiChat), &canaries),
            [
                "accept-encoding: identity",
                "accept: text/event-stream",
                "content-type: application/json; charset=utf-8",
                "idempotency-key: k1-b",
                "openai-beta: assistants=v2",
                concat!("user-agent: backstop/", env!("CARGO_PKG_VERSION")),
            ]
        );
    }

    #[test]
    fn each_family_gets_its_own_headers_and_credential() {
        let headers = [
            ("anthropic-beta", "a"),
            ("anthropic-beta", "b"),
            ("openai-beta", "x"),
            ("x-api-key", "caller"),
        ];
        let anthropic =
            target(Dialect::Anthropic).credential(Credential::x_api_key("mine").unwrap());
        assert_eq!(
            sent(&anthropic, &headers),
            [
                "accept-encoding: identity",
                "accept: */*",
                "anthropic-beta: a",
                "anthropic-beta: b",
                "anthropic-version: 2023-06-01",
                "content-type: application/json",
                concat!("user-agent: backstop/", env!("CARGO_PKG_VERSION")),
                "x-api-key: mine",
            ]
        );
        let version = sent(&anthropic, &[("anthropic-version", "2099-01-01")]);
        assert!(version.contains(&"anthropic-version: 2099-01-01".to_owned()));
    }

    #[test]
    fn an_operator_can_pass_on_more_but_not_everything() {
        let name = |name: &'static str| HeaderName::from_static(name);
        let more = target(Dialect::OpenAiChat)
            .forward(name("x-tenant"))
            .and_then(|target| target.forward(name("openai-beta")))
            .unwrap();
        let sent = sent(&more, &[("x-tenant", "t"), ("openai-beta", "b")]);
        let count = |line| sent.iter().filter(|sent| *sent == line).count();
        assert_eq!((count("x-tenant: t"), count("openai-beta: b")), (1, 1));
        for never in NEVER_FORWARDED.into_iter().chain([
            "authorization",
            "proxy-authorization",
            "cf-aig-authorization",
            "x-serverless-authorization",
            "x-api-key",
            "api-key",
            "x-goog-api-key",
            "x-litellm-api-key",
            "ocp-apim-subscription-key",
            "x-amz-security-token",
            "x-goog-iam-authorization-token",
            "cookie",
            "forwarded",
            "x-forwarded-for",
            "x-forwarded-port",
            "x-real-ip",
            "true-client-ip",
            "cf-connecting-ip",
        ]) {
            let refused = target(Dialect::OpenAiChat)
                .forward(name(never))
                .unwrap_err();
            assert_eq!(refused, BadTarget::Forbidden(name(never)));
        }
    }

    #[test]
    fn the_address_is_the_targets_own() {
        for (dialect, expected) in [
            (
                Dialect::OpenAiChat,
                "https://h.example:8443/v1/chat/completions",
            ),
            (
                Dialect::OpenAiResponses,
                "https://h.example:8443/v1/responses",
            ),
            (Dialect::Anthropic, "https://h.example:8443/v1/messages"),
            (Dialect::Cohere, "https://h.example:8443/v1/chat"),
        ] {
            let request = ask(&target(dialect), &[], Body::default());
            assert_eq!(request.uri(), expected);
            assert_eq!(request.method(), "POST");
        }
        for (url, expected) in [
            ("/v1", BadTarget::NotAbsolute),
            ("example.com", BadTarget::NotAbsolute),
            ("ftp://example.com", BadTarget::Scheme),
            ("https://u:p@example.com/v1", BadTarget::UserInfo),
            ("https://example.com/v1?key=k", BadTarget::Query),
        ] {
            let bad = HttpTarget::new("b", Dialect::Anthropic, url.parse().unwrap()).unwrap_err();
            assert_eq!(bad, expected, "{url}");
        }
    }

    #[test]
    fn the_model_is_replaced_and_the_length_follows() {
        let target = target(Dialect::OpenAiChat).model("longer-model");
        let request = ask(&target, &[], Body::full(r#"{"model":"m","n":1e0}"#.into()));
        assert_eq!(request.body().read(), r#"{"model":"longer-model","n":1e0}"#);
        assert_eq!(request.body().size_hint().exact(), Some(32));
    }

    #[test]
    fn a_body_that_is_sent_once_is_changed_in_what_was_read() {
        let target = target(Dialect::OpenAiChat).model("z");
        let body = Body::once(r#"{"model":"m","x":[1"#.into(), Full::from("]}"));
        let request = ask(&target, &[], body);
        assert_eq!(request.body().read(), r#"{"model":"z","x":[1"#);
        assert_eq!(request.body().size_hint().exact(), Some(21));
    }

    #[test]
    fn what_was_found_before_is_used_only_for_the_same_body() {
        let target = target(Dialect::OpenAiChat).model("z");
        let found = RequestFacts::find(br#"{"model":"m"}"#).unwrap();
        let other = Body::full(r#"{"x":"y","model":"m"}"#.into());
        let mut request = Request::post("/").body(other).unwrap();
        request.extensions_mut().insert(found);
        let sent = target.retarget(request).unwrap();
        assert_eq!(sent.body().read(), r#"{"x":"y","model":"z"}"#);
    }

    #[test]
    fn what_it_has_read_of_a_body_the_layers_inside_need_not_read() {
        let target = target(Dialect::OpenAiChat).model("z");
        let choices = |body| {
            let request = ask(&target, &[], body);
            let facts: &RequestFacts = request.extensions().get().unwrap();
            facts.choices().map(std::num::NonZeroU32::get)
        };
        let whole = Body::full(r#"{"model":"m","n":3}"#.into());
        assert_eq!(choices(whole), Some(3));
        let beginning = Body::once(r#"{"model":"m","n":3,"x":[1"#.into(), Full::from("]}"));
        assert_eq!(choices(beginning), None);
    }

    #[test]
    fn a_body_without_a_model_is_the_callers_fault() {
        let target = target(Dialect::OpenAiChat).model("z");
        let request = Request::post("/").body(Body::full("{}".into())).unwrap();
        let outcome = outcome_of(&*target.retarget(request).unwrap_err());
        assert_eq!(outcome.kind(), Kind::Rejected);
        assert!(!outcome.may_fail_over());
    }

    #[test]
    fn extensions_stay() {
        let mut request = Request::post("/").body(Body::default()).unwrap();
        request.extensions_mut().insert("kept");
        let sent = target(Dialect::OpenAiChat).retarget(request).unwrap();
        assert_eq!(sent.extensions().get(), Some(&"kept"));
    }

    #[test]
    fn a_credential_is_not_shown() {
        let secret = Credential::bearer("sk-canary").unwrap();
        let target = target(Dialect::OpenAiChat).credential(secret.clone());
        let request = ask(&target, &[], Body::default());
        assert_eq!(request.headers()["authorization"], "Bearer sk-canary");
        for shown in [
            format!("{secret:?}"),
            format!("{target:#?}"),
            format!("{request:?}"),
        ] {
            assert!(!shown.contains("canary"), "{shown}");
        }
        assert!(Credential::bearer("a\nb").is_err());
    }
}
