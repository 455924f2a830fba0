use std::time::Duration;

use bartizan_net::clock::SystemClock;
use bartizan_testkit::{KeyType, Leaf, Minted, TestCa, TestDir};

use super::*;
use crate::{LoadProblem, TicketKeys};

struct Fixture {
    ca: TestCa,
    dir: TestDir,
}

impl Fixture {
    fn new() -> Self {
        Self { ca: TestCa::new("test root"), dir: TestDir::new() }
    }

    fn mint(&self, name: &str) -> Minted {
        self.ca.issue(Leaf::server(name))
    }

    /// Writes a bundle for `name` into `file`.
    fn bundle(&self, file: &str, name: &str) -> Minted {
        let minted = self.mint(name);
        self.dir.write(file, minted.bundle_pem());
        minted
    }

    fn builder(&self) -> CertStoreBuilder {
        CertStore::builder().path(self.dir.path())
    }

    fn source(&self, file: &str) -> String {
        self.dir.join(file).display().to_string()
    }
}

fn file_of(summary: Option<CertSummary>) -> Option<String> {
    let source = summary?.source;
    Some(std::path::Path::new(&*source).file_name()?.to_str()?.to_owned())
}

fn notices(store: &CertStore) -> Vec<String> {
    let found = store.status().notices;
    found.iter().filter(|notice| !notice.is_harmless()).map(ToString::to_string).collect()
}

fn problem(error: StoreError) -> (String, LoadProblem) {
    match error {
        StoreError::Load { first, .. } => {
            let file = first.path().file_name().unwrap().to_str().unwrap().to_owned();
            (file, first.into_problem())
        }
        other => panic!("{other}"),
    }
}

#[test]
fn a_directory_is_read_as_haproxy_reads_it() {
    let f = Fixture::new();
    f.bundle("b.pem", "b.test");
    f.bundle("a.pem", "a.test");
    let split = f.mint("c.test");
    f.dir.write("c.pem", split.chain_pem());
    f.dir.write("c.pem.key", split.key_pem());
    let other = f.mint("d.test");
    f.dir.write("d.crt", other.chain_pem());
    f.dir.write("d.key", other.key_pem());
    for passed_over in [".hidden.pem", "x.sctl", "x.issuer", "x.ocsp", "x.key"] {
        f.dir.write(passed_over, "not a certificate");
    }
    std::fs::create_dir(f.dir.join("z.pem")).unwrap();
    let store = f.builder().build().unwrap();
    let sources: Vec<_> =
        store.certificates().into_iter().map(|cert| file_of(Some(cert)).unwrap()).collect();
    assert_eq!(sources, ["a.pem", "b.pem", "c.pem", "d.crt"]);
    for (name, file) in [("b.test", "b.pem"), ("d.test", "d.crt"), ("unknown.test", "a.pem")] {
        assert_eq!(file_of(store.lookup(name)).as_deref(), Some(file), "{name}");
    }
    assert_eq!(store.status().names, 4);
    assert_eq!(notices(&store), [""; 0]);
}

#[test]
fn a_key_in_the_file_itself_comes_before_one_beside_it() {
    let f = Fixture::new();
    f.bundle("a.pem", "a.test");
    f.dir.write("a.pem.key", f.mint("other.test").key_pem());
    assert!(f.builder().build().is_ok());
}

#[test]
fn a_bundle_name_stands_for_its_kinds_of_key() {
    let f = Fixture::new();
    f.bundle("site.pem.ecdsa", "a.test");
    let rsa = f.ca.issue(Leaf::server("a.test").key(KeyType::Rsa2048));
    f.dir.write("site.pem.rsa", rsa.bundle_pem());
    let store = CertStore::open(f.dir.join("site.pem")).unwrap();
    let keys: Vec<_> = store.certificates().iter().map(|cert| cert.key).collect();
    assert_eq!(keys, [KeyKind::P256, KeyKind::Rsa]);
    assert_eq!(notices(&store), [""; 0]);
}

#[test]
fn an_empty_directory_serves_only_under_strict_sni() {
    let f = Fixture::new();
    let error = f.builder().build().unwrap_err();
    assert!(matches!(&error, StoreError::NoCertificate { places } if places.len() == 1));
    assert!(error.to_string().contains("strict SNI"), "{error}");
    let store = f.builder().strict_sni(true).build().unwrap();
    assert!(store.lookup("a.test").is_none());
    f.bundle("a.pem", "a.test");
    assert_eq!(store.reload().unwrap(), 2);
    assert!(store.lookup("a.test").is_some());
    assert!(store.lookup("b.test").is_none());
}

#[test]
fn names_can_be_said_instead_of_the_certificates_own() {
    let f = Fixture::new();
    f.bundle("a.pem", "a.test");
    f.bundle("b.pem", "b.test");
    let names = ["Bücher.example", "*.other.test"];
    let store = CertStore::builder()
        .path(f.dir.join("a.pem"))
        .path_as(f.dir.join("b.pem"), names)
        .build()
        .unwrap();
    for name in ["xn--bcher-kva.example", "www.other.test"] {
        assert_eq!(file_of(store.lookup(name)).as_deref(), Some("b.pem"), "{name}");
    }
    assert_eq!(file_of(store.lookup("b.test")).as_deref(), Some("a.pem"));
    let bad = CertStore::builder().path_as("x.pem", ["a b"]).build().unwrap_err();
    assert!(matches!(bad, StoreError::Name(_)), "{bad}");
}

#[test]
fn the_same_file_twice_is_loaded_once() {
    let f = Fixture::new();
    f.bundle("a.pem", "a.test");
    let store = f.builder().path(f.dir.join("a.pem")).path(f.dir.path()).build().unwrap();
    assert_eq!(store.certificates().len(), 1);
    assert_eq!(notices(&store), [""; 0]);
}

#[test]
fn duplicate_names_are_told_of() {
    let f = Fixture::new();
    f.bundle("a.pem", "a.test");
    f.bundle("b.pem", "a.test");
    let store = f.builder().build().unwrap();
    assert_eq!(file_of(store.lookup("a.test")).as_deref(), Some("a.pem"));
    let told = notices(&store);
    assert_eq!(told.len(), 1);
    assert!(told[0].starts_with("a.test: ") && told[0].contains("b.pem"), "{told:?}");
}

#[test]
fn a_chain_out_of_order_is_put_right_and_noted() {
    let f = Fixture::new();
    let middle = f.ca.intermediate("intermediate");
    let leaf = middle.issue(Leaf::server("a.test"));
    let chain = middle.cert_pem() + &leaf.cert_pem() + &leaf.key_pem();
    f.dir.write("a.pem", chain);
    let store = f.builder().build().unwrap();
    let entry = Arc::clone(&store.current().entries[0]);
    let ders: Vec<_> = entry.chain().cloned().collect();
    assert_eq!(ders, leaf.chain_der());
    let found = store.status().notices;
    assert!(matches!(&found[..], [Notice::ChainReordered { .. }]), "{found:?}");
}

#[test]
fn an_issuer_beside_the_certificate_completes_its_chain() {
    let f = Fixture::new();
    let middle = f.ca.intermediate("intermediate");
    let leaf = middle.issue(Leaf::server("a.test"));
    f.dir.write("a.pem", leaf.cert_pem() + &leaf.key_pem());
    let store = f.builder().build().unwrap();
    let found = store.status().notices;
    assert!(
        matches!(&found[..], [Notice::IssuerMissing { issuer, .. }] if issuer.contains("intermediate")),
        "{found:?}"
    );

    f.dir.write("a.issuer", f.ca.cert_pem() + &middle.cert_pem());
    store.reload().unwrap();
    let current = store.current();
    let ders: Vec<_> = current.entries[0].chain().cloned().collect();
    assert_eq!(ders[..2], leaf.chain_der()[..]);
}

#[test]
fn a_bad_file_keeps_the_last_good_generation_whole() {
    let f = Fixture::new();
    f.bundle("a.pem", "a.test");
    f.bundle("b.pem", "b.test");
    let store = f.builder().build().unwrap();
    let good = f.mint("c.test").bundle_pem();
    f.dir.write("a.pem", f.mint("new.test").bundle_pem());
    f.dir.write("c.pem", &good[..good.len() / 2]);
    let (file, what) = problem(store.reload().unwrap_err());
    assert_eq!(file, "c.pem");
    assert!(matches!(what, LoadProblem::BadPem(_)), "{what:?}");
    let status = store.status();
    assert_eq!((status.generation, status.certificates), (1, 2));
    assert!(status.failure.unwrap().0.contains("c.pem"));
    assert_eq!(file_of(store.lookup("a.test")).as_deref(), Some("a.pem"));
    assert_eq!(store.lookup("new.test").unwrap().names, ["a.test"], "the default, as before");

    f.dir.write("c.pem", good);
    assert_eq!(store.reload().unwrap(), 2);
    assert!(store.status().failure.is_none());
    assert_eq!(file_of(store.lookup("c.test")).as_deref(), Some("c.pem"));
    assert_eq!(store.lookup("new.test").unwrap().names, ["new.test"]);
}

#[test]
fn a_directory_that_vanishes_keeps_the_last_good_generation() {
    let f = Fixture::new();
    f.bundle("a.pem", "a.test");
    let store = f.builder().build().unwrap();
    std::fs::remove_dir_all(f.dir.path()).unwrap();
    assert!(matches!(problem(store.reload().unwrap_err()).1, LoadProblem::Unreadable(_)));
    assert_eq!(store.lookup("a.test").unwrap().names, ["a.test"]);
}

#[test]
fn a_key_of_another_certificate_is_found_out_without_building_it() {
    let f = Fixture::new();
    for key in [KeyType::P256, KeyType::P384, KeyType::Rsa2048] {
        let (one, other) = (Leaf::server("a.test").key(key), Leaf::server("a.test").key(key));
        let (one, other) = (f.ca.issue(one), f.ca.issue(other));
        f.dir.write("a.pem", one.chain_pem() + &other.key_pem());
        let (_, what) = problem(f.builder().build().unwrap_err());
        assert!(matches!(what, LoadProblem::KeyMismatch { .. }), "{key:?}: {what:?}");
        f.dir.write("a.pem", one.bundle_pem());
        let store = f.builder().build().unwrap();
        assert!(!store.current().entries[0].is_built(), "{key:?}");
    }
}

#[test]
fn expired_certificates_are_refused_by_themselves_and_noted_among_others() {
    let f = Fixture::new();
    let hour = Duration::from_secs(3_600);
    let now = SystemClock.now();
    let old = f.ca.issue(Leaf::server("old.test").not_after(now - hour));
    f.dir.write("old.pem", old.bundle_pem());
    f.bundle("new.pem", "new.test");
    let (_, what) = problem(CertStore::open(f.dir.join("old.pem")).unwrap_err());
    assert!(matches!(what, LoadProblem::Expired { .. }), "{what:?}");
    let store = f.builder().build().unwrap();
    assert!(matches!(&notices(&store)[..], [one] if one.contains("expired on")));
    assert_eq!(file_of(store.lookup("old.test")).as_deref(), Some("old.pem"));

    // One that expires while it is served holds up nothing that is loaded beside it.
    let soon = f.ca.issue(Leaf::server("soon.test").not_after(now + hour));
    f.dir.write("soon.pem", soon.bundle_pem());
    let clock = Arc::new(TestClock(Mutex::new(now)));
    let one = CertStore::builder().path(f.dir.join("soon.pem")).clock(Arc::clone(&clock));
    let store = one.build().unwrap();
    *clock.0.lock().unwrap() = now + hour * 2;
    assert_eq!(store.reload().unwrap(), 2);
    assert!(matches!(&notices(&store)[..], [one] if one.contains("expired on")));
}

#[test]
fn what_has_not_changed_keeps_its_key() {
    let f = Fixture::new();
    for file in ["a", "b", "c"] {
        f.bundle(&format!("{file}.pem"), &format!("{file}.test"));
    }
    let sources = [files::Source { place: files::Place::Path(f.dir.path().into()), names: None }];
    let now = SystemClock.now();
    // Long after the files were written, or a further change could not be told.
    let load = |known: &[Arc<Entry>], settled| {
        let known = known.iter().map(|entry| (&*entry.source, entry)).collect();
        files::load(&sources, &files::Loading { staple: true, now, settled, known }).unwrap()
    };
    let later = now + Duration::from_secs(60);
    let before = load(&[], later);
    f.bundle("b.pem", "b.test");
    f.dir.write("c.pem.ocsp", "not a response");
    let after = load(&before, later);
    assert!(Arc::ptr_eq(&before[0], &after[0]));
    assert!(!Arc::ptr_eq(&before[1], &after[1]), "the file was replaced");
    assert!(!Arc::ptr_eq(&before[2], &after[2]), "a side file came");
    let again = load(&after, later);
    assert!(!Arc::ptr_eq(&after[2], &again[2]), "a remark may be out of date");
    let at_once = load(&[], now);
    assert!(!Arc::ptr_eq(&at_once[0], &load(&at_once, later)[0]), "it may have changed unnoticed");
}

#[test]
fn a_directory_that_was_emptied_keeps_the_last_good_generation() {
    let f = Fixture::new();
    f.bundle("a.pem", "a.test");
    let store = f.builder().strict_sni(true).build().unwrap();
    std::fs::remove_file(f.dir.join("a.pem")).unwrap();
    assert!(matches!(store.reload(), Err(StoreError::NoCertificate { .. })));
    assert!(store.lookup("a.test").is_some());
}

#[test]
fn names_said_for_a_file_count_before_its_directory() {
    let f = Fixture::new();
    f.bundle("a.pem", "a.test");
    f.bundle("b.pem", "b.test");
    let store = f.builder().path_as(f.dir.join("a.pem"), ["other.test"]).build().unwrap();
    assert_eq!(file_of(store.lookup("other.test")).as_deref(), Some("a.pem"));
    assert_eq!(file_of(store.lookup("a.test")).as_deref(), Some("b.pem"), "the default");
    assert_eq!(store.certificates().len(), 2);
}

#[test]
fn rules_of_a_name_take_what_they_do_not_say_from_its_wildcard() {
    let f = Fixture::new();
    f.bundle("a.pem", "a.test");
    let staff = TestCa::new("staff");
    let required = || {
        let ca = crate::PemSource::memory("staff", staff.cert_pem().into_bytes());
        HostRules::new().client_auth(crate::ClientAuth::required(ca))
    };
    let store = f
        .builder()
        .host(["*.a.test"], required())
        .host(["x.a.test"], HostRules::new().alpn(["h2"]))
        .build()
        .unwrap();
    let current = store.current();
    let class = |name| current.class_of(current.policy_of(Some(name)));
    assert_eq!(class("x.a.test"), class("y.a.test"));
    assert_ne!(class("x.a.test"), class("a.test"));
    assert_ne!(current.policy_of(Some("x.a.test")), current.policy_of(Some("y.a.test")));
    let twice = f.builder().host(["A.test"], HostRules::new()).host(["a.test"], required());
    assert!(
        matches!(twice.build().unwrap_err(), StoreError::TwoRules { name } if name == "a.test")
    );
}

#[test]
fn hosts_with_the_same_rules_share_a_policy() {
    let f = Fixture::new();
    f.bundle("a.pem", "a.test");
    let names = (0..100).map(|i| format!("host-{i}.test"));
    let store = f.builder().host(names, HostRules::new().alpn(["h2"])).build().unwrap();
    let current = store.current();
    assert_eq!(current.policy_of(Some("host-1.test")), 1);
    assert_eq!(current.policy_of(Some("host-99.test")), 1);
    assert_eq!(current.policy_of(None), 0);
}

#[test]
fn the_status_is_told_while_something_is_loaded() {
    let f = Fixture::new();
    f.bundle("a.pem", "a.test");
    let store = f.builder().build().unwrap();
    let _loading = store.shared.reload.lock().unwrap();
    assert_eq!(store.status().generation, 1);
}

#[test]
fn a_new_authority_ends_no_connection_for_its_date() {
    let f = Fixture::new();
    f.bundle("a.pem", "a.test");
    let hour = Duration::from_secs(3_600);
    let now = SystemClock.now();
    let clients = TestCa::new("clients");
    let files = TestDir::new();
    let ca = files.write("ca.pem", clients.cert_pem());
    let clock = Arc::new(TestClock(Mutex::new(now)));
    let auth = crate::ClientAuth::required(ca);
    let store = f.builder().client_auth(auth).clock(Arc::clone(&clock)).build().unwrap();
    let leaf = clients.issue(Leaf::client("svc").not_after(now + hour));
    let client = Arc::new(crate::peer::client_identity(&leaf.chain_der()));
    let member = store.shared().live().join(Some(client), 0);
    *clock.0.lock().unwrap() = now + hour * 2;
    files.write("ca.pem", clients.cert_pem() + &TestCa::new("another").cert_pem());
    store.reload().unwrap();
    assert_eq!(member.why(), None, "`Withdrawal`: a client's certificate expires, goes on");
    files.write("ca.pem", TestCa::new("another").cert_pem());
    store.reload().unwrap();
    assert!(matches!(member.why(), Some(WithdrawnWhy::Distrusted(_))));
}

#[test]
fn what_is_watched_is_loaded_when_it_changes_and_again_when_it_failed() {
    let f = Fixture::new();
    f.bundle("a.pem", "a.test");
    let hour = Duration::from_secs(3_600);
    let now = SystemClock.now();
    let clock = Arc::new(TestClock(Mutex::new(now)));
    let path = f.dir.join("a.pem");
    let store = CertStore::builder().path(path).clock(Arc::clone(&clock)).watch().unwrap();
    f.bundle("a.pem", "b.test");
    until(|| store.serves("b.test") && store.status().generation >= 2);
    // This machine's clock is behind the authority's.
    let next = f.ca.issue(Leaf::server("c.test").not_before(now + hour));
    f.dir.write("a.pem", next.bundle_pem());
    until(|| store.status().failure.is_some());
    *clock.0.lock().unwrap() = now + hour * 2;
    // Anything that wakes the watch will do.
    f.dir.write("unrelated", "");
    until(|| store.status().failure.is_none());
    assert_eq!(store.certificates()[0].names, ["c.test"]);
}

#[test]
fn links_that_are_turned_are_noticed() {
    let f = Fixture::new();
    for (folder, name) in [("one", "one.test"), ("two", "two.test")] {
        std::fs::create_dir(f.dir.join(folder)).unwrap();
        f.bundle(&format!("{folder}/tls.pem"), name);
    }
    // As Kubernetes lays out a secret.
    let link = |to: &str, at: &str| std::os::unix::fs::symlink(to, f.dir.join(at)).unwrap();
    link("one", "..data");
    link("..data/tls.pem", "tls.pem");
    let store = CertStore::watch(f.dir.join("tls.pem")).unwrap();
    assert_eq!(store.certificates()[0].names, ["one.test"]);
    link("two", "..new");
    std::fs::rename(f.dir.join("..new"), f.dir.join("..data")).unwrap();
    until(|| store.certificates()[0].names == ["two.test"]);
}

#[test]
fn the_thread_that_watches_ends_with_the_store() {
    let f = Fixture::new();
    f.bundle("a.pem", "a.test");
    let store = f.builder().watch().unwrap();
    let ended = store.shared.watching.get().unwrap().has_ended();
    assert!(!ended());
    drop(store);
    until(ended);
}

fn until(mut done: impl FnMut() -> bool) {
    for _ in 0..1_000 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("not within ten seconds");
}

#[test]
fn ticket_secrets_are_part_of_the_generation() {
    let f = Fixture::new();
    f.bundle("a.pem", "a.test");
    let secret = TestDir::new();
    secret.write("secret", "short");
    let source = || TicketSource::SecretFile(secret.join("secret"));
    let error = f.builder().tickets(source()).build().unwrap_err();
    assert!(matches!(error, StoreError::Tickets(_)), "{error}");
    secret.write("secret", "0123456789abcdef0123456789abcdef");
    let store = f.builder().tickets(source()).build().unwrap();
    secret.write("secret", "");
    assert!(matches!(store.reload().unwrap_err(), StoreError::Tickets(_)));
    assert_eq!(store.status().generation, 1);
    assert!(f.builder().tickets(TicketKeys::random()).build().is_ok());
}

#[test]
fn debug_shows_no_key() {
    let f = Fixture::new();
    let minted = f.bundle("a.pem", "a.test");
    let builder = f.builder().pem("memory", minted.bundle_pem());
    let shown = format!("{builder:?}");
    let store = builder.build().unwrap();
    let shown = format!("{shown} {store:?} {:?} {:?}", store.status(), store.current());
    for line in minted.key_pem().lines().filter(|line| !line.starts_with('-')) {
        assert!(!shown.contains(line));
    }
    assert!(!shown.contains(&format!("{:?}", minted.key_der().secret_der())));
    assert!(shown.contains(&f.source("a.pem")));
}

/// A clock that tests set.
#[derive(Debug)]
struct TestClock(Mutex<SystemTime>);

impl Clock for TestClock {
    fn now(&self) -> SystemTime {
        *self.0.lock().unwrap()
    }
}
