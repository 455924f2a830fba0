use std::future::poll_fn;
use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use tokio::time::{sleep, timeout};

use super::*;
use crate::{Affinity, BoxError, Cluster, KeyOf, Pick, Reason, Tie};

/// A store in memory that may be slow, or fail.
#[derive(Clone, Default)]
struct Store(Arc<Kept>);

#[derive(Default)]
struct Kept {
    pins: Mutex<HashMap<Key<'static>, Arc<str>>>,
    find_takes: Mutex<Duration>,
    put_takes: Mutex<Duration>,
    broken: Mutex<bool>,
    puts: AtomicUsize,
}

impl Store {
    fn works(&self) -> Result<(), BoxError> {
        if *self.0.broken.lock().unwrap() { Err("out of order".into()) } else { Ok(()) }
    }

    fn break_down(&self, broken: bool) {
        *self.0.broken.lock().unwrap() = broken;
    }

    fn pin(&self, key: &Key<'static>) -> Option<Arc<str>> {
        self.0.pins.lock().unwrap().get(key).cloned()
    }

    fn puts(&self) -> usize {
        self.0.puts.load(Ordering::Relaxed)
    }
}

impl StickStore for Store {
    async fn find(&self, key: &Key<'static>) -> Result<Option<Arc<str>>, BoxError> {
        let takes = *self.0.find_takes.lock().unwrap();
        sleep(takes).await;
        self.works()?;
        Ok(self.pin(key))
    }

    async fn put(&self, key: &Key<'static>, backend: &Arc<str>) -> Result<(), BoxError> {
        self.0.puts.fetch_add(1, Ordering::Relaxed);
        let takes = *self.0.put_takes.lock().unwrap();
        sleep(takes).await;
        self.works()?;
        self.0.pins.lock().unwrap().insert(key.clone(), Arc::clone(backend));
        Ok(())
    }

    async fn remove(&self, key: &Key<'static>) -> Result<(), BoxError> {
        self.works()?;
        self.0.pins.lock().unwrap().remove(key);
        Ok(())
    }
}

struct Scene {
    store: Store,
    cluster: Cluster,
}

struct Address;

impl KeyOf<u32> for Address {
    fn key<'r>(&self, request: &'r u32) -> Option<Key<'r>> {
        Some(ip(*request))
    }
}

impl Scene {
    fn new() -> Self {
        let cluster = Cluster::builder("web").backend("a", "127.0.0.1:1");
        let cluster = cluster.backend("b", "127.0.0.1:2").build().unwrap();
        Self { store: Store::default(), cluster }
    }

    /// One of several that share the store.
    fn instance(&self) -> SharedSticky<Store, Address> {
        SharedSticky::new(self.store.clone(), self.cluster.clone(), Address)
    }

    fn backend(&self, name: &str) -> Arc<Backend> {
        let table = self.cluster.table();
        Arc::clone(&table.members()[table.position_of_name(name).unwrap()])
    }

    fn pick(&self, name: &str) -> Pick {
        Pick::new(self.backend(name), "test", Reason::Drawn)
    }
}

async fn pinned(tie: &mut impl Tie) -> Option<BackendId> {
    Some(poll_fn(|cx| tie.poll_pin(cx)).await?.backend)
}

/// Lets writes end that take no time.
async fn settle() {
    sleep(ms(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_pin_counts_for_all_instances() {
    let scene = Scene::new();
    let (one, two) = (scene.instance(), scene.instance());
    let mut tie = one.tie(&7, now());
    assert_eq!(pinned(&mut tie).await, None);
    assert_eq!(tie.hash(), Some(ip(7).hash()));
    tie.propose(&scene.backend("b"));
    tie.settled(&scene.pick("b"));
    settle().await;
    assert_eq!(scene.store.pin(&ip(7)).as_deref(), Some("b"));
    let mut other = two.tie(&7, now());
    assert_eq!(pinned(&mut other).await, Some(scene.backend("b").id()));
    other.settled(&scene.pick("b"));
    settle().await;
    assert_eq!(scene.store.puts(), 1, "it is there already");
    two.forget(&ip(7)).await.unwrap();
    assert_eq!(pinned(&mut one.tie(&7, now())).await, None, "forgotten by all");
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_has_left_pins_nobody_and_is_replaced() {
    let scene = Scene::new();
    let instance = scene.instance();
    scene.store.0.pins.lock().unwrap().insert(ip(7), "gone".into());
    let mut tie = instance.tie(&7, now());
    assert_eq!(pinned(&mut tie).await, None);
    tie.propose(&scene.backend("a"));
    tie.settled(&scene.pick("a"));
    settle().await;
    assert_eq!(scene.store.pin(&ip(7)).as_deref(), Some("a"));
}

#[tokio::test(start_paused = true)]
async fn a_slow_or_broken_store_pins_nobody_and_delays_no_longer_than_agreed() {
    let scene = Scene::new();
    let instance = scene.instance().deadline(ms(20));
    scene.store.0.pins.lock().unwrap().insert(ip(7), "a".into());
    *scene.store.0.find_takes.lock().unwrap() = ms(19);
    assert!(pinned(&mut instance.tie(&7, now())).await.is_some());
    *scene.store.0.find_takes.lock().unwrap() = Duration::from_secs(60);
    let answer = timeout(ms(21), pinned(&mut instance.tie(&7, now()))).await;
    assert_eq!(answer.expect("within the deadline"), None);
    *scene.store.0.find_takes.lock().unwrap() = ms(0);
    scene.store.break_down(true);
    assert_eq!(pinned(&mut instance.tie(&7, now())).await, None);
    assert!(instance.forget(&ip(7)).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn simultaneous_requests_agree_while_the_store_is_being_told() {
    let scene = Scene::new();
    let instance = scene.instance();
    *scene.store.0.put_takes.lock().unwrap() = ms(50);
    let (mut first, mut second) = (instance.tie(&7, now()), instance.tie(&7, now()));
    assert!(pinned(&mut first).await.is_none() && pinned(&mut second).await.is_none());
    let (a, b) = (scene.backend("a"), scene.backend("b"));
    assert_eq!(first.propose(&a), a.id());
    assert_eq!(second.propose(&b), a.id());
    first.settled(&scene.pick("a"));
    assert_eq!(pinned(&mut instance.tie(&7, now())).await, Some(a.id()), "on its way");
    assert_eq!(scene.store.pin(&ip(7)), None);
    sleep(ms(51)).await;
    assert_eq!(scene.store.pin(&ip(7)).as_deref(), Some("a"));
    assert!(instance.shared.local.is_empty(), "from here on the store alone says");
}

#[tokio::test(start_paused = true)]
async fn a_write_that_failed_is_made_by_the_next_request() {
    let scene = Scene::new();
    let instance = scene.instance();
    scene.store.break_down(true);
    let mut first = instance.tie(&7, now());
    pinned(&mut first).await;
    first.settled(&scene.pick("a"));
    settle().await;
    scene.store.break_down(false);
    let mut next = instance.tie(&7, now());
    assert_eq!(pinned(&mut next).await, Some(scene.backend("a").id()), "remembered here");
    next.settled(&scene.pick("a"));
    settle().await;
    assert_eq!(scene.store.pin(&ip(7)).as_deref(), Some("a"));
    assert_eq!(scene.store.puts(), 2);
}

#[tokio::test(start_paused = true)]
async fn no_more_writes_are_on_their_way_than_agreed() {
    let scene = Scene::new();
    let instance = scene.instance().writes(2);
    *scene.store.0.put_takes.lock().unwrap() = ms(50);
    for key in 0..5 {
        let mut tie = instance.tie(&key, now());
        pinned(&mut tie).await;
        tie.settled(&scene.pick("a"));
    }
    sleep(ms(60)).await;
    assert_eq!(scene.store.puts(), 2);
    let mut tie = instance.tie(&4, now());
    pinned(&mut tie).await;
    tie.settled(&scene.pick("a"));
    sleep(ms(60)).await;
    assert_eq!(scene.store.puts(), 3, "there is room again");
}
