//! The scheduler: who takes the next step, how time passes, and what goes wrong.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use rhubarb_core::{
    backend::{ClaimPolicy, QueueSpec},
    ids::{QueueName, TaskId},
    limits::Limits,
    permit::{QueueLimits, Rate, ScopeLimits},
    row::AckMode,
    time::{Timestamp, millis},
};

use super::{
    Broken, Sabotage, Tally, actors,
    oracle::{Intent, Oracle, Step},
    random::Random,
};
use crate::{
    clock::{Clock, ManualClock},
    faults::{Fault, Faults, Verb},
    memory::{MemoryBackend, MemoryOptions},
};

pub(super) const LEASE: Duration = Duration::from_secs(6);
const SECOND: Duration = Duration::from_secs(1);
/// More steps than a calm world needs to settle everything.
const CALM_STEPS_MAX: usize = 20_000;

pub(super) type Act = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Limits small enough that every one is reached.
const LIMITS: Limits =
    Limits { delay_max: Duration::from_secs(20), visibility_max: Duration::from_secs(60), ..Limits::AWS };

/// What the queue allows: nothing is limited in half of the worlds. A FIFO queue has no limits: a task that is
/// parked would be overtaken. The rate's period is no whole number of the meter's slices.
const ALLOWED: [QueueLimits; 6] = {
    const fn at_once(max: u32) -> ScopeLimits {
        ScopeLimits { max_running: Some(max), rate: None }
    }
    let none = QueueLimits::NONE;
    let rate = Some(Rate { count: 2, period: Duration::from_secs(10) });
    [
        none,
        none,
        none,
        QueueLimits { queue: at_once(2), ..none },
        QueueLimits { queue: at_once(2), key: at_once(1) },
        QueueLimits { queue: ScopeLimits { max_running: Some(1), rate }, ..none },
    ]
};
/// By how much the workers' wall clocks step.
const CLOCK_STEPS: [i64; 3] = [0, 3_600_000, -3_600_000];

/// Runs one world from its seed to its end.
///
/// # Errors
///
/// A rule of the protocol was broken; the same seed breaks it again.
pub fn simulate(seed: u64, sabotage: Option<Sabotage>) -> Result<Tally, Broken> {
    match World::new(seed, sabotage, false).run() {
        Ok(tally) => Ok(tally),
        // Once more, with its trace.
        Err(rule) => {
            let mut again = World::new(seed, sabotage, true);
            let repeated = again.run();
            let mut trace = again.stage.state().trace.take().unwrap_or_default();
            if repeated != Err(rule.clone()) {
                trace.push(format!("the second run of this seed differs: {repeated:?}"));
            }
            Err(Broken { seed, rule, trace })
        }
    }
}

/// What the actors share: the backend, chance, and what the scheduler must know of them.
#[derive(Clone)]
pub(super) struct Stage {
    pub(super) backend: MemoryBackend,
    pub(super) queue: QueueName,
    pub(super) sabotage: Option<Sabotage>,
    clock: Arc<ManualClock>,
    state: Arc<Mutex<State>>,
}

pub(super) struct State {
    pub(super) random: Random,
    /// Nothing goes wrong any more.
    pub(super) calm: bool,
    pub(super) oracle: Oracle,
    /// How often the producer has begun.
    pub(super) producers: usize,
    outage_until: i64,
    /// How far the wall clocks of all that act have stepped; the store's has not.
    stepped_ms: i64,
    limits: QueueLimits,
    /// The actor whose turn it is, and what it did with it.
    turn_of: usize,
    done: Option<Verb>,
    sleep_until: Option<i64>,
    born: Vec<(String, Act)>,
    /// With what each actor last meant to settle a task.
    settles: BTreeMap<(usize, TaskId), Intent>,
    trace: Option<Vec<String>>,
    modes: [AckMode; 2],
    max_attempts: u32,
}

struct Actor {
    name: String,
    act: Option<Act>,
    /// Not its turn before this.
    rests_until: i64,
    /// Makes it anew after a crash.
    again: Option<Box<dyn Fn() -> Act>>,
}

impl Stage {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Draws from chance.
    pub(super) fn draw<T>(&self, draw: impl FnOnce(&mut Random) -> T) -> T {
        draw(&mut self.state().random)
    }

    pub(super) fn is_calm(&self) -> bool {
        self.state().calm
    }

    /// The wall clock of an actor that is wrong by so many milliseconds, and by what clocks have stepped.
    pub(super) fn wall(&self, skew_ms: i64) -> Timestamp {
        Timestamp(self.backend.now().epoch.0 + skew_ms + self.state().stepped_ms)
    }

    pub(super) fn limits(&self) -> QueueLimits {
        self.state().limits
    }

    /// A monotonic clock.
    pub(super) fn monotonic(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.clock.elapsed_ms()).unwrap_or(0))
    }

    pub(super) fn policy(&self) -> ClaimPolicy {
        let mut state = self.state();
        let modes = state.modes;
        ClaimPolicy {
            queue: self.queue.clone(),
            ack: state.random.pick(&modes),
            lease: LEASE,
            max_attempts: state.max_attempts,
            raw_task: None,
            purged_before: self.backend.purged_before(&self.queue),
            keep: (Duration::MAX, Duration::MAX),
            limits: state.limits,
        }
    }

    pub(super) async fn sleep(&self, time: Duration) {
        let until = self.clock.elapsed_ms() + millis(time);
        std::future::poll_fn(|_| {
            if self.clock.elapsed_ms() >= until {
                return Poll::Ready(());
            }
            self.state().sleep_until = Some(until);
            Poll::Pending
        })
        .await;
    }

    /// Notes with what the actor whose turn it is means to settle a task.
    pub(super) fn intend(&self, intent: Intent) {
        let mut state = self.state();
        let actor = state.turn_of;
        state.settles.insert((actor, intent.id), intent);
    }

    /// Lets something go on by itself, whatever becomes of the actor that began it.
    pub(super) fn detach(&self, name: &str, act: Act) {
        self.state().born.push((name.to_owned(), act));
    }

    pub(super) fn note(&self, note: impl FnOnce() -> String) {
        let mut state = self.state();
        let (turn_of, at) = (state.turn_of, self.clock.elapsed_ms());
        if let Some(trace) = &mut state.trace {
            trace.push(format!("{:>9.3}  {turn_of:>2}   {}", at as f64 / 1000.0, note()));
        }
    }
}

/// Gives each verb its own turn, and decides what becomes of it.
struct Turns {
    clock: Arc<ManualClock>,
    state: Arc<Mutex<State>>,
}

impl Faults for Turns {
    fn before(&self, verb: Verb) -> Pin<Box<dyn Future<Output = Fault> + Send + '_>> {
        let mut asked = false;
        Box::pin(std::future::poll_fn(move |_| {
            if !asked {
                asked = true;
                return Poll::Pending;
            }
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.done = Some(verb);
            let fault = state.fault(verb, self.clock.elapsed_ms());
            let (turn_of, at) = (state.turn_of, self.clock.elapsed_ms());
            if let Some(trace) = &mut state.trace {
                let wrong = if fault == Fault::None { String::new() } else { format!(": {fault:?}") };
                trace.push(format!("{:>9.3}  {turn_of:>2} {verb:?}{wrong}", at as f64 / 1000.0));
            }
            Poll::Ready(fault)
        }))
    }
}

impl State {
    fn fault(&mut self, verb: Verb, now: i64) -> Fault {
        if self.calm {
            return Fault::None;
        }
        let chance = self.random.below(100);
        if now < self.outage_until {
            return if chance < 15 { Fault::LoseAnswer } else { Fault::Refuse };
        }
        // A producer that is told of success relies on it: its message is not lost.
        let is_told = self.turn_of == actors::PRODUCER || self.turn_of == actors::PLAIN_PRODUCER;
        match (chance, verb) {
            (0..3, _) => Fault::Refuse,
            (3..6, _) => Fault::LoseAnswer,
            (6..8, Verb::Send) if !is_told => Fault::Lose,
            (8..12, Verb::Send) | (6..12, Verb::Receive) => Fault::Duplicate,
            _ => Fault::None,
        }
    }
}

struct World {
    stage: Stage,
    actors: Vec<Actor>,
    crashes: u64,
}

impl World {
    fn new(seed: u64, sabotage: Option<Sabotage>, traced: bool) -> Self {
        let mut random = Random::new(seed);
        let clock = ManualClock::new();
        let modes = random.pick(&[
            [AckMode::Lease, AckMode::Lease],
            [AckMode::Message, AckMode::Message],
            // Somebody changes the configuration, one worker at a time.
            [AckMode::Lease, AckMode::Message],
        ]);
        // A FIFO queue has mode `message` alone.
        let fifo = modes == [AckMode::Message; 2] && random.percent(50);
        let max_attempts = 1 + u32::try_from(random.below(4)).unwrap_or(0);
        let index_lag = random.pick(&[Duration::ZERO, Duration::ZERO, SECOND, 5 * SECOND]);
        let limits = if fifo { QueueLimits::NONE } else { random.pick(&ALLOWED) };
        let state = State {
            random,
            calm: false,
            oracle: Oracle::new(modes, limits),
            producers: 0,
            outage_until: 0,
            stepped_ms: 0,
            limits,
            turn_of: usize::MAX,
            done: None,
            sleep_until: None,
            born: Vec::new(),
            settles: BTreeMap::new(),
            trace: traced.then(Vec::new),
            modes,
            max_attempts,
        };
        let state = Arc::new(Mutex::new(state));
        let turns = Turns { clock: Arc::clone(&clock), state: Arc::clone(&state) };
        let options = MemoryOptions {
            clock: Clock::Manual(Arc::clone(&clock)),
            limits: LIMITS,
            index_lag,
            fifo,
            faults: Some(Arc::new(turns)),
        };
        let backend = MemoryBackend::sabotaged(options, sabotage);
        let queue = actors::queue();
        backend.declare_now(QueueSpec { queue: queue.clone(), max_receives: None, dead_letters: None });
        let stage = Stage { backend, queue, sabotage, clock, state };
        let actors = actors::cast(&stage)
            .into_iter()
            .map(|(name, again)| Actor { name, act: Some(again()), rests_until: 0, again: Some(again) })
            .collect();
        Self { stage, actors, crashes: 0 }
    }

    fn run(&mut self) -> Result<Tally, String> {
        let steps = 120 + self.stage.draw(|random| random.below(180));
        for _ in 0..steps {
            self.stir();
            self.step()?;
        }
        self.calm_down();
        for _ in 0..CALM_STEPS_MAX {
            if self.is_over() {
                let mut state = self.stage.state();
                state.oracle.count_settled();
                let tally = state.oracle.tally;
                return Ok(Tally { crashes: self.crashes, ..tally });
            }
            self.step()?;
        }
        let lost = self.stage.state().oracle.unsettled();
        Err(format!("all is calm, and these tasks never settle, or their messages stay: {lost:?}"))
    }

    /// Everything accepted has settled, and no message of it is left.
    fn is_over(&self) -> bool {
        let produces = |actor: &usize| self.actors[*actor].act.is_some();
        if [actors::PRODUCER, actors::PLAIN_PRODUCER].iter().any(produces) {
            return false;
        }
        let state = self.stage.state();
        let rings = |id: &TaskId| self.stage.backend.doorbells(&self.stage.queue, *id) > 0;
        state.oracle.unsettled().is_empty() && !state.oracle.ids().iter().any(rings)
    }

    /// Lets something happen that is no step: time passes, somebody crashes or stands still, the store
    /// goes out of reach, clocks step.
    fn stir(&mut self) {
        let now = self.stage.clock.elapsed_ms();
        let count = self.actors.len();
        let (event, actor, time) = {
            let random = &mut self.stage.state().random;
            (random.below(100), random.below(count), random.between(Duration::ZERO, 3 * LEASE))
        };
        match event {
            0..8 => self.stage.clock.advance(time / 9),
            8..10 => self.stage.clock.advance(time),
            10..13 => self.crash(actor, time),
            13..16 => {
                self.say(format!("   actor {actor} ({}) stands still for {time:?}", self.actors[actor].name));
                self.actors[actor].rests_until = now + millis(time);
            }
            16..17 => {
                self.say(format!("   the store is out of reach for {time:?}"));
                self.stage.state().outage_until = now + millis(time);
            }
            17..18 => {
                let step = self.stage.draw(|random| random.pick(&CLOCK_STEPS));
                self.say(format!("   the clocks of all who act are {} min off", step / 60_000));
                self.stage.state().stepped_ms = step;
            }
            _ => {}
        }
    }

    fn crash(&mut self, actor: usize, down_for: Duration) {
        let Actor { name, act, again, rests_until } = &mut self.actors[actor];
        let Some(again) = again.as_ref().filter(|_| act.is_some()) else { return };
        let line = format!("   actor {actor} ({name}) crashes and is back after {down_for:?}");
        *act = Some(again());
        *rests_until = self.stage.clock.elapsed_ms() + millis(down_for);
        self.crashes += 1;
        self.say(line);
    }

    fn calm_down(&mut self) {
        self.say("   all is calm from now on".to_owned());
        let mut state = self.stage.state();
        state.calm = true;
        state.outage_until = 0;
    }

    fn say(&self, line: String) {
        if let Some(trace) = &mut self.stage.state().trace {
            trace.push(line);
        }
    }

    /// One turn of one actor; if all rest, time passes until the first is up.
    fn step(&mut self) -> Result<(), String> {
        let now = self.stage.clock.elapsed_ms();
        let up: Vec<usize> = self.who(|actor| actor.rests_until <= now);
        if up.is_empty() {
            let first = self.actors.iter().filter(|actor| actor.act.is_some()).map(|actor| actor.rests_until).min();
            let wait = first.map_or(0, |first| first - now);
            self.stage.clock.advance(Duration::from_millis(u64::try_from(wait).unwrap_or(0)));
            return Ok(());
        }
        let actor = self.stage.draw(|random| random.pick(&up));
        self.turn(actor);
        self.look(actor)
    }

    fn who(&self, is: impl Fn(&Actor) -> bool) -> Vec<usize> {
        (0..self.actors.len()).filter(|n| self.actors[*n].act.is_some() && is(&self.actors[*n])).collect()
    }

    fn turn(&mut self, number: usize) {
        {
            let mut state = self.stage.state();
            (state.turn_of, state.done, state.sleep_until) = (number, None, None);
        }
        let actor = &mut self.actors[number];
        let Some(act) = &mut actor.act else { return };
        if act.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready() {
            actor.act = None;
        }
        let mut state = self.stage.state();
        actor.rests_until = state.sleep_until.take().unwrap_or(0);
        let born = std::mem::take(&mut state.born);
        self.actors.extend(born.into_iter().map(|(name, act)| Actor {
            name,
            act: Some(act),
            rests_until: 0,
            again: None,
        }));
    }

    fn look(&self, actor: usize) -> Result<(), String> {
        let mut state = self.stage.state();
        let Some(verb) = state.done else { return Ok(()) };
        let own = state.settles.iter().filter(|((of, _), _)| *of == actor);
        let settles: Vec<Intent> = own.map(|(_, intent)| *intent).collect();
        let step = Step { verb, settles: &settles };
        state.oracle.look(&self.stage.backend, &self.stage.queue, &step, self.stage.backend.now())
    }
}
