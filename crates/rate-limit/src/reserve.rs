use std::time::Duration;

use backstop_core::{Allowance, Dimension, Headroom, Window};

use crate::{
    state::{Micros, micros},
    sync::{AtomicU64, Ordering},
};

/// Estimates how many tokens a request will cost, so that it is not sent when too few are left.
///
/// Any `Fn(&Req, Option<u64>) -> Option<u64>` will do; it is given the request and its size in
/// bytes, if that is known. `None` means that nothing can be said, and holds nothing up.
pub trait EstimateTokens<Req: ?Sized> {
    /// The tokens that `request`, of this many bytes, is likely to cost.
    fn tokens(&self, request: &Req, bytes: Option<u64>) -> Option<u64>;
}

/// One token for so many bytes of the request.
///
/// Four by default: English text in JSON has about four bytes to a token with the tokenizers of the
/// large providers. Other languages and code have fewer, pictures far more bytes to a token. The
/// answer's tokens are not counted: whose provider counts them beforehand (by `max_tokens`) should
/// estimate by a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BytesPerToken(pub u64);

/// What is left of a scope's limits, as the last answer said.
///
/// The parts are written one by one. A reader between two writes sees parts of two answers, which
/// at worst delays one request or lets one through: nothing here refuses.
#[derive(Debug, Default)]
pub(crate) struct Level {
    /// The limit of which the smallest share is left: [`Tightest`], zero when unknown.
    tightest: AtomicU64,
    /// How far apart requests would have to be to reach the reset of that limit, or zero.
    spacing: AtomicU64,
    /// When the next request may be sent, by that spacing.
    next: AtomicU64,
    /// The tokens left when the answer came, less what has been sent since.
    tokens: AtomicU64,
    /// The tokens missing then until the limit is full.
    tokens_spent: AtomicU64,
    tokens_from: AtomicU64,
    /// When they are full again; zero when unknown.
    tokens_until: AtomicU64,
}

/// A share in ten-thousandths, and until when it tells anything.
#[derive(Clone, Copy, Debug)]
struct Tightest(u64);

/// Little is left: how little, until when, and when this request had better be sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Nearly {
    pub(crate) share: f64,
    pub(crate) until: Micros,
    pub(crate) at: Micros,
}

// === impl EstimateTokens ===

impl<Req: ?Sized, F: Fn(&Req, Option<u64>) -> Option<u64>> EstimateTokens<Req> for F {
    fn tokens(&self, request: &Req, bytes: Option<u64>) -> Option<u64> {
        self(request, bytes)
    }
}

impl<Req: ?Sized> EstimateTokens<Req> for BytesPerToken {
    fn tokens(&self, _: &Req, bytes: Option<u64>) -> Option<u64> {
        bytes.map(|bytes| bytes / self.0.max(1))
    }
}

impl Default for BytesPerToken {
    fn default() -> Self {
        Self(4)
    }
}

// === impl Level ===

impl Level {
    /// Takes over what an answer says, and believes it until the limit is full again, at most for
    /// `cap`. Returns the share that is left if it is below `reserve` and that is news.
    pub(crate) fn update(
        &self,
        headroom: &Headroom,
        reserve: f64,
        cap: Duration,
        now: Micros,
    ) -> Option<f64> {
        let reset = |allowance| reset(allowance).min(cap);
        let tokens = headroom
            .iter()
            .filter(|allowance| counts_prompts(allowance.dimension))
            .filter_map(|allowance| Some((allowance, allowance.remaining?)))
            .min_by_key(|(_, remaining)| *remaining);
        if let Some((allowance, remaining)) = tokens {
            let spent = allowance
                .limit
                .map_or(0, |limit| limit.saturating_sub(remaining));
            self.tokens.store(remaining, Ordering::Relaxed);
            self.tokens_spent.store(spent, Ordering::Relaxed);
            self.tokens_from.store(now, Ordering::Relaxed);
            let until = now.saturating_add(micros(reset(allowance)));
            self.tokens_until.store(until, Ordering::Release);
        }
        let (tightest, share) = headroom
            .iter()
            .filter_map(|allowance| Some((allowance, allowance.share()?)))
            .min_by(|(_, one), (_, other)| one.total_cmp(other))?;
        let reset = reset(tightest);
        let spacing = if tightest.dimension == Dimension::Requests {
            micros(reset) / tightest.remaining.unwrap_or(0).max(1)
        } else {
            0
        };
        self.spacing.store(spacing, Ordering::Relaxed);
        let until = now.saturating_add(micros(reset));
        let is_spent = tightest.remaining == Some(0) && !counts_prompts(tightest.dimension);
        let next = if is_spent {
            // Not even one is left to begin with.
            until
        } else {
            // What was sent before was sent by now, and is spaced by what is known now.
            let next = self.next.load(Ordering::Acquire);
            next.min(now.saturating_add(spacing))
        };
        self.next.store(next, Ordering::Release);
        let word = Tightest::new(share, until);
        let before = Tightest(self.tightest.swap(word.0, Ordering::AcqRel));
        let is_news = before.share() >= reserve || before.until() <= now;
        (share < reserve && is_news).then_some(share)
    }

    /// Whether too little is left for a request of so many tokens, with `ahead` others before it.
    pub(crate) fn nearly(
        &self,
        reserve: f64,
        estimate: u64,
        ahead: u64,
        now: impl Fn() -> Micros,
    ) -> Option<Nearly> {
        let tightest = Tightest(self.tightest.load(Ordering::Acquire));
        let tokens_until = self.tokens_until.load(Ordering::Acquire);
        let low = tightest.share() < reserve && tightest.0 != 0;
        let short = tokens_until != 0 && estimate > self.tokens.load(Ordering::Relaxed);
        if !low && !short {
            return None;
        }
        let now = now();
        let mut nearly: Option<Nearly> = None;
        if low && tightest.until() > now {
            let queue = ahead.saturating_mul(self.spacing.load(Ordering::Relaxed));
            let next = self.next.load(Ordering::Acquire).max(now);
            nearly = Some(Nearly {
                share: tightest.share(),
                until: tightest.until(),
                at: next.saturating_add(queue).min(tightest.until()),
            });
        }
        if short && tokens_until > now {
            let at = self.refilled(estimate, tokens_until);
            if at > now {
                nearly = Some(Nearly {
                    share: nearly.map_or_else(|| tightest.share(), |nearly| nearly.share),
                    until: tokens_until,
                    at: nearly.map_or(at, |nearly| nearly.at.max(at)),
                });
            }
        }
        nearly
    }

    /// When so many tokens are there, if they come back evenly. More than the limit are never
    /// there; such a request is not held up, the provider says what becomes of it.
    fn refilled(&self, estimate: u64, until: Micros) -> Micros {
        let spent = self.tokens_spent.load(Ordering::Relaxed);
        let missing = estimate.saturating_sub(self.tokens.load(Ordering::Relaxed));
        let from = self.tokens_from.load(Ordering::Relaxed);
        if spent == 0 {
            // How much there is when it is full is not known.
            return until;
        }
        if missing > spent {
            return from;
        }
        let span = u128::from(until.saturating_sub(from));
        let wait = span * u128::from(missing) / u128::from(spent);
        from.saturating_add(u64::try_from(wait).unwrap_or(u64::MAX))
    }

    /// A request of so many tokens is being sent.
    pub(crate) fn spend(&self, estimate: u64, now: Micros) {
        let spacing = self.spacing.load(Ordering::Relaxed);
        let tightest = Tightest(self.tightest.load(Ordering::Acquire));
        if tightest.0 != 0 && tightest.until() > now {
            self.next
                .store(now.saturating_add(spacing), Ordering::Release);
        }
        let left = self.tokens.load(Ordering::Relaxed);
        let spent = estimate.min(left);
        if spent > 0 {
            self.tokens.fetch_sub(spent, Ordering::Relaxed);
            self.tokens_spent.fetch_add(spent, Ordering::Relaxed);
        }
    }

    /// Forgets everything.
    pub(crate) fn reset(&self) {
        self.tightest.store(0, Ordering::Release);
        self.next.store(0, Ordering::Release);
        self.tokens_until.store(0, Ordering::Release);
    }
}

const fn counts_prompts(dimension: Dimension) -> bool {
    matches!(dimension, Dimension::Tokens | Dimension::InputTokens)
}

/// When a limit is full again. If the provider does not say, after its window; if it does not say
/// that either, after a minute, over which most of them count.
const fn reset(allowance: &Allowance) -> Duration {
    const MINUTE: u64 = 60;
    if let Some(reset) = allowance.reset {
        return reset;
    }
    Duration::from_secs(match allowance.window {
        Window::Second => 1,
        Window::Hour => 60 * MINUTE,
        Window::Day => 24 * 60 * MINUTE,
        Window::Month => 30 * 24 * 60 * MINUTE,
        _ => MINUTE,
    })
}

// === impl Tightest ===

impl Tightest {
    const SHARE_BITS: u32 = 14;
    const WHOLE: f64 = 10_000.0;

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a share is from 0 to 1"
    )]
    fn new(share: f64, until: Micros) -> Self {
        let share = (share.clamp(0.0, 1.0) * Self::WHOLE).floor() as u64;
        let until = until.clamp(1, u64::MAX >> Self::SHARE_BITS);
        Self(until << Self::SHARE_BITS | share)
    }

    #[expect(clippy::cast_precision_loss, reason = "fourteen bits")]
    fn share(self) -> f64 {
        (self.0 & ((1 << Self::SHARE_BITS) - 1)) as f64 / Self::WHOLE
    }

    const fn until(self) -> Micros {
        self.0 >> Self::SHARE_BITS
    }
}
