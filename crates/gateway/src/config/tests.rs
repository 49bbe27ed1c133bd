use backstop_failover::{
    Hedge, Reserve, Retry,
    admission::AdmissionConfig,
    budget::BudgetConfig,
    guards::{Guards, Kinds},
    health::LastResort,
};
use backstop_wire::{BadAnswers, Dialect, Provider};
use proptest::prelude::*;

use super::{model::DEADLINE, target::Timeouts, *};

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
    assert_eq!(primary.guards, Guards::default());
    assert_eq!(primary.provider, Provider::Vllm);
    let backup = &config.targets["backup"];
    assert_eq!(backup.provider, Provider::Groq);
    assert_eq!(backup.timeout, Timeouts::default());
    assert_eq!(
        backup.api_key.as_ref().unwrap().header,
        Some(HeaderName::from_static("api-key"))
    );
    assert_eq!(backup.guards, Guards::default().context_window(1_000_000));
    assert_eq!(backup.forward_headers, ["x-tenant"]);
    let [chat, small] = &*config.models else {
        panic!("two models");
    };
    assert_eq!(chat.name, "chat");
    assert_eq!(chat.targets, [Arc::from("primary"), Arc::from("backup")]);
    assert_eq!(chat.deadline, Duration::from_secs(60));
    assert_eq!(small.deadline, DEADLINE);
    assert_eq!(small.dialect, Dialect::OpenAiChat);
}

/// The keys that few need, all of them.
const RARE: &str = r#"force_header = "x-force"
show_targets = true
max_connections = 9
[health]
consecutive_faults = 3
fault_rate = 0.4
min_samples = 10
window = "30s"
ejection_base = "2s"
ejection_cap = "30s"
probe_interval = "3s"
successes_to_return = 2
ramp_start = 0.5

[cache]
store = "redis"
redis_url_env = "REDIS_URL"
secret_env = "CACHE_SECRET"
max_bytes = "8MiB"
stale_if_error = "10m"
fresh_for = "5s"
tenant = { header = "authorization" }
on_limits = true
only_on_request = true
max_answer = "64KiB"
coalesce = true
tool_calls = true

[shared]
redis_url_env = "REDIS_URL"
group = "north"

[target.a]
dialect = "anthropic"
base_url = "https://api.anthropic.com/v1"
model = "m"
max_request = "1MiB"
tools = false
vision = false
json_schema = false
takes_refused_content = true
only_on = ["rate_limited", "timeout"]
max_concurrent = 4
max_rate = "20/s"
least_time = "5s"
cold = { after = "5m", headers = "60s", first_token = "50s" }

[target.b]
dialect = "anthropic"
base_url = "https://api.anthropic.com/v1"
model = "m"

[[model]]
name = "chat"
targets = ["a", "b"]
reserve = 0.4
plan = "weighted"
weights = [9, 1]
affinity_header = "x-conversation"
dwell = "5m"
retry = { times = 2, base = "100ms", cap = "1s", longest_wait = "1s" }
hedge = { percentile = 0.95, least = "500ms" }
exercise = 0.01
at_most_once = true
bad_answers = ["empty", "malformed_tool_call", "truncated"]
last_resort = "refuse"
budget = { share = 0.2, per_second = 2, cap = 50, retry_cost = 1, failover_cost = 0.5, hedge_cost = 1 }
cache = true
simplified = { text = "Please try again in {retry_after}.", status = 503 }
"#;

#[test]
fn reads_the_rare_keys() {
    let config = Config::parse(RARE).unwrap();
    assert_eq!(config.force_header.as_ref().unwrap(), "x-force");
    assert!(config.show_targets);
    assert_eq!(config.max_connections, 9);
    assert_eq!(
        config.health,
        HealthConfig::default()
            .consecutive_faults(3)
            .fault_rate(0.4)
            .min_samples(10)
            .window(Duration::from_secs(30))
            .ejection_base(Duration::from_secs(2))
            .ejection_cap(Duration::from_secs(30))
            .probe_interval(Duration::from_secs(3))
            .successes_to_return(2)
            .ramp_start(0.5)
    );
    let cache = config.cache.as_ref().unwrap();
    assert_eq!(cache.max_bytes, 8 << 20);
    assert_eq!(cache.max_answer, 64 << 10);
    assert_eq!(cache.stale_if_error, Duration::from_secs(600));
    assert_eq!(cache.fresh_for, Duration::from_secs(5));
    assert_eq!(cache.keep(), Duration::from_secs(605));
    assert!(cache.on_limits && cache.only_on_request && cache.coalesce && cache.tool_calls);
    let header = HeaderName::from_static("authorization");
    assert_eq!(cache.tenant, TenantBy::Header(header));
    assert_eq!(config.shared.as_ref().unwrap().group, "north");
    let variables: Vec<_> = config.variables().collect();
    assert_eq!(
        variables,
        [
            ("cache.secret_env".to_owned(), "CACHE_SECRET"),
            ("cache.redis_url_env".to_owned(), "REDIS_URL"),
            ("shared.redis_url_env".to_owned(), "REDIS_URL"),
        ]
    );
    let target = &config.targets["a"];
    let kinds = Kinds::named("rate_limited").unwrap();
    assert_eq!(
        target.guards,
        Guards::default()
            .max_bytes(1 << 20)
            .tools(false)
            .vision(false)
            .json_schema(false)
            .refused_content(true)
            .only_on(kinds.union(Kinds::named("timeout").unwrap()))
    );
    assert_eq!(
        target.admission,
        Some(
            AdmissionConfig::default()
                .max_concurrent(4)
                .max_rate(20, Duration::from_secs(1))
        )
    );
    assert_eq!(target.least_time, Duration::from_secs(5));
    let (after, limits) = target.cold.unwrap();
    assert_eq!(after, Duration::from_secs(300));
    assert_eq!(limits.headers, Some(Duration::from_secs(60)));
    assert_eq!(limits.first_token, Some(Duration::from_secs(50)));
    assert!(target.lacks_something() && !config.targets["b"].lacks_something());
    let model = &config.models[0];
    assert_eq!(model.reserve, Reserve::share(0.4).unwrap());
    assert_eq!(model.order, Order::Weighted(vec![9, 1]));
    assert_eq!(model.dwell, Some(Duration::from_secs(300)));
    let ms = Duration::from_millis;
    assert_eq!(
        model.retry,
        Some(
            Retry::times(2)
                .base(ms(100))
                .cap(ms(1000))
                .longest_wait(ms(1000))
        )
    );
    assert_eq!(model.hedge, Some(Hedge::percentile(0.95, ms(500)).unwrap()));
    assert_eq!(model.exercise, Some(0.01));
    assert!(model.at_most_once && model.cache);
    assert_eq!(
        model.bad_answers,
        BadAnswers::default()
            .empty()
            .malformed_tool_call()
            .truncated()
    );
    assert_eq!(model.last_resort, LastResort::Refuse);
    assert_eq!(
        model.budget,
        BudgetConfig::default()
            .share(0.2)
            .floor_per_second(2.0)
            .cap(50.0)
            .failover_cost(0.5)
    );
    assert!(model.simplified.as_ref().unwrap().is_error);
}

#[test]
fn says_what_is_wrong_with_the_rare_keys() {
    let cases = [
        (
            "fault_rate = 0.4",
            "fault_rate = 4",
            "line 6: health.fault_rate: expected a number from 0 to 1",
        ),
        (
            "min_samples = 10",
            "min_sample = 10",
            "line 7: health.min_sample: unknown key, did you mean `min_samples`?",
        ),
        (
            "secret_env = \"CACHE_SECRET\"\n",
            "",
            "line 15: cache: expected `secret_env` beside `store = \"redis\"`, since replicas must \
             agree on keys",
        ),
        (
            "store = \"redis\"\n",
            "",
            "line 15: cache: expected `store = \"redis\"` beside `redis_url_env`",
        ),
        (
            "tenant = { header = \"authorization\" }",
            "tenant = \"nobody\"",
            "line 22: cache.tenant: expected { header = \"authorization\" }, or \"everyone\" if all \
             callers may see each other's answers",
        ),
        (
            "redis_url_env = \"REDIS_URL\"\ngroup",
            "group",
            "line 29: shared: expected `redis_url_env`, the name of the variable with the URL of \
             Redis",
        ),
        (
            "only_on = [\"rate_limited\", \"timeout\"]",
            "only_on = [\"rate_limited\", \"timeuot\"]",
            "line 42: target.a.only_on[1]: expected the name of an outcome, did you \
             mean `timeout`?",
        ),
        (
            "max_concurrent = 4",
            "max_concurrent = 0",
            "line 43: target.a.max_concurrent: expected an integer of at least 1",
        ),
        (
            "max_rate = \"20/s\"",
            "max_rate = \"20\"",
            "line 44: target.a.max_rate: expected a number of requests per second, minute or \
             hour, such as \"20/s\"",
        ),
        (
            "reserve = 0.4",
            "reserve = 1",
            "line 56: model[0].reserve: reserve: expected a share above 0 and below 1 of the time \
             left",
        ),
        (
            "weights = [9, 1]",
            "weights = [9]",
            "line 58: model[0].weights: expected an array with a whole number for each target, \
             such as [9, 1]",
        ),
        (
            "affinity_header = \"x-conversation\"\n",
            "",
            "line 53: model[0]: expected `affinity_header`, which `plan = \"rendezvous\"` and \
             `dwell` need",
        ),
        (
            "percentile = 0.95, ",
            "",
            "line 62: model[0].hedge: expected { after = \"2s\" } or { percentile = 0.95, least = \
             \"500ms\" }",
        ),
        (
            "[\"empty\", ",
            "[\"emtpy\", ",
            "line 65: model[0].bad_answers[0]: expected one of `empty`, `malformed_tool_call`, \
             `refusal`, `truncated`; did you mean `empty`?",
        ),
        // One takes refused content, but only after something else.
        (
            "\"truncated\"]",
            "\"refusal\"]",
            "line 65: model[0].bad_answers: expected beside \"refusal\" a target with \
             `takes_refused_content = true` that may follow one",
        ),
        (
            "share = 0.2, per_second",
            "share = -1, per_second",
            "line 67: model[0].budget.share: expected a number from 0 to 1000000",
        ),
        (
            "status = 503",
            "status = 418",
            "line 69: model[0].simplified.status: expected 200 or 503",
        ),
        (
            "status = 503",
            "status = 100",
            "line 69: model[0].simplified.status: expected 200 or 503",
        ),
        (
            "text = \"Please try again in {retry_after}.\"",
            "text = \"\"",
            "line 69: model[0].simplified.text: expected the text to answer with",
        ),
        (
            "headers = \"60s\", first_token = \"50s\"",
            "",
            "line 46: target.a.cold: expected `headers` or `first_token` beside `after`",
        ),
    ];
    for (from, to, expected) in cases {
        assert_eq!(RARE.matches(from).count(), 1, "{from}");
        let told = Config::parse(&RARE.replace(from, to)).unwrap_err();
        assert_eq!(told.to_string(), expected, "{to}");
    }
    let without = RARE.replace("[cache]", "[health2]");
    let told = Config::parse(&without).unwrap_err().to_string();
    let expected = "line 68: model[0].cache: expected a [cache] table that says where answers are \
                    kept";
    assert!(told.lines().any(|line| line == expected), "{told}");
}

#[test]
fn the_documentation_has_every_key_and_its_examples_are_right() {
    let text = include_str!("../../../../docs/configuration.md");
    let mut keys = Vec::new();
    for config in [WHOLE, RARE] {
        let table: toml::Table = config.parse().unwrap();
        keys_of(&toml::Value::Table(table), &mut keys);
    }
    assert!(keys.len() > 60, "{keys:?}");
    let mut described = 0;
    let sections = text.split("\n## ");
    let of_the_file =
        |section: &&str| section.starts_with("The process") || section.starts_with("`[");
    let parts = sections
        .filter(of_the_file)
        .flat_map(|section| section.split("\n### "));
    for part in parts.filter(|part| !part.starts_with("`bad_answers`")) {
        for row in part.lines().filter(|row| row.starts_with("| `")) {
            for key in row.split('|').nth(1).unwrap().split(',') {
                let key = key.trim().trim_matches('`');
                assert!(
                    keys.iter().any(|known| known == key),
                    "{key} does not exist"
                );
                described += 1;
            }
        }
    }
    assert!(described > 60, "{described}");
    for key in keys {
        let has = |form: String| text.contains(&form);
        assert!(
            has(format!("`{key}`")) || has(format!("{key} = ")),
            "{key} is not described"
        );
    }
    let mut examples = 0;
    for example in text.split("```toml\n").skip(1) {
        let (example, _) = example.split_once("```").unwrap();
        Config::parse(example).unwrap();
        examples += 1;
    }
    assert!(examples > 0);
}

/// The keys of all tables, but not the names of targets and of headers.
fn keys_of(value: &toml::Value, keys: &mut Vec<String>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                if key == "target" {
                    let targets = value.as_table().unwrap();
                    targets.values().for_each(|target| keys_of(target, keys));
                } else {
                    // `model` and `cache` are keys as well as tables.
                    let is_table = matches!(&**key, "health" | "shared");
                    if !is_table && key != "header" {
                        keys.push(key.clone());
                    }
                    keys_of(value, keys);
                }
            }
        }
        toml::Value::Array(items) => items.iter().for_each(|item| keys_of(item, keys)),
        _ => {}
    }
}

#[test]
fn the_defaults_are_as_documented() {
    let text = include_str!("../../../../docs/configuration.md");
    let table = |from: &str| {
        let (_, rest) = text.split_once(from).unwrap();
        rest.split("\n## ").next().unwrap().to_owned()
    };
    let row = |table: &str, key: &str| {
        let line = table
            .lines()
            .find(|line| line.starts_with(&format!("| `{key}` |")));
        let cell = line.unwrap().split('|').nth(2).unwrap().trim();
        format!("{key} = {}", cell.trim_matches('`'))
    };
    let bare = r#"
[target.a]
dialect = "openai"
base_url = "http://h"
model = "m"
TARGET
[[model]]
name = "chat"
targets = ["a"]
"#;
    let said = |top: &str, target: &str, model: &str| {
        let text = format!("{top}\n{}\n{model}", bare.replace("TARGET", target));
        format!("{:?}", Config::parse(&text).unwrap())
    };
    let silent = said("", "", "");
    let process = table("## The process");
    for key in [
        "listen",
        "max_connections",
        "max_body",
        "replay_limit",
        "drain",
        "show_targets",
    ] {
        assert_eq!(said(&row(&process, key), "", ""), silent, "{key}");
    }
    let timeout = table("### `timeout`");
    for key in ["connect", "headers", "first_token", "idle"] {
        let own = format!("timeout = {{ {} }}", row(&timeout, key));
        assert_eq!(said("", &own, ""), silent, "{key}");
    }
    let model = table("## `[[model]]`");
    for key in [
        "deadline",
        "reserve",
        "plan",
        "at_most_once",
        "bad_answers",
        "last_resort",
        "cache",
    ] {
        assert_eq!(said("", "", &row(&model, key)), silent, "{key}");
    }
    for key in [
        "share",
        "per_second",
        "cap",
        "retry_cost",
        "failover_cost",
        "hedge_cost",
    ] {
        let budget = format!("budget = {{ {} }}", row(&model, key));
        assert_eq!(said("", "", &budget), silent, "{key}");
    }
    let health = table("## `[health]`");
    for key in [
        "consecutive_faults",
        "fault_rate",
        "min_samples",
        "window",
        "ejection_base",
        "ejection_cap",
        "probe_interval",
        "successes_to_return",
        "ramp_start",
    ] {
        let own = format!("[health]\n{}", row(&health, key));
        assert_eq!(said(&own, "", ""), silent, "{key}");
    }
    let cache = table("## `[cache]`");
    let with = |own: &str| said(&format!("[cache]\ntenant = \"everyone\"\n{own}"), "", "");
    for key in [
        "store",
        "max_bytes",
        "stale_if_error",
        "on_limits",
        "only_on_request",
        "max_answer",
        "coalesce",
        "tool_calls",
    ] {
        assert_eq!(with(&row(&cache, key)), with(""), "{key}");
    }
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
            "line 1: listen: expected an IP address and a port, such as \"127.0.0.1:8080\"",
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
            "line 4: drain: expected a whole number of `ms`, `s`, `m` or `h`, such as \"250ms\" or \
             \"10s\", from 1ms to 24h, found an integer",
        ),
        (
            "drain = \"3s\"",
            "drian = \"3s\"",
            "line 4: drian: unknown key, did you mean `drain`?",
        ),
        (
            "drain = \"3s\"",
            "colour = \"blue\"",
            "line 4: colour: unknown key, expected one of `listen`, `max_connections`, \
             `max_body`, `replay_limit`, `drain`, `force_header`, `show_targets`, `health`, `cache`, `shared`, `target`, `model`",
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
            "line 10: target.primary.provider: expected a provider that is known, one of \
             `openai`, `azure`, `anthropic`, `google`, `bedrock`, `mistral`, `cohere`, `groq`, \
             `together`, `fireworks`, `deepseek`, `xai`, `openrouter`, `perplexity`, `cerebras`, \
             `huggingface`, `tgi`, `vllm`, `llamacpp`, `ollama`, `nvidia`, `cloudflare`, \
             `litellm`, `moonshot`, `minimax`, `zai`, `github`, `grpc`",
        ),
        (
            "provider = \"vllm\"",
            "provider = \"opnai\"",
            "line 10: target.primary.provider: expected a provider that is known, did you mean \
             `openai`?",
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
            "http://127.0.0.1:9001/v1/chat/completions",
            "line 8: target.primary.base_url: expected a URL up to and with the version, such as \
             \"https://api.openai.com/v1\": what is asked there is added",
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
             such as \"OPENAI_API_KEY\" (not what it holds)",
        ),
        (
            "api_key_env = \"OPENAI_API_KEY\" ",
            "api_key = \"sk-canary\" ",
            "line 11: target.primary.api_key: unknown key, did you mean `api_key_env`?",
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
            "line 12: target.primary.timeout.first_token: expected a whole number of `ms`, `s`, `m` \
             or `h`, such as \"250ms\" or \"10s\", from 1ms to 24h",
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
            "targets = [\"primary\", \"gpt-4.1\"]",
            "line 25: model[0].targets[1]: expected the name of a [target], one of `backup`, \
             `primary`",
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
fn durations_and_sizes_are_those_that_are_documented() {
    let drain = |text: &str| {
        let config = Config::parse(&WHOLE.replace("\"3s\"", &format!("\"{text}\"")));
        config.ok().map(|config| config.drain)
    };
    for (text, millis) in [
        ("250ms", 250),
        ("10 s", 10_000),
        ("2m", 120_000),
        ("24h", 86_400_000),
    ] {
        assert_eq!(drain(text), Some(Duration::from_millis(millis)), "{text}");
    }
    for text in [
        "",
        "10",
        "s",
        "30sec",
        "1m 30s",
        "1.5s",
        "-1s",
        "1d",
        "10S",
        "0s",
        "25h",
        "999us",
        "18446744073709551615h",
    ] {
        assert_eq!(drain(text), None, "{text}");
    }
    let max_body = |text: &str| {
        let config = Config::parse(&WHOLE.replace("\"1MiB\"", text));
        config.ok().map(|config| config.max_body)
    };
    for (text, bytes) in [
        ("65536", 65_536),
        ("\"65536\"", 65_536),
        ("\"2kB\"", 2000),
        ("\"2 MiB\"", 2 << 20),
        ("\"1GB\"", 1_000_000_000),
    ] {
        assert_eq!(max_body(text), Some(bytes), "{text}");
    }
    for text in [
        "0",
        "\"\"",
        "\"2mb\"",
        "\"1.5MiB\"",
        "\"18446744073709551615GiB\"",
    ] {
        assert_eq!(max_body(text), None, "{text}");
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
fn a_configuration_without_models_is_refused() {
    let (targets, _) = WHOLE.split_once("[[model]]").unwrap();
    for models in ["", "model = []\n"] {
        let told = Config::parse(&format!("{models}{targets}")).unwrap_err();
        let what = told.to_string();
        assert!(what.starts_with("line 1: model: "), "{what}");
        assert!(what.ends_with("expected at least one [[model]]"), "{what}");
    }
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
