use proptest::prelude::*;

use super::*;

const WHOLE: &str = r#"listen = "127.0.0.1:9999"
max_body = "1MiB"
replay_limit = 4096
drain = "3s"

[target.primary]
dialect = "openai"                     # openai | anthropic
base_url = "http://127.0.0.1:9001/v1"
model = "gpt-4.1"                      # sent upstream
provider = "vllm"
api_key_env = "OPENAI_API_KEY"         # optional; never in the file itself
timeout = { connect = "2s", headers = "10s", first_token = "11s", idle = "20s" }

[target.backup]
dialect = "openai"
base_url = "https://api.groq.com/openai/v1"
model = "gpt-4.1-mini"
api_key_env = "AZURE_KEY"
api_key_header = "api-key"
context_window = 1_000_000
forward_headers = ["x-tenant"]

[[model]]
name = "chat"                          # what callers ask for
targets = ["primary", "backup"]        # in order
deadline = "60s"

[[model]]
name = "small"
targets = ["backup"]
"#;

#[test]
fn reads_every_key() {
    let config = Config::parse(WHOLE).unwrap();
    assert_eq!(config.listen, "127.0.0.1:9999".parse().unwrap());
    assert_eq!(config.max_body, 1024 * 1024);
    assert_eq!(config.replay_limit, 4096);
    assert_eq!(config.drain, Duration::from_secs(3));
    let primary = &config.targets["primary"];
    assert_eq!(primary.dialect, Dialect::OpenAiChat);
    assert_eq!(primary.base_url, "http://127.0.0.1:9001/v1");
    assert_eq!(primary.model, "gpt-4.1");
    assert_eq!(primary.api_key.as_ref().unwrap().env, "OPENAI_API_KEY");
    assert_eq!(
        primary.timeout,
        Timeouts {
            connect: Duration::from_secs(2),
            headers: Duration::from_secs(10),
            first_token: Duration::from_secs(11),
            idle: Duration::from_secs(20),
        }
    );
    assert_eq!(primary.context_window, None);
    assert_eq!(primary.provider, Provider::Vllm);
    let backup = &config.targets["backup"];
    assert_eq!(backup.provider, Provider::Groq);
    assert_eq!(backup.timeout, Timeouts::default());
    assert_eq!(
        backup.api_key.as_ref().unwrap().header,
        Some(HeaderName::from_static("api-key"))
    );
    assert_eq!(backup.context_window, Some(1_000_000));
    assert_eq!(backup.forward_headers, ["x-tenant"]);
    let [chat, small] = &*config.models else {
        panic!("two models");
    };
    assert_eq!(chat.name, "chat");
    assert_eq!(chat.targets, [Arc::from("primary"), Arc::from("backup")]);
    assert_eq!(chat.deadline, Duration::from_secs(60));
    assert_eq!(small.deadline, Config::DEADLINE);
    assert_eq!(small.dialect, Dialect::OpenAiChat);
}

/// Replaces the one place where `WHOLE` says `from`, and returns what is complained of.
fn wrong(from: &str, to: &str) -> String {
    assert_eq!(WHOLE.matches(from).count(), 1, "{from}");
    Config::parse(&WHOLE.replace(from, to))
        .unwrap_err()
        .to_string()
}

#[test]
fn says_which_key_on_which_line_and_what_was_expected() {
    let cases = [
        (
            "listen = \"127.0.0.1:9999\"",
            "listen = \"localhost\"",
            "line 1: listen: expected an address and a port, such as \"127.0.0.1:8080\"",
        ),
        (
            "max_body = \"1MiB\"",
            "max_body = \"1 lot\"",
            "line 2: max_body: expected a size such as \"16MiB\" or a number of bytes, at least 1",
        ),
        (
            "replay_limit = 4096",
            "replay_limit = -1",
            "line 3: replay_limit: expected a size such as \"16MiB\" or a number of bytes, at \
             least 1",
        ),
        (
            "drain = \"3s\"",
            "drain = 3",
            "line 4: drain: expected a duration with a unit, such as \"250ms\", \"10s\" or \
             \"2m\", from 1ms to 24h, found an integer",
        ),
        (
            "drain = \"3s\"",
            "drian = \"3s\"",
            "line 4: drian: unknown key, did you mean `drain`?",
        ),
        (
            "drain = \"3s\"",
            "colour = \"blue\"",
            "line 4: colour: unknown key, expected one of `listen`, `max_body`, `replay_limit`, \
             `drain`, `target`, `model`",
        ),
        (
            "dialect = \"openai\"                     # openai | anthropic",
            "dialect = \"antropic\"",
            "line 7: target.primary.dialect: expected one of `openai`, `anthropic`; did you mean \
             `anthropic`?",
        ),
        (
            "provider = \"vllm\"",
            "provider = \"mine\"",
            "line 10: target.primary.provider: expected a provider that is known, such as \
             \"openai\", \"azure\" or \"vllm\"",
        ),
        (
            "base_url = \"http://127.0.0.1:9001/v1\"\n",
            "",
            "line 6: target.primary.base_url: missing, expected a URL such as \
             \"https://api.openai.com/v1\"",
        ),
        (
            "http://127.0.0.1:9001/v1",
            "127.0.0.1:9001/v1",
            "line 8: target.primary.base_url: expected an http or https URL with a host, such as \
             \"https://api.openai.com/v1\"",
        ),
        (
            "http://127.0.0.1:9001/v1",
            "http://user:sk-canary@127.0.0.1/v1",
            "line 8: target.primary.base_url: expected a URL without a user name or password: \
             keys belong in `api_key_env`",
        ),
        (
            "http://127.0.0.1:9001/v1",
            "http://127.0.0.1/v1?key=sk-canary",
            "line 8: target.primary.base_url: expected a URL without a query: keys belong in \
             `api_key_env`",
        ),
        (
            "\"OPENAI_API_KEY\"",
            "\"sk-canary\"",
            "line 11: target.primary.api_key_env: expected the name of an environment variable, \
             such as \"OPENAI_API_KEY\" (not the key itself)",
        ),
        (
            "api_key_env = \"OPENAI_API_KEY\" ",
            "api_key = \"sk-canary\" ",
            "line 11: target.primary.api_key: unknown key, expected one of `dialect`, `base_url`, \
             `provider`, `model`, `api_key_env`, `api_key_header`, `timeout`, `context_window`, \
             `forward_headers`",
        ),
        (
            "first_token = \"11s\"",
            "frist_token = \"11s\"",
            "line 12: target.primary.timeout.frist_token: unknown key, did you mean \
             `first_token`?",
        ),
        (
            "first_token = \"11s\"",
            "first_token = \"0s\"",
            "line 12: target.primary.timeout.first_token: expected a duration with a unit, such \
             as \"250ms\", \"10s\" or \"2m\", from 1ms to 24h",
        ),
        (
            "api_key_env = \"AZURE_KEY\"\n",
            "",
            "line 18: target.backup.api_key_header: expected `api_key_env` beside it, or there is \
             nothing to send",
        ),
        (
            "context_window = 1_000_000",
            "context_window = 1.5",
            "line 20: target.backup.context_window: expected an integer of at least 1, found a \
             float",
        ),
        (
            "[\"x-tenant\"]",
            "[\"x-tenant\", \"authorization\"]",
            "line 21: target.backup.forward_headers[1]: expected a header that may leave: not a \
             credential, an account's identity, the caller's network, nor one that belongs to the \
             connection or the body",
        ),
        (
            "[target.backup]",
            "[target.\"back up\"]",
            "line 14: target.back up: expected a name of at most 64 letters, digits, `-`, `_` and \
             `.`, since it is sent in headers",
        ),
        (
            "targets = [\"primary\", \"backup\"]",
            "targets = [\"primary\", \"bakcup\"]",
            "line 25: model[0].targets[1]: expected the name of a [target], did you mean \
             `backup`?",
        ),
        (
            "targets = [\"primary\", \"backup\"]",
            "targets = [\"primary\", \"primary\"]",
            "line 25: model[0].targets[1]: expected each target once",
        ),
        (
            "targets = [\"primary\", \"backup\"]",
            "targets = []",
            "line 25: model[0].targets: expected at least one target",
        ),
        (
            "[target.backup]\ndialect = \"openai\"",
            "[target.backup]\ndialect = \"anthropic\"",
            "line 25: model[0].targets[1]: expected a target of the same dialect as the first",
        ),
        (
            "name = \"small\"",
            "name = \"chat\"",
            "line 28: model[1]: expected a `name` that no other [[model]] has",
        ),
        (
            "deadline = \"60s\"",
            "deadline = ",
            "line 26: not valid TOML: string values must be quoted, expected literal string",
        ),
    ];
    for (from, to, expected) in cases {
        assert_eq!(wrong(from, to), expected, "{to}");
    }
}

#[test]
fn all_problems_are_told_at_once_in_their_order() {
    let told = Config::parse("listen = 1\nmax_body = true\n[target.a]\n")
        .unwrap_err()
        .to_string();
    let keys: Vec<_> = told
        .lines()
        .map(|line| line.split(": ").nth(1).unwrap())
        .collect();
    assert_eq!(
        keys,
        [
            "listen",
            "model",
            "max_body",
            "target.a.base_url",
            "target.a.dialect",
            "target.a.model",
        ],
        "{told}"
    );
}

#[test]
fn a_secret_in_the_wrong_place_is_not_shown() {
    for text in [
        "key = sk-canary\n",
        "[target.a]\nmodel = \"a\"\nmodel = \"sk-canary\"",
        "[target.a]\napi_key = \"sk-canary\"\nbase_url = \"sk-canary\"\ndialect = \"sk-canary\"",
        "listen = \"sk-canary\"",
    ] {
        let told = Config::parse(text).unwrap_err();
        assert!(!told.to_string().contains("canary"), "{told}");
        assert!(!format!("{told:?}").contains("canary"), "{told:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_broken_file_never_panics(cut in 0..WHOLE.len(), junk in "[\\[\\]{}=\".a\n]{0,6}") {
        let mut text = WHOLE.to_owned();
        text.insert_str(cut, &junk);
        let _ = Config::parse(&text);
        let _ = Config::parse(&WHOLE[..cut]);
    }
}
