//! Anything that may happen, in any order.

use super::queue::{Answer, Arrivals, Dial, backend, gate, of, settle};
use super::*;
use crate::{
    Affinity, BackendId, LeastConn, Limits, OnDrain, OnPinnedDown, Pin, PowerOfTwo, Rendezvous,
    SlowStart, State, StickyContract, Tie,
};
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::task::JoinHandle;

#[derive(Clone)]
struct Whoever(Arc<Mutex<Option<Pin>>>, Arc<AtomicU64>);
struct Held(Option<Pin>, u64);
impl<Req> Affinity<Req> for Whoever {
    type Tie = Held;
    fn tie(&self, _: &Req, _: std::time::Instant) -> Held {
        Held(*self.0.lock().unwrap(), self.1.load(Ordering::Relaxed))
    }
}
impl Tie for Held {
    fn hash(&self) -> Option<u64> {
        Some(self.1).filter(|h| h % 3 != 0)
    }
    fn poll_pin(&mut self, _: &mut Context<'_>) -> Poll<Option<Pin>> {
        Poll::Ready(self.0)
    }
}

fn random(state: &mut u64, below: u64) -> u64 {
    *state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
    (*state >> 33) % below
}

async fn churn<P: Policy + Send + Sync + 'static>(seed: u64, policy: P) {
    let mut rng = seed;
    let r = &mut rng;
    let min = random(r, 2) == 0;
    let limits = |r: &mut u64| {
        let limits = Limits::none().max(random(r, 4) as u32).queue(random(r, 3) as u32);
        if min { limits.min(1) } else { limits }
    };
    let mut web = of(["a", "b", "c"].map(|name| backend(name, limits(r))))
        .queue(4 + random(r, 20) as usize)
        .full_load(10);
    if random(r, 2) == 0 {
        web = web.slow_start(SlowStart::new(Duration::from_secs(3)));
    }
    if random(r, 2) == 0 {
        web = web.panic_below(crate::MinHealthy::percent(50));
    }
    let web = web.build().unwrap();
    let all: Vec<_> = web.table().members().to_vec();
    let refuses: Arc<Mutex<Vec<BackendId>>> = Arc::default();
    let (inner, mut arrivals): (Dial, Arrivals) = gate();
    let no = Arc::clone(&refuses);
    let dial = Dial::new(service_fn(move |backend: Arc<Backend>| {
        let refused = no.lock().unwrap().contains(&backend.id());
        let inner = inner.clone();
        async move { if refused { Err("refused".into()) } else { inner.oneshot(backend).await } }
    }));
    let who = Whoever(Arc::default(), Arc::default());
    let balance = BalanceLayer::new(web.clone(), policy).affinity(who.clone()).layer(dial);
    let mut tasks: Vec<JoinHandle<Answer>> = Vec::new();
    let mut here = Vec::new();
    for step in 0..300 {
        let op = random(r, 16);
        match op {
            0..=5 => {
                let down = match random(r, 3) {
                    0 => OnPinnedDown::Repin,
                    1 => OnPinnedDown::Fail,
                    _ => OnPinnedDown::Wait(Duration::from_secs(random(r, 4))),
                };
                let drain = if random(r, 2) == 0 { OnDrain::Honour } else { OnDrain::Migrate };
                let contract = StickyContract::new().on_down(down).on_drain(drain);
                let pin = Pin::new(all[random(r, 3) as usize].id(), "t", contract);
                *who.0.lock().unwrap() = Some(pin).filter(|_| random(r, 2) == 0);
                who.1.store(random(r, 1 << 30), Ordering::Relaxed);
                let call = balance.clone().oneshot(Get("x"));
                tasks.push(tokio::spawn(call.map(|answer| answer.map(drop))));
            }
            6..=8 if !here.is_empty() => {
                drop(here.swap_remove(random(r, here.len() as u64) as usize))
            }
            9 if !tasks.is_empty() => {
                tasks.swap_remove(random(r, tasks.len() as u64) as usize).abort()
            }
            10 => {
                let i = random(r, 3) as usize;
                let up = random(r, 2) == 0;
                web.set_up(&all[i], up);
            }
            11 => {
                let (i, s) = (random(r, 3) as usize, random(r, 4));
                let state =
                    [State::Ready, State::Ready, State::Drain, State::Maintenance][s as usize];
                if web.table().position(all[i].id()).is_some() {
                    web.update(|c| c.set_state(all[i].name(), state)).unwrap();
                }
            }
            12 => {
                let (i, w) = (random(r, 3) as usize, random(r, 4) as u16);
                if web.table().position(all[i].id()).is_some() {
                    web.update(|c| c.set_weight(all[i].name(), w)).unwrap();
                }
            }
            13 => {
                let keep = 1 + random(r, 7);
                let stay: Vec<_> = all
                    .iter()
                    .enumerate()
                    .filter(|(i, _)| keep >> i & 1 == 1)
                    .map(|(_, b)| b.clone())
                    .collect();
                web.update(|c| c.replace_all(stay)).unwrap();
            }
            14 => {
                let id = all[random(r, 3) as usize].id();
                let mut no = refuses.lock().unwrap();
                if no.contains(&id) { no.retain(|other| *other != id) } else { no.push(id) }
            }
            _ => sleep(Duration::from_millis(random(r, 900))).await,
        }
        settle().await;
        while let Ok(arrival) = arrivals.try_recv() {
            here.push(arrival);
        }
        let table = web.table();
        if let Some(p) = web.queue().stalled(&table) {
            let m = &table.members()[p];
            panic!(
                "seed {seed} step {step} min {min} at {p}: {:?} in flight {} queued {} standing {:?} eligible {} limit {:?} share {} counts {:?} panic {} op {op}",
                m.limits(),
                m.in_flight(),
                m.queued(),
                table.standing(p),
                table.is_eligible(p),
                table.limit(p),
                table.share(p),
                web.queue().counts(),
                table.in_panic()
            );
        }
        if !min
            && web
                .table()
                .shares()
                .iter()
                .zip(table.members().iter())
                .all(|(s, m)| *s == 16 * u32::from(m.weight()))
        {
            // Limits never shrink but by slow start.
            for member in &all {
                let over =
                    member.limits().max.is_some_and(|m| member.in_flight() > m.get() as usize);
                assert!(!over, "seed {seed} step {step}");
            }
        }
    }
    tasks.iter().for_each(|task| task.abort());
    drop(here);
    settle().await;
    assert_eq!(web.queue().counts(), [0; 4], "seed {seed}");
    for member in &all {
        assert_eq!((member.in_flight(), member.queued()), (0, 0), "seed {seed}");
    }
    assert_eq!(
        web.queue().load().limit(Limits::none().max(10).min(1), (1, 1)).unwrap().get(),
        1,
        "seed {seed}"
    );
    drop((balance, web, tasks));
    settle().await;
    assert!(all.iter().all(|member| Arc::strong_count(member) == 1), "seed {seed}: a leak");
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_while_there_is_a_slot_whatever_happens() {
    for seed in 0..40 {
        churn(seed * 4, RoundRobin::new()).await;
        churn(seed * 4 + 1, LeastConn::new()).await;
        churn(seed * 4 + 2, PowerOfTwo::seeded(seed)).await;
        churn(seed * 4 + 3, Rendezvous::new()).await;
    }
}
