//! The search itself: breadth first, then backwards from the ends.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hash as _, Hasher},
};

use super::{Broken, Case, Searched, rules, steps, steps::Step, world::World};

/// A case with more states is too large to be searched.
const STATES_MAX: usize = 60_000_000;

/// A hash for small values that nobody chooses to collide.
#[derive(Default)]
struct Quick(u64);

impl Hasher for Quick {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64(u64::from(*byte)));
    }

    fn write_u8(&mut self, number: u8) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x517c_c1b7_2722_0a95);
    }

    fn write_isize(&mut self, number: isize) {
        self.write_u64(number as u64);
    }
}

fn hash(world: &World) -> u64 {
    let mut quick = Quick::default();
    world.hash(&mut quick);
    // Mixes what the last rounds left in the low bits.
    let mixed = (quick.0 ^ (quick.0 >> 32)).wrapping_mul(0x9fb2_1c65_1e98_df25);
    mixed ^ (mixed >> 29)
}

struct Search {
    case: Case,
    /// By their hashes: of so few, two are hardly ever the same in 64 bits.
    known: HashMap<u64, u32, BuildHasherDefault<Quick>>,
    worlds: Vec<World>,
    parents: Vec<u32>,
    /// Steps that need no fault: from, to.
    calm: Vec<(u32, u32)>,
    steps: usize,
}

pub(super) fn explore(case: Case) -> Result<Searched, Broken> {
    let mut search =
        Search { case, known: HashMap::default(), worlds: Vec::new(), parents: Vec::new(), calm: Vec::new(), steps: 0 };
    search.find(World::begin(case.tasks).canonical(case.faults > 0), 0);
    let mut next = 0;
    let mut found = Vec::new();
    while next < search.worlds.len() {
        steps::all(&search.worlds[next], case, &mut found);
        for Step { to, is_fault, .. } in found.drain(..) {
            search.steps += 1;
            let world = to.and_then(|to| rules::can_come_back(&to, case.ack).map(|()| to));
            match world {
                Ok(world) => search.reach(world, next, is_fault),
                Err(rule) => return Err(search.broken(next, rule)),
            }
        }
        if search.worlds.len() > STATES_MAX {
            return Err(search.broken(next, format!("the case has more than {STATES_MAX} states")));
        }
        next += 1;
    }
    match search.dead_end() {
        Some(state) => Err(search.broken(state, "from here some task can never settle".to_owned())),
        None => Ok(Searched { states: search.worlds.len(), steps: search.steps }),
    }
}

impl Search {
    const fn has_faults(&self, world: &World) -> bool {
        world.faults < self.case.faults
    }

    fn reach(&mut self, world: World, from: usize, is_fault: bool) {
        let to = self.find(world.canonical(self.has_faults(&world)), from);
        if !is_fault && to as usize != from {
            self.calm.push((from as u32, to));
        }
    }

    fn find(&mut self, world: World, from: usize) -> u32 {
        let number = self.worlds.len() as u32;
        let known = *self.known.entry(hash(&world)).or_insert(number);
        if known == number {
            self.worlds.push(world);
            self.parents.push(from as u32);
        }
        known
    }

    /// The first state from which no steps without faults lead to where all is settled.
    fn dead_end(&mut self) -> Option<usize> {
        let mut calm = std::mem::take(&mut self.calm);
        calm.sort_unstable_by_key(|(_, to)| *to);
        let mut ends_well: Vec<bool> = self.worlds.iter().map(rules::is_done).collect();
        let mut open: Vec<u32> = (0..self.worlds.len() as u32).filter(|state| ends_well[*state as usize]).collect();
        while let Some(state) = open.pop() {
            let first = calm.partition_point(|(_, to)| *to < state);
            for (from, _) in calm[first..].iter().take_while(|(_, to)| *to == state) {
                if !std::mem::replace(&mut ends_well[*from as usize], true) {
                    open.push(*from);
                }
            }
        }
        ends_well.iter().position(|ends_well| !ends_well)
    }

    /// Tells the shortest way to a state, and the step after it that broke the rule.
    fn broken(&self, state: usize, rule: String) -> Broken {
        let mut path = vec![state];
        while let Some(last) = path.last().copied().filter(|last| *last != 0) {
            path.push(self.parents[last] as usize);
        }
        let mut world = World::begin(self.case.tasks);
        let mut trace = Vec::new();
        let mut found = Vec::new();
        for next in path.iter().rev().skip(1) {
            steps::all(&world, self.case, &mut found);
            let goes_there =
                |step: &&Step| step.to.as_ref().is_ok_and(|to| to.canonical(self.has_faults(to)) == self.worlds[*next]);
            // The names of the path are made up anew, so that each is the same one from the first line to the last.
            let Some(step) = found.iter().find(goes_there) else { break };
            trace.push(step.to_string());
            if let Ok(to) = &step.to {
                world = *to;
            }
            found.clear();
        }
        steps::all(&world, self.case, &mut found);
        let breaks = |step: &&Step| {
            step.to.as_ref().map_or_else(
                |broken| *broken == rule,
                |to| rules::can_come_back(to, self.case.ack).is_err_and(|broken| broken == rule),
            )
        };
        trace.extend(found.iter().find(breaks).map(ToString::to_string));
        Broken { rule, trace }
    }
}
