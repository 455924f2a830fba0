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
