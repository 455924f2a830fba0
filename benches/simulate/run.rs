//! A run: events in the order of their time, and what becomes of requests.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bartizan_balance::{
    Backend, BackendId, Cluster, Lease, Observer, PickContext, Policy, Prepare, State,
};

use crate::chance::Chance;
use crate::policies::Make;
use crate::setup::{MEAN_WORK, PROCESSORS, Setup};

/// What a run has shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    /// From arrival to answer, in seconds, in order of length; without the first requests, which
    /// found the servers empty.
    pub(crate) latencies: Vec<f64>,
    /// Requests that each server has answered.
    pub(crate) answered: Vec<u64>,
    /// When each answered request was given to its server, and to which.
    pub(crate) given: Vec<(Duration, u32)>,
    /// Tries that failed.
    pub(crate) failures: u64,
    /// Requests without an answer.
    pub(crate) lost: u64,
}

impl Outcome {
    /// The latency that this share of requests does not exceed, in milliseconds.
    pub(crate) fn percentile(&self, share: f64) -> f64 {
        let index = (self.latencies.len() as f64 * share) as usize;
        let last = self.latencies.len().saturating_sub(1);
        self.latencies.get(index.min(last)).copied().unwrap_or(0.0) * 1_000.0
    }

    /// The most that a server answered by its weight, in relation to the mean.
    pub(crate) fn imbalance(&self, setup: &Setup) -> f64 {
        let weight: f64 = setup.servers.iter().map(|server| f64::from(server.weight)).sum();
        let mean = self.answered.iter().sum::<u64>() as f64 / weight;
        let shares = self.answered.iter().zip(&setup.servers);
        let most = shares.map(|(count, server)| *count as f64 / f64::from(server.weight));
        most.fold(0.0, f64::max) / mean
    }
}

/// Runs `setup` with a policy for each balancer. Two runs are the same, as far as the policy is.
///
/// # Panics
///
/// If a cluster cannot be made of the servers.
pub(crate) fn run(setup: &Setup, make: Make) -> Outcome {
    let mut run = Run::new(setup, make);
    while let Some(Reverse((now, _, event))) = run.events.pop() {
        run.now = now;
        run.handle(event);
    }
    let mut outcome = run.outcome;
    outcome.latencies.sort_by(f64::total_cmp);
    outcome
}

struct Run<'a> {
    setup: &'a Setup,
    chance: Chance,
    start: Instant,
    now: Duration,
    balancers: Vec<Balancer>,
    servers: Vec<Live>,
    requests: Vec<Option<Request>>,
    free: Vec<usize>,
    arrived: usize,
    // Between arrivals, in seconds, in the mean.
    gap: f64,
    // The number makes the order of simultaneous events that of their making.
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    made: u64,
    outcome: Outcome,
}

struct Balancer {
    cluster: Cluster,
    policy: Box<dyn Policy>,
    observer: Option<Arc<dyn Observer>>,
    preparation: Option<Arc<dyn Prepare>>,
}

/// A server's own state.
#[derive(Debug, Default)]
struct Live {
    down: bool,
    // When each processor will have done what it was given.
    busy_until: [Duration; PROCESSORS],
}

#[derive(Debug)]
struct Request {
    arrived: Duration,
    // Whether its latency counts.
    counts: bool,
    balancer: usize,
    hash: Option<u64>,
    work: f64,
    tried: Vec<BackendId>,
    current: Option<Try>,
}

/// A request at a server.
#[derive(Debug)]
struct Try {
    lease: Lease,
    server: usize,
    picked: Duration,
    // Tells events of this try from those of earlier ones in the same place.
    ticket: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrival,
    Answer { request: usize, ticket: u64 },
    Refusal { request: usize, ticket: u64 },
    Down(usize),
    Up(usize),
    Noticed { server: usize, up: bool },
}

impl<'a> Run<'a> {
    fn new(setup: &'a Setup, make: Make) -> Self {
        let mut run = Self {
            setup,
            chance: Chance::new(setup.seed),
            start: tokio::time::Instant::now().into_std(),
            now: Duration::ZERO,
            balancers: (0..setup.balancers).map(|i| Balancer::new(setup, make(i))).collect(),
            servers: setup.servers.iter().map(|_| Live::default()).collect(),
            requests: Vec::new(),
            free: Vec::new(),
            arrived: 0,
            gap: setup.rate().recip(),
            events: BinaryHeap::new(),
            made: 0,
            outcome: Outcome { answered: vec![0; setup.servers.len()], ..Outcome::default() },
        };
        run.at(Duration::ZERO, Event::Arrival);
        for outage in &setup.outages {
            run.at(outage.from, Event::Down(outage.server));
            run.at(outage.to, Event::Up(outage.server));
        }
        run
    }

    fn at(&mut self, time: Duration, event: Event) {
        self.made += 1;
        self.events.push(Reverse((time, self.made, event)));
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrival => self.arrive(),
            Event::Answer { request, ticket } if self.holds(request, ticket) => {
                self.answered(request);
            }
            Event::Refusal { request, ticket } if self.holds(request, ticket) => {
                self.failed(request);
            }
            Event::Answer { .. } | Event::Refusal { .. } => {}
            Event::Down(server) => self.down(server),
            Event::Up(server) => {
                self.servers[server].down = false;
                self.at(self.now + self.setup.detection, Event::Noticed { server, up: true });
            }
            Event::Noticed { server, up } => {
                let now = self.start + self.now;
                self.balancers.iter().for_each(|balancer| balancer.noticed(server, up, now));
            }
        }
    }

    /// All that chance decides is drawn here, so that every policy meets the same traffic.
    fn arrive(&mut self) {
        let setup = self.setup;
        let request = Request {
            arrived: self.now,
            counts: self.arrived >= setup.requests / 10,
            balancer: self.chance.below(setup.balancers),
            hash: setup.keys.as_ref().map(|keys| keys.draw(&mut self.chance)),
            work: setup.work.draw(&mut self.chance) * MEAN_WORK,
            tried: Vec::new(),
            current: None,
        };
        let gap = Duration::from_secs_f64(self.chance.exponential(self.gap));
        self.arrived += 1;
        if self.arrived < setup.requests {
            self.at(self.now + gap, Event::Arrival);
        }
        let place = self.free.pop().unwrap_or_else(|| {
            self.requests.push(None);
            self.requests.len() - 1
        });
        self.requests[place] = Some(request);
        self.pick(place);
    }

    fn pick(&mut self, place: usize) {
        let Some((server, backend)) = self.choose(place) else {
            self.give_up(place);
            return;
        };
        let Some(request) = &mut self.requests[place] else { return };
        let (ticket, lease) = (self.made, Lease::new(Arc::clone(&backend)));
        if let Some(observer) = &self.balancers[request.balancer].observer {
            observer.more(&backend);
        }
        request.current = Some(Try { lease, server, picked: self.now, ticket });
        let work = Duration::from_secs_f64(request.work / self.setup.servers[server].speed);
        if self.servers[server].down {
            self.at(self.now + REFUSAL, Event::Refusal { request: place, ticket });
        } else {
            let done = self.servers[server].take(self.now, work);
            self.at(done, Event::Answer { request: place, ticket });
        }
    }

    fn choose(&self, place: usize) -> Option<(usize, Arc<Backend>)> {
        let request = self.requests[place].as_ref()?;
        let balancer = &self.balancers[request.balancer];
        let now = self.start + self.now;
        balancer.cluster.step(now);
        let table = balancer.cluster.table();
        let context = PickContext::new(now).tried(&request.tried).hash(request.hash);
        let backend = balancer.policy.pick(&table, &context)?.backend;
        Some((table.position(backend.id())?, backend))
    }

    fn holds(&self, place: usize, ticket: u64) -> bool {
        let request = self.requests[place].as_ref();
        request.and_then(|r| r.current.as_ref()).is_some_and(|current| current.ticket == ticket)
    }

    /// Ends the current try, and tells the policy.
    fn end_try(&mut self, place: usize, well: bool) -> Option<(usize, Duration, Arc<Backend>)> {
        let request = self.requests[place].as_mut()?;
        let Try { lease, server, picked, .. } = request.current.take()?;
        let backend = Arc::clone(lease.backend());
        drop(lease);
        if let Some(observer) = &self.balancers[request.balancer].observer {
            observer.less(&backend);
            let (took, now) = (self.now - picked, self.start + self.now);
            match well {
                true => observer.answered(&backend, took, now),
                false => observer.failed(&backend, took, now),
            }
        }
        Some((server, picked, backend))
    }

    fn answered(&mut self, place: usize) {
        let Some((server, picked, _)) = self.end_try(place, true) else { return };
        let Some(request) = self.requests[place].take() else { return };
        self.free.push(place);
        self.outcome.answered[server] += 1;
        self.outcome.given.push((picked, server as u32));
        if request.counts {
            self.outcome.latencies.push((self.now - request.arrived).as_secs_f64());
        }
    }

    fn failed(&mut self, place: usize) {
        let Some((_, _, backend)) = self.end_try(place, false) else { return };
        self.outcome.failures += 1;
        let Some(request) = &mut self.requests[place] else { return };
        request.tried.push(backend.id());
        match request.tried.len() > RETRIES {
            true => self.give_up(place),
            false => self.pick(place),
        }
    }

    fn give_up(&mut self, place: usize) {
        self.outcome.lost += 1;
        self.requests[place] = None;
        self.free.push(place);
    }

    fn down(&mut self, server: usize) {
        self.servers[server] = Live { down: true, ..Live::default() };
        self.at(self.now + self.setup.detection, Event::Noticed { server, up: false });
        let there = |request: &Option<Request>| {
            let current = request.as_ref().and_then(|request| request.current.as_ref());
            current.is_some_and(|current| current.server == server)
        };
        let places: Vec<_> =
            (0..self.requests.len()).filter(|i| there(&self.requests[*i])).collect();
        places.into_iter().for_each(|place| self.failed(place));
    }
}

impl Balancer {
    fn new(setup: &Setup, policy: Box<dyn Policy>) -> Self {
        let mut builder = Cluster::builder("simulated");
        for (i, server) in setup.servers.iter().enumerate() {
            // Nobody dials it.
            let address = SocketAddr::from(([127, 0, 0, 1], 1));
            builder = builder.add(Backend::new(name(i), address.into()).with_weight(server.weight));
        }
        if let Some(slow_start) = setup.slow_start {
            builder = builder.slow_start(slow_start);
        }
        let cluster = builder.build().expect("all names differ");
        let (observer, preparation) = (policy.observer(), policy.preparation());
        let balancer = Self { cluster, policy, observer, preparation };
        balancer.prepare();
        balancer
    }

    fn prepare(&self) {
        if let Some(preparation) = &self.preparation {
            preparation.prepare(&self.cluster.table());
        }
    }

    fn noticed(&self, server: usize, up: bool, now: Instant) {
        let state = if up { State::Ready } else { State::Maintenance };
        let changed = self.cluster.update_at(now, |change| change.set_state(&name(server), state));
        changed.expect("the server is a member");
        self.prepare();
    }
}

impl Live {
    /// Takes `work` in, and says when it will be done.
    fn take(&mut self, now: Duration, work: Duration) -> Duration {
        let [first, rest @ ..] = &mut self.busy_until;
        let soonest = rest.iter_mut().fold(first, |a, b| if *b < *a { b } else { a });
        *soonest = now.max(*soonest) + work;
        *soonest
    }
}

fn name(server: usize) -> String {
    format!("b{server}")
}

/// How long a connection takes to be refused.
const REFUSAL: Duration = Duration::from_millis(1);

/// As many as `Balance` makes by default.
const RETRIES: usize = 3;
