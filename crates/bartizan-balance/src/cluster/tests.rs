use super::*;

fn names(cluster: &Cluster) -> Vec<String> {
    cluster.table().members().iter().map(|b| b.name().to_string()).collect()
}

#[test]
fn what_is_left_in_keeps_its_state() {
    let web = Cluster::builder("web")
        .backend("a", "127.0.0.1:1")
        .backend("b", "127.0.0.1:2")
        .build()
        .unwrap();
    let b = Arc::clone(&web.table().members()[1]);
    web.set_up(&b, false);
    let c = Arc::new(Backend::new("c", "127.0.0.1:3".parse().unwrap()));
    web.update(|change| {
        let members = change.members_mut();
        members.remove(0);
        members.push(c);
    })
    .unwrap();
    assert_eq!(names(&web), ["b", "c"]);
    assert!(!web.table().is_eligible(0) && web.table().is_eligible(1));
    assert_eq!(web.table().members()[0].id(), b.id());
}

#[test]
fn a_bad_change_changes_nothing() {
    let web = Cluster::builder("web").backend("a", "127.0.0.1:1").build().unwrap();
    let twin = Arc::new(Backend::new("a", "127.0.0.1:3".parse().unwrap()));
    let error = web.update(|change| change.add(twin)).unwrap_err();
    assert_eq!(error, ClusterError::DuplicateName { name: "a".into() });
    assert_eq!(names(&web), ["a"]);
}

#[test]
fn a_bad_address_names_the_backend() {
    let error = Cluster::builder("web").backend("a", "nowhere").build().unwrap_err().to_string();
    assert!(error.contains("backend a") && error.contains("nowhere"), "{error}");
}

#[test]
fn only_news_is_published() {
    let web = Cluster::builder("web").backend("a", "127.0.0.1:1").build().unwrap();
    let a = Arc::clone(&web.table().members()[0]);
    assert!(!web.set_up(&a, true));
    assert!(web.set_up(&a, false));
    assert_eq!(web.table().eligible_count(), 0);
    assert!(web.set_up(&a, true));
    assert_eq!(web.table().eligible_count(), 1);
}

#[test]
fn a_change_with_a_time_starts_the_ramp_at_that_time() {
    let ramp = crate::SlowStart::new(std::time::Duration::from_secs(10));
    let web = Cluster::builder("web").backend("a", "127.0.0.1:1").slow_start(ramp).build().unwrap();
    // Far from the time that a clock would tell.
    let later = now() + std::time::Duration::from_secs(1_000);
    let want = |state| web.update_at(later, |change| change.set_state("a", state)).unwrap();
    want(crate::State::Maintenance);
    want(crate::State::Ready);
    assert_eq!(web.table().share(0), 1);
    web.step(later + std::time::Duration::from_secs(5));
    assert_eq!(web.table().share(0), 8);
    web.step(later + std::time::Duration::from_secs(10));
    assert_eq!(web.table().share(0), 16);
}
