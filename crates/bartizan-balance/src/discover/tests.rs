use bartizan_net::Target;
use futures_util::Stream;
use futures_util::stream::{self, poll_fn};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use super::*;

type Item = Result<Change<u32, Backend>, &'static str>;

/// A discovery that says what is sent, and ends with the sender.
fn channel() -> (UnboundedSender<Item>, impl Stream<Item = Item>) {
    let (tell, mut told) = unbounded_channel();
    (tell, poll_fn(move |cx| told.poll_recv(cx)))
}

fn backend(name: &str, port: u16) -> Backend {
    Backend::new(name, format!("127.0.0.1:{port}").parse().unwrap())
}

fn insert(key: u32, backend: Backend) -> Item {
    Ok(Change::Insert(key, backend))
}

fn remove(key: u32) -> Item {
    Ok(Change::Remove(key))
}

fn empty() -> Cluster {
    Cluster::builder("web").build().unwrap()
}

fn names(cluster: &Cluster) -> Vec<String> {
    cluster.table().members().iter().map(|member| member.name().to_string()).collect()
}

fn member(cluster: &Cluster, name: &str) -> Arc<Backend> {
    let table = cluster.table();
    let found = table.members().iter().find(|member| **member.name() == *name);
    Arc::clone(found.unwrap())
}

/// Says all this at once, and lets it take effect.
async fn say<const N: usize>(tell: &UnboundedSender<Item>, items: [Item; N]) {
    items.into_iter().for_each(|item| tell.send(item).unwrap());
    settle().await;
}

async fn settle() {
    // With paused time this returns when all tasks wait for something else.
    sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_there_at_once_is_published_at_once() {
    let web = empty();
    let (tell, told) = channel();
    for key in 0..2_000 {
        tell.send(insert(key, backend(&key.to_string(), 80))).unwrap();
    }
    let mut versions = web.versions();
    let before = *versions.borrow_and_update();
    let _following = web.follow(told);
    versions.changed().await.unwrap();
    assert_eq!(web.table().members().len(), 2_000);
    settle().await;
    assert!(!versions.has_changed().unwrap(), "one table since {before}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_always_ready_lets_others_run() {
    let web = empty();
    let mut turn = 0;
    let _following = web.follow(stream::repeat_with(move || {
        turn += 1;
        insert(0, backend("a", turn))
    }));
    for _ in 0..3 {
        yield_now().await;
    }
    assert_eq!(names(&web), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn the_same_server_stays_itself_and_gets_its_new_weight() {
    let web = empty();
    let (tell, told) = channel();
    let _following = web.follow(told);
    say(&tell, [insert(1, backend("a", 1)), insert(2, backend("b", 2))]).await;
    let a = member(&web, "a");
    let membership = web.table().membership();
    let _in_flight = crate::Lease::new(Arc::clone(&a));
    say(&tell, [insert(1, backend("a", 1).with_weight(7))]).await;
    assert!(Arc::ptr_eq(&a, &member(&web, "a")));
    assert_eq!((a.weight(), a.in_flight()), (7, 1));
    assert_eq!(web.table().membership(), membership, "nobody came or went");
    say(&tell, [remove(1), insert(1, backend("a", 1).with_weight(7))]).await;
    assert!(Arc::ptr_eq(&a, &member(&web, "a")), "gone and back at once");
}

#[tokio::test(start_paused = true)]
async fn another_server_takes_the_place_of_the_one_with_its_key() {
    let others: [fn(Backend) -> Backend; 4] = [
        |_| backend("a", 9),
        |a| a.with_server_name("a.test"),
        |a| a.with_role(crate::Role::Backup),
        |a| a.with_limits(crate::Limits::none().max(1)),
    ];
    for other in others {
        let web = empty();
        let (tell, told) = channel();
        let _following = web.follow(told);
        say(&tell, [insert(1, backend("a", 1)), insert(2, backend("b", 2))]).await;
        let a = member(&web, "a");
        say(&tell, [insert(1, other(backend("a", 1)))]).await;
        assert_eq!(names(&web), ["a", "b"]);
        assert_ne!(member(&web, "a").id(), a.id());
    }
}

#[tokio::test(start_paused = true)]
async fn names_may_change_hands_in_one_step() {
    let web = empty();
    let (tell, told) = channel();
    let _following = web.follow(told);
    say(&tell, [insert(1, backend("a", 1)), insert(2, backend("b", 2))]).await;
    say(&tell, [insert(1, backend("b", 1)), insert(2, backend("a", 2))]).await;
    assert_eq!(names(&web), ["b", "a"]);
    assert_eq!(member(&web, "a").address().port(), 2);
    say(&tell, [insert(3, backend("a", 3)), remove(2)]).await;
    assert_eq!(names(&web), ["b", "a"]);
    assert_eq!(member(&web, "a").address().port(), 3);
}

#[tokio::test(start_paused = true)]
async fn what_comes_from_elsewhere_is_left_alone() {
    let web = Cluster::builder("web").backend("static", "127.0.0.1:1").build().unwrap();
    let fixed = member(&web, "static");
    let (tell, told) = channel();
    let _following = web.follow(told);
    say(&tell, [insert(1, backend("static", 2)), insert(2, backend("b", 2))]).await;
    assert_eq!(names(&web), ["static", "b"], "the rest is there");
    assert_eq!(member(&web, "static").id(), fixed.id());
    say(&tell, [remove(2)]).await;
    web.update(|change| change.remove("static")).unwrap();
    say(&tell, [insert(3, backend("c", 3))]).await;
    assert_eq!(names(&web), ["c", "static"], "its name is free");
    assert_eq!(member(&web, "static").address().port(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_was_left_out_takes_nothing_with_it_when_it_goes() {
    let web = Cluster::builder("web").backend("static", "127.0.0.1:1").build().unwrap();
    let (tell, told) = channel();
    let _following = web.follow(told);
    say(&tell, [insert(1, backend("static", 2))]).await;
    say(&tell, [remove(1), remove(9)]).await;
    assert_eq!(names(&web), ["static"]);
}

#[tokio::test(start_paused = true)]
async fn what_an_operator_took_out_comes_back_when_it_is_inserted_again() {
    let web = empty();
    let (tell, told) = channel();
    let _following = web.follow(told);
    say(&tell, [insert(1, backend("a", 1))]).await;
    web.update(|change| change.remove("a")).unwrap();
    say(&tell, [insert(2, backend("b", 2))]).await;
    assert_eq!(names(&web), ["b"]);
    say(&tell, [insert(1, backend("a", 1))]).await;
    assert_eq!(names(&web), ["b", "a"]);
}

#[tokio::test(start_paused = true)]
async fn a_failure_or_an_end_leaves_the_backends() {
    let web = empty();
    let (tell, told) = channel();
    let _following = web.follow(told);
    say(&tell, [insert(1, backend("a", 1)), Err("broken"), insert(2, backend("b", 2))]).await;
    assert_eq!(names(&web), ["a"], "a pause after the failure");
    sleep(PAUSE).await;
    assert_eq!(names(&web), ["a", "b"]);
    drop(tell);
    settle().await;
    assert_eq!(names(&web), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_followed_without_the_guard() {
    let web = empty();
    let (tell, told) = channel();
    let following = web.follow(told);
    say(&tell, [insert(1, backend("a", 1))]).await;
    drop(following);
    settle().await;
    assert!(tell.send(remove(1)).is_err(), "nobody listens");
    assert_eq!(names(&web), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_discovered_while_checks_start_down_starts_down() {
    let web = empty();
    let checks = crate::Checks::tcp().init_state(crate::InitState::Down);
    let _checks = web.check(checks.every(Duration::from_secs(3_600)));
    let (tell, told) = channel();
    let _following = web.follow(told);
    tell.send(insert(1, backend("a", 1))).unwrap();
    let mut membership = web.membership();
    membership.changed().await.unwrap();
    assert_eq!((web.table().members().len(), web.table().eligible_count()), (1, 0));
}
