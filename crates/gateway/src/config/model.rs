//! `[[model]]`: what callers ask for, and who answers in which order.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use backstop_core::Kind;
use backstop_failover::{
    Hedge, Reserve, Retry,
    budget::{Budget, BudgetConfig},
    guards::{Guards, WentWrong},
    health::LastResort,
    plan::Weighted,
};
use backstop_wire::{BadAnswers, Dialect};
use http::HeaderName;

use super::{
    Target, duration, flag, header,
    reader::{Built, Table, Value},
};

/// What callers ask for.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) name: String,
    /// That of all its targets.
    pub(crate) dialect: Dialect,
    pub(crate) targets: Vec<Arc<str>>,
    pub(crate) deadline: Duration,
    /// What is kept of the deadline for the targets that have not been asked.
    pub(crate) reserve: Reserve,
    pub(crate) order: Order,
    /// The header that says what a call belongs to.
    pub(crate) affinity_header: Option<HeaderName>,
    /// How long a rescued conversation stays where it is.
    pub(crate) dwell: Option<Duration>,
    pub(crate) retry: Option<Retry>,
    pub(crate) hedge: Option<Hedge>,
    /// The share of the calls that each backup is given.
    pub(crate) exercise: Option<f64>,
    pub(crate) at_most_once: bool,
    /// Which answers count as failures although their status is good.
    pub(crate) bad_answers: BadAnswers,
    pub(crate) last_resort: LastResort,
    pub(crate) budget: BudgetConfig,
    /// Whether answers are kept for when no model can answer.
    pub(crate) cache: bool,
    pub(crate) simplified: Option<Simplified>,
}

/// In which order the targets are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    Ordered,
    Weighted(Vec<u32>),
    LeastFirstToken,
    Rendezvous,
}

/// What is answered when nobody else can.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Simplified {
    pub(crate) text: String,
    /// As an error with the status 503.
    pub(crate) is_error: bool,
}

/// The time after which the official clients give up by default.
pub(super) const DEADLINE: Duration = Duration::from_secs(600);

/// A plan's name in the file.
#[derive(Clone, Copy)]
enum Plan {
    Ordered,
    Weighted,
    LeastFirstToken,
    Rendezvous,
}

pub(super) fn read(
    root: &mut Table<'_>,
    targets: Option<&BTreeMap<Arc<str>, Target>>,
    has_cache: bool,
) -> Option<Vec<Model>> {
    let expected = "at least one [[model]]";
    let value = root.required("model", expected)?;
    let items = value.array("[[model]] tables")?;
    if items.is_empty() {
        value.expected(expected);
    }
    let mut models: Option<Vec<Model>> = Some(Vec::new());
    for item in &items {
        let model = model(item, targets, has_cache);
        match (&mut models, model) {
            (Some(models), Some(model)) => {
                if models.iter().any(|known| known.name == model.name) {
                    item.expected("a `name` that no other [[model]] has");
                }
                models.push(model);
            }
            (models, _) => *models = None,
        }
    }
    models
}

fn model(
    value: &Value<'_>,
    targets: Option<&BTreeMap<Arc<str>, Target>>,
    has_cache: bool,
) -> Option<Model> {
    let mut table = value.table("a [[model]] table")?;
    let name = table
        .required("name", "the name that callers ask for")
        .and_then(|value| value.filled("the name that callers ask for"));
    let names = table
        .required("targets", "an array of target names")
        .and_then(|value| model_targets(&value, targets));
    let deadline = duration(&mut table, "deadline", DEADLINE);
    let reserve = table
        .optional("reserve")
        .map_or(Some(Reserve::default()), |value| reserve(&value));
    let order = order(&mut table, names.as_ref().map(|(names, _)| names.len()));
    let affinity_header = header(&mut table, "affinity_header");
    let dwell = table
        .optional("dwell")
        .map_or(Some(None), |value| value.duration().map(Some));
    let retry = table
        .optional("retry")
        .map_or(Some(None), |value| retry(&value).map(Some));
    let hedge = table
        .optional("hedge")
        .map_or(Some(None), |value| hedge(&value).map(Some));
    let exercise = table
        .optional("exercise")
        .map_or(Some(None), |value| value.number(0.0, 0.5).map(Some));
    let at_most_once = flag(&mut table, "at_most_once");
    let bad_answers = table
        .optional("bad_answers")
        .map_or(Some(BadAnswers::default()), |value| {
            bad_answers(&value, targets, names.as_ref().map(|(names, _)| &**names))
        });
    let last_resort = table
        .optional("last_resort")
        .map_or(Some(LastResort::default()), |value| {
            value.one_of(&[
                ("try_soonest", LastResort::TrySoonest),
                ("refuse", LastResort::Refuse),
            ])
        });
    let budget = table
        .optional("budget")
        .map_or(Some(BudgetConfig::default()), |value| budget(&value));
    let cache = table.optional("cache");
    let cached = cache.as_ref().map_or(Some(false), Value::flag);
    if let (Some(value), Some(true), false) = (&cache, cached, has_cache) {
        value.expected("a [cache] table that says where answers are kept");
    }
    let simplified = table
        .optional("simplified")
        .map_or(Some(None), |value| simplified(&value).map(Some));
    let needs_affinity = order == Some(Order::Rendezvous) || matches!(dwell, Some(Some(_)));
    if needs_affinity && affinity_header == Some(None) {
        value.expected("`affinity_header`, which `plan = \"rendezvous\"` and `dwell` need");
    }
    table.finish();
    let (names, dialect) = names?;
    Some(Model {
        name: name?,
        dialect,
        targets: names,
        deadline: deadline?,
        reserve: reserve?,
        order: order?,
        affinity_header: affinity_header?,
        dwell: dwell?,
        retry: retry?,
        hedge: hedge?,
        exercise: exercise?,
        at_most_once: at_most_once?,
        bad_answers: bad_answers?,
        last_resort: last_resort?,
        budget: budget?,
        cache: cached?,
        simplified: simplified?,
    })
}

/// A share of the time that is left, or a time for each target.
fn reserve(value: &Value<'_>) -> Option<Reserve> {
    if value.is_text() {
        return Some(Reserve::per_target(value.duration()?));
    }
    let share = value.number(0.0, 1.0)?;
    value.fits(Reserve::share(share))
}

/// The plan. A weighted one needs a weight for each target.
fn order(table: &mut Table<'_>, targets: Option<usize>) -> Option<Order> {
    let weights = table.optional("weights");
    let plan = table
        .optional("plan")
        .map_or(Some(Plan::Ordered), |value| {
            let plan = value.one_of(&[
                ("ordered", Plan::Ordered),
                ("weighted", Plan::Weighted),
                ("least_first_token", Plan::LeastFirstToken),
                ("rendezvous", Plan::Rendezvous),
            ])?;
            if matches!(plan, Plan::Weighted) && weights.is_none() {
                value.expected("`weights` beside `plan = \"weighted\"`");
                return None;
            }
            Some(plan)
        })?;
    match (plan, weights) {
        (Plan::Weighted, Some(value)) => Some(Order::Weighted(read_weights(&value, targets?)?)),
        (_, Some(value)) => {
            value.expected("`plan = \"weighted\"` beside it");
            None
        }
        (Plan::LeastFirstToken, None) => Some(Order::LeastFirstToken),
        (Plan::Rendezvous, None) => Some(Order::Rendezvous),
        (Plan::Ordered | Plan::Weighted, None) => Some(Order::Ordered),
    }
}

fn read_weights(value: &Value<'_>, targets: usize) -> Option<Vec<u32>> {
    let expected = "an array with a whole number for each target, such as [9, 1]";
    let items = value.array(expected)?;
    if items.len() != targets {
        value.expected(expected);
        return None;
    }
    let weights = items.iter().map(|item| {
        let weight = item.number(0.0, 1e6)?;
        if weight.fract() != 0.0 {
            item.expected("a whole number");
            return None;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a whole number from 0 to a million"
        )]
        let weight = weight as u32;
        Some(weight)
    });
    let weights = weights.collect::<Option<Vec<_>>>()?;
    value.fits(Weighted::new(weights.iter().copied()))?;
    Some(weights)
}

fn retry(value: &Value<'_>) -> Option<Retry> {
    let mut table = value.table("a table such as { times = 1 }")?;
    let times = table
        .required("times", "how often the same target is asked again")
        .and_then(|value| value.whole());
    let retry = Built::new(Retry::times(times.unwrap_or(1)))
        .set(&mut table, "base", Value::duration, Retry::base)
        .set(&mut table, "cap", Value::duration, Retry::cap)
        .set(
            &mut table,
            "longest_wait",
            Value::duration,
            Retry::longest_wait,
        )
        .finish();
    table.finish();
    times.and(retry)
}

fn hedge(value: &Value<'_>) -> Option<Hedge> {
    let expected = "{ after = \"2s\" } or { percentile = 0.95, least = \"500ms\" }";
    let mut table = value.table(expected)?;
    let after = table.optional("after").map(|value| value.duration());
    let percentile = table.optional("percentile");
    let share = percentile.as_ref().map(|value| value.number(0.0, 1.0));
    let least = table
        .optional("least")
        .map_or(Some(Duration::ZERO), |value| value.duration());
    table.finish();
    match (after, percentile) {
        (Some(after), None) => Some(Hedge::after(after?)),
        (None, Some(percentile)) => percentile.fits(Hedge::percentile(share??, least?)),
        _ => {
            value.expected(expected);
            None
        }
    }
}

fn budget(value: &Value<'_>) -> Option<BudgetConfig> {
    let mut table = value.table("a table such as { share = 0.1 }")?;
    let t = &mut table;
    let number = |value: &Value<'_>| value.number(0.0, 1e6);
    let config = Built::new(BudgetConfig::default())
        .set(t, "share", number, BudgetConfig::share)
        .set(t, "per_second", number, BudgetConfig::floor_per_second)
        .set(t, "cap", number, BudgetConfig::cap)
        .set(t, "retry_cost", number, BudgetConfig::retry_cost)
        .set(t, "failover_cost", number, BudgetConfig::failover_cost)
        .set(t, "hedge_cost", number, BudgetConfig::hedge_cost)
        .finish();
    table.finish();
    let config = config?;
    value.fits(Budget::new(config))?;
    Some(config)
}

/// Which answers are bad. Nobody is asked after a refusal but who takes refused content.
fn bad_answers(
    value: &Value<'_>,
    targets: Option<&BTreeMap<Arc<str>, Target>>,
    names: Option<&[Arc<str>]>,
) -> Option<BadAnswers> {
    type Rule = fn(BadAnswers) -> BadAnswers;
    const RULES: [(&str, Rule); 4] = [
        ("empty", BadAnswers::empty),
        ("malformed_tool_call", BadAnswers::malformed_tool_call),
        ("refusal", BadAnswers::refusal),
        ("truncated", BadAnswers::truncated),
    ];
    let items = value.array("an array such as [\"empty\", \"truncated\"]")?;
    // Collected first, so that every wrong one is named.
    let rules: Vec<_> = items.iter().map(|item| item.one_of(&RULES)).collect();
    let rules: Vec<_> = rules.into_iter().collect::<Option<_>>()?;
    let bad = rules
        .into_iter()
        .fold(BadAnswers::default(), |bad, rule| rule(bad));
    if bad == bad.refusal()
        && let (Some(targets), Some(names)) = (targets, names)
        && !names
            .iter()
            .any(|name| targets.get(name).is_some_and(takes_refused))
    {
        value.expected(
            "beside \"refusal\" a target with `takes_refused_content = true` that may follow one",
        );
        return None;
    }
    Some(bad)
}

/// Whether a target may be asked when another refused the content.
fn takes_refused(target: &Target) -> bool {
    let mut refused = WentWrong::default();
    refused.failed(&Guards::default(), Kind::ContentFiltered);
    target.guards.follows(&refused).is_ok()
}

/// A text, or a text with a status.
fn simplified(value: &Value<'_>) -> Option<Simplified> {
    let expected = "a text, or { text = \"...\", status = 503 }";
    if value.is_text() {
        return Some(Simplified {
            text: value.filled(expected)?,
            is_error: false,
        });
    }
    let mut table = value.table(expected)?;
    let text = table
        .required("text", "the text to answer with")
        .and_then(|value| value.filled("the text to answer with"));
    let is_error = table
        .optional("status")
        .map_or(Some(false), |value| match value.count()? {
            200 => Some(false),
            503 => Some(true),
            _ => {
                value.expected("200 or 503");
                None
            }
        });
    table.finish();
    Some(Simplified {
        text: text?,
        is_error: is_error?,
    })
}

fn model_targets(
    value: &Value<'_>,
    targets: Option<&BTreeMap<Arc<str>, Target>>,
) -> Option<(Vec<Arc<str>>, Dialect)> {
    let items = value.array("an array of target names")?;
    // With a target wrong there is nothing to compare with, and that is what has to be mended.
    let targets = targets?;
    let mut found: Vec<(Arc<str>, Dialect)> = Vec::new();
    let mut is_right = true;
    for item in &items {
        let names = targets.keys().map(|name| &**name);
        let known = item.named("the name of a [target]", names, |name| {
            targets.get_key_value(name)
        });
        let Some((name, target)) = known else {
            is_right = false;
            continue;
        };
        if found.iter().any(|(known, _)| known == name) {
            is_right = false;
            item.expected("each target once");
        } else if found.first().is_some_and(|(_, d)| *d != target.dialect) {
            is_right = false;
            item.expected("a target of the same dialect as the first");
        }
        found.push((Arc::clone(name), target.dialect));
    }
    if items.is_empty() {
        value.expected("at least one target");
    }
    let (_, dialect) = found.first()?;
    let dialect = *dialect;
    is_right.then(|| (found.into_iter().map(|(name, _)| name).collect(), dialect))
}
