//! The meters beside the rows: each change of a row's permit changes them in the same step.

use std::collections::{BTreeMap, BTreeSet};

use rhubarb_core::{
    backend::{Called, ClaimRequest, DueRing, Reach},
    ids::{QueueName, TaskId},
    permit::{Gate, Meter, Permit, PermitCounts, QueueLimits, Refusal, Scope, concurrency_key},
    row::{Claim, Row},
    time::Now,
};

use super::rows::Rows;

/// A meter's name: a queue, or a key of it.
pub(super) type MeterName = (QueueName, Option<String>);

/// The meters.
#[derive(Default)]
pub(super) struct Meters {
    meters: BTreeMap<MeterName, Meter>,
    /// Those whose permits came back since anybody asked.
    returned: BTreeSet<MeterName>,
}

fn name(queue: &QueueName, scope: Scope, key: Option<&str>) -> MeterName {
    let key = match scope {
        Scope::Queue => None,
        Scope::Key => key.map(ToOwned::to_owned),
    };
    (queue.clone(), key)
}

impl Meters {
    fn gate(&self, queue: &QueueName, key: Option<String>, scopes: &[Scope]) -> Gate {
        let mut gate = Gate::default();
        for scope in scopes {
            let meter = self.meters.get(&name(queue, *scope, key.as_deref()));
            *gate.meter(*scope) = Some(meter.cloned().unwrap_or_default());
        }
        gate.key = key;
        gate
    }

    fn put(&mut self, queue: &QueueName, mut gate: Gate, now: Now) {
        for scope in Scope::ALL {
            let Some(mut meter) = gate.meter(scope).take() else { continue };
            meter.prune(now.epoch);
            let name = name(queue, scope, gate.key.as_deref());
            if meter.call_for(now.epoch).is_some() {
                self.returned.insert(name.clone());
            }
            if meter.is_idle() {
                self.meters.remove(&name);
            } else {
                self.meters.insert(name, meter);
            }
        }
    }

    /// Claims a row within the limits of its queue.
    pub(super) fn claim(&mut self, row: &mut Row, request: &ClaimRequest<'_>, now: Now) -> Claim {
        let ClaimRequest { submission, terms, .. } = request;
        if terms.limits.is_none() && row.permit.is_none() {
            return row.claim(terms, now);
        }
        let known = row.permit.as_ref().and_then(|permit| permit.key.clone());
        let key = known.or_else(|| (!terms.limits.key.is_none()).then(|| concurrency_key(&submission.spec))?);
        let scopes = Gate::scopes(&terms.limits, key.as_deref(), &[row.permit.as_deref()]);
        let mut gate = self.gate(&submission.queue, key, &scopes);
        let claim = row.claim_within(terms, &mut gate, now);
        self.put(&submission.queue, gate, now);
        claim
    }

    /// Follows a row whose permit has changed.
    pub(super) fn follow(&mut self, queue: &QueueName, before: Option<&Permit>, after: Option<&Permit>, now: Now) {
        let gate = self.moved(queue, before, after);
        self.put(queue, gate, now);
    }

    /// False where more would run than may.
    pub(super) fn may_follow(&self, queue: &QueueName, before: Option<&Permit>, after: Option<&Permit>) -> bool {
        before == after || !self.moved(queue, before, after).is_over()
    }

    fn moved(&self, queue: &QueueName, before: Option<&Permit>, after: Option<&Permit>) -> Gate {
        let key = before.or(after).and_then(|permit| permit.key.clone());
        let scopes = Gate::scopes(&QueueLimits::NONE, key.as_deref(), &[before, after]);
        let mut gate = self.gate(queue, key, &scopes);
        gate.moved(before, after);
        gate
    }

    /// What a parked row waits for.
    pub(super) fn refusal(&self, queue: &QueueName, row: &Row, now: Now) -> Option<Refusal> {
        let permit = row.permit.as_deref()?;
        let scope = permit.parked_for()?;
        let meter = self.meters.get(&name(queue, scope, permit.key.as_deref())).cloned().unwrap_or_default();
        Some(meter.refusal(scope, permit.key.as_deref(), now.epoch))
    }

    /// True where nothing has come back since anybody asked.
    pub(super) fn nothing_returned(&self) -> bool {
        self.returned.is_empty()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&MeterName, &Meter)> {
        self.meters.iter()
    }
}

impl Rows {
    /// What the meters of a queue and of its keys count.
    pub(super) fn permit_counts(&self, queue: &QueueName, limits: &QueueLimits) -> PermitCounts {
        let own = self.meters.all().filter(|((of, _), _)| of == queue);
        let scope = |key: &Option<String>| if key.is_some() { Scope::Key } else { Scope::Queue };
        PermitCounts::of(limits, own.map(|((_, key), meter)| (scope(key), meter)))
    }

    /// Calls parked rows for which permits are free.
    pub(super) fn call_parked(&mut self, reach: Reach, limit: usize, now: Now) -> Vec<Called> {
        let returned = std::mem::take(&mut self.meters.returned);
        let names: Vec<MeterName> = match reach {
            Reach::Returned => returned.into_iter().collect(),
            Reach::Everywhere => self.meters.meters.keys().cloned().collect(),
        };
        names.iter().flat_map(|name| self.call_of(name, limit, now)).collect()
    }

    fn call_of(&mut self, (queue, key): &MeterName, limit: usize, now: Now) -> Vec<Called> {
        let scope = if key.is_some() { Scope::Key } else { Scope::Queue };
        let mut called = Vec::new();
        for id in self.parked(queue, scope, key.as_deref()).into_iter().take(limit) {
            let mut gate = self.meters.gate(queue, key.clone(), &[scope]);
            let answer = self.change_row(id, now, |row| row.call(scope, &mut gate, now.epoch));
            if answer != Some(true) {
                break;
            }
            self.meters.put(queue, gate, now);
            called.extend(self.called(id, queue, now));
        }
        // What is left is looked at when a permit comes back.
        self.meters.returned.remove(&(queue.clone(), key.clone()));
        called
    }

    fn called(&self, id: TaskId, queue: &QueueName, now: Now) -> Option<Called> {
        let row = self.row(id).filter(|row| row.ring_at.is_some())?;
        let Row { fence, rings, not_before, .. } = *row;
        let spec = self.spec(id)?;
        let delay = not_before.map_or(std::time::Duration::ZERO, |at| at.since(now.epoch));
        Some(Called { ring: DueRing { id, queue: queue.clone(), fence, rings, not_before, spec }, delay })
    }
}
