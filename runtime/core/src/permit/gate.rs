//! The meters that one row passes: its queue's, its key's, or both.

use super::{Meter, Permit, QueueLimits, Scope, Stage};
use crate::time::Timestamp;

/// The meters of one task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gate {
    /// The task's concurrency key.
    pub key: Option<String>,
    /// Its queue's meter, where that counts.
    pub queue: Option<Meter>,
    /// Its key's meter, where that counts.
    pub of_key: Option<Meter>,
}

impl Gate {
    /// Which meters a claim needs: those of the limits, and those that the row's permit counts in.
    #[must_use]
    pub fn scopes(limits: &QueueLimits, key: Option<&str>, permits: &[Option<&Permit>]) -> Vec<Scope> {
        let counts = |scope| permits.iter().any(|permit| Permit::share(*permit, scope) != Permit::share(None, scope));
        let limited = |scope| match scope {
            Scope::Queue => !limits.queue.is_none(),
            Scope::Key => !limits.key.is_none() && key.is_some(),
        };
        Scope::ALL.into_iter().filter(|scope| counts(*scope) || limited(*scope)).collect()
    }

    /// The meter of a scope.
    pub const fn meter(&mut self, scope: Scope) -> &mut Option<Meter> {
        match scope {
            Scope::Queue => &mut self.queue,
            Scope::Key => &mut self.of_key,
        }
    }

    fn meters(&mut self) -> impl Iterator<Item = (Scope, &mut Meter)> {
        let queue = self.queue.as_mut().map(|meter| (Scope::Queue, meter));
        queue.into_iter().chain(self.of_key.as_mut().map(|meter| (Scope::Key, meter)))
    }

    /// A row's permit becomes another.
    pub fn moved(&mut self, from: Option<&Permit>, to: Option<&Permit>) {
        for (scope, meter) in self.meters() {
            meter.moved(Permit::share(from, scope), Permit::share(to, scope));
        }
    }

    /// True if more tasks run in a scope than may.
    #[must_use]
    pub fn is_over(&self) -> bool {
        [&self.queue, &self.of_key].into_iter().flatten().any(Meter::is_over)
    }

    /// Takes the permits of a start, for a row that had `before`. The scope that refuses where one does; nothing
    /// is taken then.
    ///
    /// # Errors
    ///
    /// The scope that has no permit.
    pub(crate) fn admit(
        &mut self,
        limits: &QueueLimits,
        before: Option<&Permit>,
        now: Timestamp,
    ) -> Result<Option<Permit>, Scope> {
        let mut tried = self.clone();
        for (scope, meter) in tried.meters() {
            meter.moved(Permit::share(before, scope), Permit::share(None, scope));
            meter.limits = match scope {
                Scope::Queue => limits.queue,
                Scope::Key => limits.key,
            };
            meter.prune(now);
        }
        // The key's first: whoever is parked there takes no place in the queue's line.
        let refuses = |meter: &Option<Meter>| meter.as_ref().is_some_and(|meter| !meter.admits(now));
        let refusing = match (refuses(&tried.of_key), refuses(&tried.queue)) {
            (true, _) => Some(Scope::Key),
            (false, true) => Some(Scope::Queue),
            (false, false) => None,
        };
        if let Some(scope) = refusing {
            // The newest limits are known from now on.
            for (scope, meter) in self.meters() {
                let rate = meter.limits.rate;
                if let Some(tried) = tried.meter(scope) {
                    meter.limits = tried.limits;
                }
                if rate != meter.limits.rate {
                    meter.prune(now);
                }
            }
            return Err(scope);
        }
        let counts = |meter: &Option<Meter>| meter.as_ref().is_some_and(|meter| !meter.limits.is_none());
        let stage = Stage::Held { queue: counts(&tried.queue), key: counts(&tried.of_key) };
        let permit =
            (stage != Stage::Held { queue: false, key: false }).then(|| Permit { key: tried.key.clone(), stage });
        tried.moved(None, permit.as_ref());
        for (_, meter) in tried.meters() {
            meter.started(now);
        }
        *self = tried;
        Ok(permit)
    }
}
