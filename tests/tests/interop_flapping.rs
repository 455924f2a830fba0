//! Real backends that die, freeze and restart under a load, which notices nothing.
//!
//! Each script is played three times in a row.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::time::Duration;

use bartizan_tests::{Nginx, Proxy, Site, Wrk, eventually};
use tokio::sync::{Mutex, MutexGuard};
use tokio::time::Instant;

const INTERVAL: Duration = Duration::from_millis(200);

const FALL: u32 = 2;

const FLAGS: [&str; 10] = [
    "--check",
    "http:/check",
    "--check-interval",
    "200ms",
    "--check-timeout",
    "200ms",
    "--fall",
    "2",
    "--rise",
    "2",
];

const NAMES: [&str; 3] = ["web1", "web2", "web3"];

const ROUNDS: usize = 3;

/// So many more requests prove that a backend gets its share.
const A_FEW: usize = 100;

/// Two loads at a time would make checks late, and what is found out here is when they fail.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Three backends, a proxy that checks them, and a load on it.
struct Scene {
    backends: Vec<Nginx>,
    proxy: Proxy,
    load: Wrk,
    _site: Site,
    _alone: MutexGuard<'static, ()>,
}

impl Scene {
    async fn set(flags: &[&str]) -> Self {
        let alone = ALONE.lock().await;
        let (site, mut backends) = (Site::new(), Vec::new());
        let mut args = site.args(&[]);
        for name in NAMES {
            let backend = Nginx::with_workers(name).await;
            args.extend(["--backend".to_owned(), format!("{name}={}", backend.addr())]);
            backends.push(backend);
        }
        args.extend(FLAGS.iter().chain(flags).map(|&flag| flag.to_owned()));
        let proxy = Proxy::start(&args);
        let load = Wrk::start(proxy.addr());
        let scene = Self { backends, proxy, load, _site: site, _alone: alone };
        scene.serving([0, 1, 2]).await;
        scene
    }

    /// How many times the log says this of the backend.
    fn said(&self, what: &str, backend: usize) -> usize {
        self.proxy.said(&[what, NAMES[backend]])
    }

    /// Waits until each of these has served some more.
    async fn serving<const N: usize>(&self, backends: [usize; N]) {
        for backend in backends {
            let before = self.backends[backend].logged();
            let more = || self.backends[backend].logged() >= before + A_FEW;
            eventually(&format!("more requests at {}", NAMES[backend]), more).await;
        }
    }

    /// Does something to these backends, and waits until they are found to be down, which is in
    /// time: `FALL` checks after it.
    async fn fall<const N: usize>(
        &mut self,
        backends: [usize; N],
        survivor: usize,
        mut harm: impl AsyncFnMut(&mut Nginx),
    ) {
        let before = backends.map(|backend| self.said("backend is down", backend));
        for backend in backends {
            harm(&mut self.backends[backend]).await;
        }
        let (begun, checked) = (Instant::now(), self.backends[survivor].checked());
        for (backend, before) in backends.into_iter().zip(before) {
            let down = || self.said("backend is down", backend) > before;
            eventually(&format!("the fall of {}", NAMES[backend]), down).await;
        }
        let took = begun.elapsed();
        let checks = self.backends[survivor].checked() - checked;
        println!("down after {took:?}, in which a survivor was checked {checks} times");
        // As many for each check that fails, which may take as long as the interval; and some that
        // a busy machine makes late.
        assert!(checks <= 2 * FALL as usize + 4, "{checks} checks");
        assert!(took < INTERVAL * 2 * FALL + SLACK, "{took:?}");
    }

    /// Does something to these backends, and waits until they are up and serve again.
    async fn rise<const N: usize>(
        &mut self,
        backends: [usize; N],
        mut heal: impl AsyncFnMut(&mut Nginx),
    ) {
        for backend in backends {
            let before = self.said("backend is up", backend);
            heal(&mut self.backends[backend]).await;
            let up = || self.said("backend is up", backend) > before;
            eventually(&format!("the rise of {}", NAMES[backend]), up).await;
        }
        self.serving(backends).await;
    }

    /// Ends the load, which has not met a single error.
    fn end(self) {
        println!("{} requests", self.load.finish());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_three_is_killed() {
    let mut scene = Scene::set(&[]).await;
    for round in 0..ROUNDS {
        let (dead, left) = (round % 3, [(round + 1) % 3, (round + 2) % 3]);
        scene.fall([dead], left[0], async |nginx| nginx.kill()).await;
        scene.serving(left).await;
        scene.rise([dead], async |nginx| nginx.restart().await).await;
    }
    scene.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_of_three_are_killed_at_once() {
    let mut scene = Scene::set(&[]).await;
    for round in 0..ROUNDS {
        let (dead, left) = ([round % 3, (round + 1) % 3], (round + 2) % 3);
        scene.fall(dead, left, async |nginx| nginx.kill()).await;
        scene.serving([left]).await;
        scene.rise(dead, async |nginx| nginx.restart().await).await;
    }
    scene.end();
}

/// What it was asked is asked of another, once it is found to be down.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_freezes_and_its_requests_are_taken_from_it() {
    let mut scene = Scene::set(&["--on-marked-down", "shutdown-sessions"]).await;
    for round in 0..ROUNDS {
        let (frozen, left) = (round % 3, [(round + 1) % 3, (round + 2) % 3]);
        scene.fall([frozen], left[0], async |nginx| nginx.freeze()).await;
        // If requests still went there, each connection of the load would soon wait for one.
        scene.serving(left).await;
        scene.rise([frozen], async |nginx| nginx.thaw()).await;
    }
    scene.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_three_are_restarted_one_after_the_other() {
    let mut scene = Scene::set(&[]).await;
    for _ in 0..ROUNDS {
        for backend in 0..3 {
            scene.fall([backend], (backend + 1) % 3, async |nginx| nginx.quit().await).await;
            scene.rise([backend], async |nginx| nginx.restart().await).await;
        }
    }
    scene.end();
}

/// For a machine that has other things to do.
const SLACK: Duration = Duration::from_secs(5);
