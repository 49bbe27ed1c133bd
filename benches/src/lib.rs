//! Counts the instructions and the allocations of one call, instead of timing it.
//!
//! Times differ from run to run on a shared machine; counts do not. A benchmark is a binary with
//! `harness = false` that calls [`main_with`]. Each [`Case`] is run under
//! `valgrind --tool=callgrind` with two numbers of iterations; the difference, divided by the
//! difference of the iterations, is the cost of one call, free of set-up. Allocations are counted by
//! a counting allocator in the same way. Ratios are taken between cases of one run.
//!
//! Without valgrind on the machine only allocations are counted, and the table says so.

#![expect(clippy::print_stdout, reason = "the table is what a benchmark is for")]

use std::{
    env,
    process::{Command, ExitCode},
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
        "{:<44} {:>14} {:>12} {:>12}",
        "case", "instr/call", "allocs/call", "bytes/call"
    );
    for case in cases {
        if filter.is_some_and(|filter| !case.name.contains(filter.as_str())) {
            continue;
        }
        let few = allocation_counter::measure(|| (case.run)(FEW));
        let many = allocation_counter::measure(|| (case.run)(MANY));
        let instructions = match (instructions(case.name, FEW), instructions(case.name, MANY)) {
            (Some(few), Some(many)) => format!("{:.0}", per_call(few, many)),
            _ => "no valgrind".to_owned(),
        };
        println!(
            "{:<44} {:>14} {:>12.2} {:>12.0}",
            case.name,
            instructions,
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

/// The instructions of a whole run of this program with one case.
fn instructions(case: &str, iterations: u64) -> Option<u64> {
    let this = env::current_exe().ok()?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(this)
        .args(["--case", case, &iterations.to_string()])
        .output()
        .ok()?;
    let report = String::from_utf8_lossy(&output.stderr);
    let line = report.lines().find(|line| line.contains("Collected"))?;
    line.rsplit(':').next()?.trim().parse().ok()
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
