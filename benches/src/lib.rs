//! Counts the instructions and the allocations of one call, instead of timing it.
//!
//! Times differ from run to run on a shared machine; counts do not. A benchmark is a binary with
//! `harness = false` that calls [`main_with`]. Each [`Case`] is run under
//! `valgrind --tool=callgrind` with two numbers of iterations; the difference, divided by the
//! difference of the iterations, is the cost of one call, free of set-up. Allocations are counted by
//! a counting allocator in the same way. Ratios are taken between cases of one run.
//!
//! Valgrind hides the vDSO, where Linux keeps the code that reads a clock, and counts about ten
//! instructions for each reading; on x86-64 it takes some 65 more. So readings are counted as well.
//!
//! Without valgrind on the machine only allocations are counted, and the table says so.

#![expect(clippy::print_stdout, reason = "the table is what a benchmark is for")]

use std::{
    collections::HashMap,
    env, fs,
    process::{self, Command, ExitCode},
};

/// One thing to measure.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// The name in the table.
    pub name: &'static str,
    /// Sets up, then makes this many calls.
    pub run: fn(u64),
}

/// The iterations whose difference is measured. Enough that what happens once in a while (a wheel
/// of timers that turns, a table that grows) is shared out, few enough that a bench takes seconds.
const FEW: u64 = 200;
const MANY: u64 = 2_200;

/// Measures every case and prints a table: the `main` of a benchmark.
#[must_use]
pub fn main_with(title: &str, cases: &[Case]) -> ExitCode {
    let arguments: Vec<String> = env::args().collect();
    if let [_, flag, name, iterations] = &arguments[..]
        && flag == "--case"
    {
        let Some(case) = cases.iter().find(|case| case.name == name) else {
            return ExitCode::FAILURE;
        };
        let Ok(iterations) = iterations.parse() else {
            return ExitCode::FAILURE;
        };
        (case.run)(iterations);
        return ExitCode::SUCCESS;
    }
    let filter = arguments
        .iter()
        .skip(1)
        .find(|argument| !argument.starts_with("--"));
    println!("\n{title}");
    println!(
        "{:<44} {:>14} {:>12} {:>12} {:>12}",
        "case", "instr/call", "clock/call", "allocs/call", "bytes/call"
    );
    for case in cases {
        if filter.is_some_and(|filter| !case.name.contains(filter.as_str())) {
            continue;
        }
        let few = allocation_counter::measure(|| (case.run)(FEW));
        let many = allocation_counter::measure(|| (case.run)(MANY));
        let (instructions, clock) = match (count(case.name, FEW), count(case.name, MANY)) {
            (Some(few), Some(many)) => (
                format!("{:.0}", per_call(few.instructions, many.instructions)),
                format!("{:.2}", per_call(few.clock, many.clock)),
            ),
            _ => ("no valgrind".to_owned(), "?".to_owned()),
        };
        println!(
            "{:<44} {:>14} {:>12} {:>12.2} {:>12.0}",
            case.name,
            instructions,
            clock,
            per_call(few.count_total, many.count_total),
            per_call(few.bytes_total, many.bytes_total),
        );
    }
    ExitCode::SUCCESS
}

#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn per_call(few: u64, many: u64) -> f64 {
    many.saturating_sub(few) as f64 / (MANY - FEW) as f64
}

/// What a whole run of this program with one case takes.
struct Count {
    instructions: u64,
    /// Readings of a clock.
    clock: u64,
}

fn count(case: &str, iterations: u64) -> Option<Count> {
    let this = env::current_exe().ok()?;
    let profile = env::temp_dir().join(format!("backstop-benches-{}", process::id()));
    let output = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(this)
        .args(["--case", case, &iterations.to_string()])
        .output()
        .ok()?;
    let report = String::from_utf8_lossy(&output.stderr);
    let line = report.lines().find(|line| line.contains("Collected"))?;
    let instructions = line.rsplit(':').next()?.trim().parse().ok()?;
    let calls = fs::read_to_string(&profile).ok()?;
    fs::remove_file(&profile).ok()?;
    Some(Count {
        instructions,
        clock: calls_of("clock_gettime", &calls),
    })
}

/// How often a function was called. A profile names each function once, as `(id) name`, and the
/// lines `cfn=(id)` and `calls=number …` are a call.
fn calls_of(function: &str, profile: &str) -> u64 {
    let mut names = HashMap::new();
    let mut called = "";
    let mut calls = 0;
    for line in profile.lines() {
        let (key, value) = line.split_once('=').unwrap_or_default();
        if key == "fn" || key == "cfn" {
            let (id, name) = value.split_once(' ').unwrap_or((value, ""));
            let name = names.entry(id).or_insert(name);
            if key == "cfn" {
                called = name;
            }
        } else if key == "calls" && called.starts_with(function) {
            let number = value
                .split(' ')
                .next()
                .and_then(|number| number.parse().ok());
            calls += number.unwrap_or(0);
        }
    }
    calls
}

/// Runs a future on a current-thread runtime with time, as the layers' benchmarks need it.
///
/// # Panics
///
/// When the runtime cannot be built.
#[expect(
    clippy::expect_used,
    reason = "a benchmark without a runtime cannot go on"
)]
pub fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime is built")
        .block_on(future)
}
