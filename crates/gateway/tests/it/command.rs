//! The command line.

use std::process::{Command, Output, Stdio};

fn backstop(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_backstop"))
        .args(arguments)
        .env_remove("KEY_OF_THE_TEST")
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn with_config(command: &str, config: &str) -> (Output, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("backstop.toml");
    std::fs::write(&file, config).unwrap();
    let output = backstop(&[command, "--config", file.to_str().unwrap()]);
    let told = String::from_utf8(output.stderr.clone()).unwrap();
    (output, told.replace(file.to_str().unwrap(), "FILE"))
}

const CONFIG: &str = r#"
[target.a]
dialect = "openai"
base_url = "http://127.0.0.1:1/v1"
model = "m"
api_key_env = "KEY_OF_THE_TEST"

[[model]]
name = "chat"
targets = ["a"]
"#;

#[test]
fn a_wrong_configuration_is_told_by_key_and_line_before_anything_listens() {
    for command in ["serve", "check"] {
        let wrong = CONFIG.replace("base_url", "base_ulr");
        let (output, told) = with_config(command, &wrong);
        assert_eq!(output.status.code(), Some(1));
        assert_eq!(
            told,
            "error: FILE is not a valid configuration:\n\
             line 2: target.a.base_url: missing, expected a URL such as \
             \"https://api.openai.com/v1\"\n\
             line 4: target.a.base_ulr: unknown key, did you mean `base_url`?\n"
        );
        assert!(output.stdout.is_empty());

        let output = backstop(&[command, "--config", "/nowhere/backstop.toml"]);
        assert_eq!(output.status.code(), Some(1));
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(
            told.starts_with("error: cannot read /nowhere/backstop.toml: "),
            "{told}"
        );
    }
}

#[test]
fn a_right_configuration_is_said_to_be() {
    let (output, told) = with_config("check", CONFIG);
    assert_eq!(output.status.code(), Some(0), "{told}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.ends_with("is valid: 1 model, 1 target, to listen on 127.0.0.1:8080\n"));
}

#[test]
fn what_has_no_effect_is_noted() {
    let spare = CONFIG.replace(
        "[[model]]",
        "[target.spare]\ndialect = \"openai\"\nbase_url = \"http://127.0.0.1:1/v1\"\nmodel = \"m\"\n\
         [cache]\ntenant = \"everyone\"\n[[model]]",
    );
    let (output, told) = with_config("check", &spare);
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert_eq!(
        told,
        "note: target.spare: no [[model]] has it in `targets`\n\
         note: cache: no [[model]] has `cache = true`, so nothing is kept\n"
    );
    let (_, told) = with_config("check", &format!("{spare}cache = true\n"));
    assert!(!told.contains("cache"), "{told}");
    let (_, told) = with_config("check", CONFIG);
    assert_eq!(told, "");
}

#[test]
fn a_path_that_is_missing_is_noted_where_the_provider_has_one() {
    let with = |dialect: &str, url: &str| {
        let config = CONFIG
            .replace("\"openai\"", dialect)
            .replace("http://127.0.0.1:1/v1", url);
        assert!(config.contains(dialect) && config.contains(url), "{config}");
        let (output, told) = with_config("check", &config);
        assert_eq!(output.status.code(), Some(0), "{told}");
        told
    };
    for (dialect, url, path) in [
        ("\"openai\"", "https://api.openai.com", "/v1"),
        ("\"openai\"", "https://api.groq.com/", "/openai/v1"),
        (
            "\"openai\"\nprovider = \"vllm\"",
            "http://127.0.0.1:8000",
            "/v1",
        ),
        ("\"anthropic\"", "https://api.anthropic.com", "/v1"),
    ] {
        assert_eq!(
            with(dialect, url),
            format!(
                "note: target.a.base_url: has no path, and this provider's API is at one such as \
                 `{path}`\n"
            )
        );
    }
    for (dialect, url) in [
        // A path of one's own is one's own affair.
        ("\"openai\"", "https://api.groq.com/v1"),
        ("\"openai\"", "https://api.deepseek.com"),
        ("\"openai\"", "http://127.0.0.1:8000"),
        ("\"anthropic\"", "https://api.z.ai"),
    ] {
        assert_eq!(with(dialect, url), "");
    }
    let pathless = CONFIG.replace("http://127.0.0.1:1/v1", "https://api.openai.com");
    let (_, told) = with_config("serve", &pathless);
    assert!(told.contains("target.a.base_url: has no path"), "{told}");
}

#[test]
fn the_example_is_right() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/example.toml");
    let output = backstop(&["check", "--config", example]);
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert_eq!(told, "");
}

#[test]
fn a_key_that_is_not_set_is_told_by_its_variable() {
    let (output, told) = with_config("serve", CONFIG);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        told,
        "error: target.a.api_key_env: the environment variable KEY_OF_THE_TEST is not set\n"
    );
}

#[test]
fn what_cannot_be_classified_is_said_to_be() {
    // Nothing on stdin, as when `curl -s` failed.
    let output = backstop(&["classify"]);
    assert_eq!(output.status.code(), Some(1));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(
        told.starts_with("error: no answer to classify: expected one HTTP response"),
        "{told}"
    );

    let output = backstop(&["classify", "--provider", "opnai"]);
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(
        told.contains("'opnai'") && told.contains("expected one of openai, azure,"),
        "{told}"
    );
}

#[test]
fn every_command_explains_itself() {
    for command in [vec![], vec!["serve"], vec!["check"], vec!["demo"]] {
        let output = backstop(&[&command[..], &["--help"]].concat());
        assert_eq!(output.status.code(), Some(0));
        let help = String::from_utf8(output.stdout).unwrap();
        assert!(help.contains("Usage: backstop"), "{help}");
    }
}

#[test]
fn the_demonstration_loses_no_request_and_ends_in_time() {
    let started = std::time::SystemTime::now();
    let output = backstop(&["demo"]);
    let took = started.elapsed().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{shown}");
    assert!(took.as_secs() < 30, "{took:?}");
    assert!(shown.contains("No request failed"), "{shown}");
    // No colour where nobody sees it.
    assert!(!shown.contains('\x1b'));
    let all = shown.lines().find(|line| line.starts_with("all ")).unwrap();
    let counts: Vec<u32> = all
        .split_whitespace()
        .skip(1)
        .take(4)
        .map(|count| count.parse().unwrap())
        .collect();
    let [requests, by_primary, by_backup, failed] = counts[..] else {
        panic!("{all}");
    };
    assert_eq!((requests, failed), (by_primary + by_backup, 0));
    assert!(by_primary >= 12 && by_backup >= 36, "{all}");
}
