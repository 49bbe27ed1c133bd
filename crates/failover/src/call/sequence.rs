use crate::plan;

/// The targets in the order in which they are to be asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sequence {
    pub(super) order: plan::Order,
    /// How many of them have had their turn.
    past: usize,
    /// Whether the first one is only asked to see that it works.
    is_exercise: bool,
}

// === impl Sequence ===

impl Sequence {
    /// The plan's order; each target but the first is put first for `share` of the calls.
    #[inline]
    pub(super) fn new(mut order: plan::Order, share: Option<f64>) -> Self {
        let mut is_exercise = false;
        if let Some(share) = share {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "not negative, and a large one is no place in the order"
            )]
            let place = (fastrand::f64() / share) as usize;
            let exercised = order.iter().skip(1).nth(place);
            if let Some(target) = exercised {
                order.move_to_front(target);
                is_exercise = true;
            }
        }
        Self {
            order,
            past: 0,
            is_exercise,
        }
    }

    /// The next target, and whether it is asked only to see that it works.
    pub(super) fn next(&mut self) -> Option<(usize, bool)> {
        let target = self.rest().next()?;
        self.past += 1;
        Some((target, self.is_exercise && self.past == 1))
    }

    /// The target that is asked first only to see that it works.
    pub(super) fn exercised(&self) -> Option<usize> {
        self.order.first().filter(|_| self.is_exercise)
    }

    /// The targets that have not had their turn.
    pub(super) fn rest(&self) -> impl Iterator<Item = usize> + '_ {
        self.order.iter_from(self.past)
    }

    pub(super) const fn is_over(&self) -> bool {
        self.past >= self.order.len()
    }
}
