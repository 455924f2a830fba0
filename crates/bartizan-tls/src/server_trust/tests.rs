use std::collections::HashSet;
use std::future::poll_fn;
use std::pin::pin;
use std::time::{Duration, SystemTime};

use bartizan_testkit::{Crl, Leaf, Minted, TestCa, TestDir};
use proptest::prelude::*;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{AlertDescription, ClientConfig, Error, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::refusal::take_refusal;
use super::*;
use crate::CertificateProblem as P;
use crate::fingerprint::Fingerprint;
use crate::load::LoadProblem;
use crate::trust::TrustConcern;

fn at(secs: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(secs)
}

/// 2026-01-01, and a day.
const NOW: u64 = 1_767_225_600;
const DAY: u64 = 86_400;

/// What is dialled.
const NAME: &str = "web.test";

fn memory(text: impl Into<Vec<u8>>) -> PemSource {
    PemSource::memory("memory.pem", text.into())
}

fn of(ca: &TestCa) -> ServerTrustBuilder {
    ServerTrust::builder().roots(memory(ca.cert_pem())).clock(FixedClock)
}

#[derive(Debug)]
struct FixedClock;

impl Clock for FixedClock {
    fn now(&self) -> SystemTime {
        at(NOW)
    }
}

fn load(builder: &ServerTrustBuilder) -> ServerTrust {
    builder.clone().load().unwrap()
}

fn verifier(trust: &ServerTrust) -> Arc<dyn ServerCertVerifier> {
    Arc::clone(&trust.current().value.verifier)
}

/// Why a chain is refused, if it is, and with which alert.
fn verdict(
    trust: &ServerTrust,
    chain: &[CertificateDer<'_>],
    name: &str,
    now: u64,
) -> Result<(), (P, AlertDescription)> {
    let (leaf, intermediates) = chain.split_first().unwrap();
    let name = ServerName::try_from(name).unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
    let verifier = verifier(trust);
    let verify = || verifier.verify_server_cert(leaf, intermediates, &name, &[], now);
    match observe(verify) {
        (Ok(_), refused) => {
            assert!(refused.is_none());
            Ok(())
        }
        (Err(error), refused) => {
            let refused = refused.expect("a record of each refusal");
            assert_eq!(refused.presented, PresentedCertificate::read(leaf));
            let Error::InvalidCertificate(error) = error else { panic!("{error}") };
            Err((refused.problem, error.into()))
        }
    }
}

fn problem_at(trust: &ServerTrust, leaf: &Minted, now: u64) -> Option<P> {
    verdict(trust, &leaf.chain_der(), NAME, now).err().map(|(problem, _)| problem)
}

fn problem(trust: &ServerTrust, leaf: &Minted) -> Option<P> {
    problem_at(trust, leaf, NOW)
}

fn alert(trust: &ServerTrust, leaf: &Minted) -> AlertDescription {
    verdict(trust, &leaf.chain_der(), NAME, NOW).unwrap_err().1
}

fn wrong_name(expected: &str, names: &[&str]) -> P {
    let names = names.iter().map(ToString::to_string).collect();
    P::WrongName { expected: expected.to_owned(), names }
}

fn server() -> Leaf {
    Leaf::server(NAME)
}

fn pin_of(leaf: &Minted) -> Pin {
    Pin::of_spki(PresentedCertificate::read(leaf.cert_der()).spki.unwrap())
}

#[test]
fn a_server_of_the_authority_is_accepted_and_no_other() {
    let (ca, twin) = (TestCa::new("test root"), TestCa::new("test root"));
    let trust = load(&of(&ca));
    assert_eq!(problem(&trust, &ca.issue(server())), None);
    assert_eq!(problem(&trust, &ca.intermediate("web").issue(server())), None);
    assert_eq!(problem(&trust, &ca.issue(Leaf::new(NAME).dns(NAME))), None, "for any use");
    for stranger in [TestCa::new("stranger").issue(server()), twin.issue(server())] {
        assert_eq!(problem(&trust, &stranger), Some(P::Untrusted));
        assert_eq!(alert(&trust, &stranger), AlertDescription::UnknownCA);
    }
    for other in [Leaf::client(NAME).dns(NAME), Leaf::new(NAME).dns(NAME).for_ocsp()] {
        let other = ca.issue(other);
        assert!(matches!(problem(&trust, &other), Some(P::Unacceptable(_))));
        assert_eq!(alert(&trust, &other), AlertDescription::UnsupportedCertificate);
    }
}

#[test]
fn the_chain_has_to_be_whole_unless_the_intermediate_is_trusted_for_itself() {
    let ca = TestCa::new("test root");
    let web = ca.intermediate("web");
    let leaf = web.issue(server());
    let alone = &leaf.chain_der()[..1];
    let problem = |trust: &ServerTrust| verdict(trust, alone, NAME, NOW).err().map(|e| e.0);
    assert_eq!(problem(&load(&of(&ca))), Some(P::Untrusted));
    assert_eq!(problem(&load(&of(&web))), None);
}

#[test]
fn every_certificate_up_to_the_root_has_to_be_in_date() {
    let ca = TestCa::lasting("test root", at(NOW + 9 * DAY));
    let trust = load(&of(&ca));
    let brief = server().not_before(at(NOW - DAY)).not_after(at(NOW + DAY));
    let brief = ca.issue(brief);
    assert_eq!(problem_at(&trust, &brief, NOW + DAY), None);
    let expired = |problem: Option<P>, day: &str| matches!(problem, Some(P::Expired { since: Some(since) }) if since.starts_with(day));
    assert!(expired(problem_at(&trust, &brief, NOW + DAY + 1), "Jan  2"));
    let early = problem_at(&trust, &brief, NOW - DAY - 1);
    assert!(matches!(early, Some(P::NotYetValid { until: Some(_) })), "{early:?}");
    let below = ca.intermediate_lasting("web", at(NOW + 3 * DAY)).issue(server());
    assert_eq!(problem_at(&trust, &below, NOW + 3 * DAY), None);
    assert!(expired(problem_at(&trust, &below, NOW + 3 * DAY + 1), "Jan  4"));
    let lasting = ca.issue(server());
    assert_eq!(problem_at(&trust, &lasting, NOW + 9 * DAY), None);
    assert!(expired(problem_at(&trust, &lasting, NOW + 9 * DAY + 1), "Jan 10"));
    let over = ca.issue(server().not_after(at(NOW - 1)));
    assert_eq!(alert(&trust, &over), AlertDescription::CertificateExpired);
}

#[test]
fn the_name_that_is_dialled_has_to_be_on_it() {
    let ca = TestCa::new("test root");
    let trust = load(&of(&ca));
    let ask = |leaf: Leaf, name: &str| {
        verdict(&trust, &ca.issue(leaf).chain_der(), name, NOW).err().map(|(problem, _)| problem)
    };
    let wild = || Leaf::new("web").dns("*.web.test").dns("web.test").for_servers();
    for name in ["a.web.test", "A.Web.Test", "web.test"] {
        assert_eq!(ask(wild(), name), None, "{name}");
    }
    for name in ["a.b.web.test", "other.test", "10.0.0.1"] {
        assert_eq!(ask(wild(), name), Some(wrong_name(name, &["*.web.test", "web.test"])));
    }
    let ips = || Leaf::new("web").ip([10, 0, 0, 1]).ip([0, 0, 0, 0, 0, 0, 0, 1]).for_servers();
    assert_eq!((ask(ips(), "10.0.0.1"), ask(ips(), "::1")), (None, None));
    assert_eq!(ask(ips(), "10.0.0.2"), Some(wrong_name("10.0.0.2", &["10.0.0.1", "::1"])));
    let dotted = Leaf::new("10.0.0.1").dns("10.0.0.1").for_servers();
    assert!(ask(dotted, "10.0.0.1").is_some(), "an address as a DNS name is none");
    assert_eq!(ask(Leaf::new(NAME).for_servers(), NAME), Some(wrong_name(NAME, &[])));
    let leaf = ca.issue(Leaf::server("other.test"));
    assert_eq!(alert(&trust, &leaf), AlertDescription::BadCertificate);
}

#[test]
fn other_names_take_the_place_of_the_one_that_is_dialled() {
    let ca = TestCa::new("test root");
    let trust = load(&of(&ca).accept_names(["a.test.", "10.0.0.1"]).accept_names(["b.test"]));
    for name in ["a.test", "b.test", "10.0.0.1"] {
        assert_eq!(problem(&trust, &ca.issue(Leaf::server(name))), None, "{name}");
    }
    let expected = wrong_name("a.test or 10.0.0.1 or b.test", &[NAME]);
    assert_eq!(problem(&trust, &ca.issue(server())), Some(expected));
}

#[test]
fn a_self_signed_certificate_is_told_from_other_strangers_and_vouches_for_itself_alone() {
    let ca = TestCa::new("test root");
    let plain = server().self_signed();
    let marked = server().marked_as_authority().self_signed();
    for own in [&plain, &marked] {
        assert_eq!(problem(&load(&of(&ca)), own), Some(P::SelfSigned));
        assert_eq!(alert(&load(&of(&ca)), own), AlertDescription::UnknownCA);
        let trust = ServerTrust::from_pem(memory(own.cert_pem())).unwrap();
        assert_eq!(problem(&trust, own), None);
        assert_eq!(trust.notices(), []);
        let elsewhere = verdict(&trust, &own.chain_der(), "other.test", NOW).unwrap_err().0;
        assert_eq!(elsewhere, wrong_name("other.test", &[NAME]));
        assert_eq!(problem(&trust, &server().self_signed()), Some(P::SelfSigned), "of that name");
    }
    let pretender = TestCa::pretender("web");
    let trust = load(&of(&pretender));
    assert_eq!(problem(&trust, &pretender.issue(server())), Some(P::Untrusted));
    let both = load(&of(&pretender).roots(memory(ca.cert_pem())));
    assert_eq!(problem(&both, &pretender.issue(server())), Some(P::Untrusted));
    assert_eq!(problem(&both, &ca.issue(server())), None);
}

#[test]
fn a_certificate_that_vouches_for_itself_needs_its_dates_and_its_use() {
    let own = server().not_after(at(NOW)).self_signed();
    let trust = ServerTrust::from_pem(memory(own.cert_pem())).unwrap();
    assert_eq!(problem(&trust, &own), None);
    assert!(matches!(problem_at(&trust, &own, NOW + 1), Some(P::Expired { .. })));
    let client = Leaf::client(NAME).dns(NAME).self_signed();
    let trust = ServerTrust::from_pem(memory(client.cert_pem())).unwrap();
    assert!(matches!(problem(&trust, &client), Some(P::Unacceptable(_))));
    assert_eq!(alert(&trust, &client), AlertDescription::UnsupportedCertificate);
    // Where there are lists, none could be of it.
    let ca = TestCa::new("test root");
    let own = server().self_signed();
    let with_lists = of(&ca).roots(memory(own.cert_pem())).crl(memory(ca.crl(Crl::new())));
    assert_eq!(problem(&load(&with_lists), &own), None);
    assert_eq!(load(&with_lists).notices(), []);
}

#[test]
fn a_certificate_that_vouches_for_itself_does_not_stand_in_for_an_authority_of_its_name() {
    let ca = TestCa::new("test root");
    let web = ca.intermediate("web");
    let own = Leaf::new("web").dns(NAME).for_servers().self_signed();
    let leaf = web.issue(server());
    let lists = memory(ca.crl(Crl::new()) + &web.crl(Crl::new().revoke(&leaf)));
    let trust = load(&of(&ca).roots(memory(own.cert_pem())).crl(lists));
    assert_eq!((problem(&trust, &own), problem(&trust, &leaf)), (None, Some(P::Revoked)));
    let issuer = "CN=web".to_owned();
    let concerns: Vec<_> = trust.notices().iter().map(|n| n.concern().clone()).collect();
    assert_eq!(concerns, [TrustConcern::CrlOfAnother { issuer }]);
}

#[test]
fn a_leaf_of_an_authority_vouches_for_nobody_and_is_told_of() {
    let ca = TestCa::new("test root");
    let leaf = ca.issue(server());
    let trust = load(&of(&TestCa::new("other")).roots(memory(leaf.cert_pem() + &ca.cert_pem())));
    assert!(matches!(trust.notices()[0].concern(), TrustConcern::NotAnAuthority { .. }));
    let error = ServerTrust::from_pem(memory(leaf.cert_pem())).unwrap_err();
    let SourceError::Load(error) = error else { panic!("{error}") };
    assert!(matches!(error.problem(), LoadProblem::NoAuthority), "{error}");
}

#[test]
fn whoever_is_on_a_list_is_refused_and_so_is_whom_none_covers() {
    let (ca, other) = (TestCa::new("test root"), TestCa::new("other root"));
    let (good, bad, unknown) = (ca.issue(server()), ca.issue(server()), other.issue(server()));
    let list = ca.crl(Crl::new().revoke(&bad));
    let both = of(&ca).roots(memory(other.cert_pem())).crl(memory(list));
    let trust = load(&both);
    assert_eq!(problem(&trust, &good), None);
    assert_eq!(problem(&trust, &bad), Some(P::Revoked));
    assert_eq!(alert(&trust, &bad), AlertDescription::CertificateRevoked);
    assert_eq!(problem(&trust, &unknown), Some(P::RevocationUnknown));
    let concerns: Vec<_> = trust.notices().iter().map(|n| n.concern().clone()).collect();
    let subject = "CN=other root".to_owned();
    assert_eq!(concerns, [TrustConcern::AuthorityWithoutCrl { subject }]);
    let allowing = load(&both.unknown_revocation(UnknownRevocation::Allow));
    assert_eq!(problem(&allowing, &unknown), None);
    assert_eq!(problem(&allowing, &bad), Some(P::Revoked));
}

#[test]
fn a_list_out_of_date_refuses_all_unless_it_is_told_to_count_on() {
    let ca = TestCa::new("test root");
    let (good, bad) = (ca.issue(server()), ca.issue(server()));
    let list = ca.crl(Crl::new().revoke(&bad).next_update(at(NOW)));
    let enforced = of(&ca).crl(memory(list));
    let trust = load(&enforced);
    assert_eq!(problem_at(&trust, &good, NOW - 1), None);
    let expired = problem(&trust, &good);
    assert!(matches!(&expired, Some(P::CrlExpired { since: Some(_) })), "{expired:?}");
    let ignored = load(&enforced.crl_expiry(CrlExpiry::Ignore));
    assert_eq!((problem(&ignored, &good), problem(&ignored, &bad)), (None, Some(P::Revoked)));
}

#[test]
fn intermediates_are_looked_up_and_write_lists_of_their_own() {
    let ca = TestCa::new("test root");
    let web = ca.intermediate("web");
    let (good, bad) = (web.issue(server()), web.issue(server()));
    let webs = web.crl(Crl::new().revoke(&bad));
    let both = load(&of(&ca).crl(memory(ca.crl(Crl::new()) + &webs)));
    assert_eq!((problem(&both, &good), problem(&both, &bad)), (None, Some(P::Revoked)));
    let half = of(&ca).crl(memory(webs.clone()));
    assert_eq!(problem(&load(&half), &good), Some(P::RevocationUnknown));
    let leaf_alone = load(&half.crl_depth(CrlDepth::Leaf));
    assert_eq!((problem(&leaf_alone, &good), problem(&leaf_alone, &bad)), (None, Some(P::Revoked)));
    let without = load(&of(&ca).crl(memory(ca.crl(Crl::new().revoke_ca(&web)) + &webs)));
    assert_eq!(problem(&without, &good), Some(P::Revoked));
    // A list that only has the name of the intermediate tells nothing of it.
    let twin = ca.intermediate("web").crl(Crl::new());
    let forged = load(&of(&ca).crl(memory(ca.crl(Crl::new()) + &twin)));
    assert_eq!(problem(&forged, &good), Some(P::RevocationUnknown));
    assert_eq!(alert(&forged, &good), AlertDescription::UnknownCA);
}

#[test]
fn a_pin_counts_in_addition_to_the_chain_and_the_name() {
    let ca = TestCa::new("test root");
    let leaf = ca.issue(server());
    let (renewed, rotated) = (ca.issue_with_key_of(server(), &leaf), ca.issue(server()));
    let pinned = of(&ca).pin(pin_of(&leaf));
    let trust = load(&pinned);
    assert_eq!((problem(&trust, &leaf), problem(&trust, &renewed)), (None, None));
    let mismatch = |presented, expected| Some(P::PinMismatch { presented, expected });
    assert_eq!(problem(&trust, &rotated), mismatch(pin_of(&rotated), vec![pin_of(&leaf)]));
    assert_eq!(alert(&trust, &rotated), AlertDescription::AccessDenied);
    let both = load(&pinned.pin(pin_of(&rotated)));
    assert_eq!((problem(&both, &leaf), problem(&both, &rotated)), (None, None));

    let stranger = TestCa::new("stranger").issue_with_key_of(server(), &leaf);
    assert_eq!(problem(&trust, &stranger), Some(P::Untrusted));
    let elsewhere = ca.issue_with_key_of(Leaf::server("other.test"), &leaf);
    assert!(matches!(problem(&trust, &elsewhere), Some(P::WrongName { .. })));

    let whole = |leaf: &Minted| Pin::of_certificate(Fingerprint::of(leaf.cert_der()));
    let exact = load(&of(&ca).pin(whole(&leaf)));
    assert_eq!(problem(&exact, &leaf), None);
    assert_eq!(problem(&exact, &renewed), mismatch(whole(&renewed), vec![whole(&leaf)]));
    // The pin of an authority above it is not one of the leaf.
    let above = Pin::of_certificate(Fingerprint::of(ca.cert_der()));
    assert!(matches!(problem(&load(&of(&ca).pin(above)), &leaf), Some(P::PinMismatch { .. })));
}

#[test]
fn by_pins_alone_the_key_and_the_dates_count_and_nothing_else() {
    let leaf = Leaf::client("anyone").not_after(at(NOW)).self_signed();
    let other = TestCa::new("test root").issue(server());
    let trust = ServerTrust::pinned_only([pin_of(&leaf)]).unwrap();
    assert_eq!(problem(&trust, &leaf), None);
    assert!(matches!(problem_at(&trust, &leaf, NOW + 1), Some(P::Expired { .. })));
    assert!(matches!(problem_at(&trust, &leaf, 0), Some(P::NotYetValid { .. })));
    assert!(matches!(problem(&trust, &other), Some(P::PinMismatch { .. })));
    let none = ServerTrust::pinned_only([]).unwrap_err();
    assert!(matches!(none, SourceError::NoPins), "{none}");
    assert_eq!(trust.reload().unwrap(), 1);
}

#[test]
fn a_workload_is_known_by_its_only_uri() {
    let ca = TestCa::new("test root");
    let svid = |uris: &[&str]| {
        let leaf = Leaf::new("workload").for_servers();
        ca.issue(uris.iter().fold(leaf, |leaf, uri| leaf.uri(uri)))
    };
    let one = of(&ca).spiffe_id("spiffe://a.test/web").spiffe_id("spiffe://a.test/api");
    let trust = load(&one);
    let long = format!("spiffe://a.test/{}", "x".repeat(500));
    for good in ["spiffe://a.test/web", "spiffe://a.test/api"] {
        assert_eq!(problem(&trust, &svid(&[good])), None);
    }
    assert_eq!(problem(&load(&of(&ca).spiffe_id(long.as_str())), &svid(&[&long])), None);
    let expected = ["spiffe://a.test/web", "spiffe://a.test/api"].map(str::to_owned).to_vec();
    for bad in [
        &[][..],
        &["spiffe://a.test/web2"],
        &["spiffe://a.test/WEB"],
        &["spiffe://a.test/web", "spiffe://a.test/api"],
        &["spiffe://a.test/web", "https://a.test/web"],
    ] {
        let presented = bad.iter().map(ToString::to_string).collect();
        let problem = problem(&trust, &svid(bad)).unwrap();
        assert_eq!(problem, P::WrongSpiffeId { expected: expected.clone(), presented });
    }
    assert_eq!(alert(&trust, &svid(&[])), AlertDescription::BadCertificate);
    // The name does not count, and the chain does.
    assert!(problem(&trust, &ca.issue(server())).is_some());
    let stranger = TestCa::new("stranger").issue(server().uri("spiffe://a.test/web"));
    assert_eq!(problem(&trust, &stranger), Some(P::Untrusted));

    let domain = load(&of(&ca).spiffe_trust_domain("a.test"));
    assert_eq!(problem(&domain, &svid(&["spiffe://a.test/any/one"])), None);
    for bad in ["spiffe://b.a.test/x", "spiffe://a.test.b/x", "spiffe://a.test", "//a.test/x"] {
        assert!(matches!(problem(&domain, &svid(&[bad])), Some(P::WrongSpiffeId { .. })), "{bad}");
    }
}

#[test]
fn problems_say_what_was_expected_and_what_to_do() {
    let ca = TestCa::new("test root");
    let leaf = ca.issue(server().uri("spiffe://a.test/x").uri("u:y"));
    let text = |trust: &ServerTrust| problem(trust, &leaf).unwrap().to_string();
    let spiffe = text(&load(&of(&ca).spiffe_trust_domain("a.test")));
    assert!(spiffe.contains("spiffe://a.test/x, u:y") && spiffe.contains("one"), "{spiffe}");
    let pins = text(&load(&of(&ca).pin(Pin::of_spki(Fingerprint::of(b"")))));
    assert!(pins.contains(&pin_of(&leaf).to_string()) && pins.contains("47DEQ"), "{pins}");
}

#[test]
fn what_would_verify_nothing_is_refused_when_it_is_loaded() {
    let ca = TestCa::new("test root");
    let error = |builder: ServerTrustBuilder| builder.load().unwrap_err();
    assert!(matches!(error(ServerTrust::builder()), SourceError::NoRoots));
    for bad in ["", "*.a.test", "a b", "a.test:443", "[::1]"] {
        let error = error(of(&ca).accept_names([bad]));
        assert!(matches!(error, SourceError::BadName { .. }), "{bad}: {error}");
    }
    let both = of(&ca).accept_names(["a.test"]).spiffe_trust_domain("a.test");
    assert!(matches!(error(both), SourceError::NamesAndSpiffe));
    assert!(matches!(error(of(&ca).spiffe_id("a.test/x")), SourceError::BadSpiffeId(_)));
    assert!(matches!(error(of(&ca).crl(memory(""))), SourceError::Load(_)));
    assert!(matches!(ServerTrust::from_pem("/nowhere"), Err(SourceError::Load(_))));
}

#[test]
fn roots_that_were_read_before_count_the_same() {
    let (ca, own) = (TestCa::new("test root"), server().self_signed());
    let pem = ca.cert_pem() + &own.cert_pem() + &ca.cert_pem();
    let roots = ServerRoots::from_pem(memory(pem)).unwrap();
    let trust = ServerTrust::from(roots);
    assert_eq!((problem(&trust, &ca.issue(server())), problem(&trust, &own)), (None, None));
    let twin = TestCa::new("test root").issue(server());
    assert_eq!(problem(&trust, &twin), Some(P::Untrusted));
    assert_eq!((trust.reload().unwrap(), trust.generation()), (1, 1));
    assert!(trust.paths().is_empty());
}

#[test]
fn the_same_trust_has_the_same_fingerprint_and_any_other_has_another() {
    let (a, b) = (TestCa::new("a"), TestCa::new("b"));
    let pins = [Pin::of_spki(Fingerprint::of(b"1")), Pin::of_certificate(Fingerprint::of(b"1"))];
    let print = |trust: &ServerTrust| trust.current().value.fingerprint;
    let loaded = |builder: ServerTrustBuilder| print(&load(&builder));
    let (both, reverse) = (a.cert_pem() + &b.cert_pem(), b.cert_pem() + &a.cert_pem());
    let base = || ServerTrust::builder().roots(memory(both.clone()));
    let names = |names: [&'static str; 2]| base().accept_names(names).pin(pins[0]).pin(pins[1]);
    let mirrored = ServerTrust::builder().roots(memory(reverse)).roots(memory(both.clone()));
    let mirrored = mirrored.accept_names(["B.test", "a.test"]).pin(pins[1]).pin(pins[0]);
    assert_eq!(loaded(names(["a.test", "b.test"])), loaded(mirrored));
    let (leaf, list) = (a.issue(server()), |crl| memory(a.crl(crl)));
    let others = [
        loaded(base()),
        loaded(of(&a)),
        loaded(base().pin(pins[0])),
        loaded(base().pin(pins[1])),
        loaded(base().accept_names(["a.test"])),
        loaded(base().accept_names(["a.test", "b.test"])),
        loaded(base().spiffe_id("spiffe://a.test/x")),
        loaded(base().spiffe_trust_domain("a.test")),
        loaded(base().crl(list(Crl::new()))),
        loaded(base().crl(list(Crl::new().revoke(&leaf)))),
        loaded(base().crl_expiry(CrlExpiry::Ignore)),
        loaded(base().crl_depth(CrlDepth::Leaf)),
        loaded(base().unknown_revocation(UnknownRevocation::Allow)),
        print(&ServerTrust::pinned_only([pins[0]]).unwrap()),
        print(&ServerTrust::dangerous(DangerousNoVerify::for_cluster("x").pin(pins[0]))),
        print(&ServerTrust::dangerous(DangerousNoVerify::for_cluster("x"))),
    ];
    assert_eq!(others.iter().collect::<HashSet<_>>().len(), others.len());
}

#[test]
fn a_file_that_changes_makes_a_generation_and_a_bad_one_leaves_the_last_good_in_force() {
    let (dir, old, new) = (TestDir::new(), TestCa::new("old"), TestCa::new("new"));
    let path = dir.write("ca.pem", old.cert_pem());
    let trust = ServerTrust::builder().roots(&path).load().unwrap();
    assert_eq!(trust.paths(), [path]);
    let first = trust.current();
    assert_eq!(trust.reload().unwrap(), 1);
    assert!(Arc::ptr_eq(&first.value.verifier, &trust.current().value.verifier));
    for bad in ["", "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"] {
        dir.write("ca.pem", bad);
        assert!(matches!(trust.reload(), Err(SourceError::Load(_))));
        assert_eq!(problem(&trust, &old.issue(server())), None);
        assert!(!first.superseded.is_set());
    }
    dir.write("ca.pem", new.cert_pem());
    assert_eq!((trust.reload().unwrap(), trust.generation()), (2, 2));
    assert!(first.superseded.is_set());
    assert_eq!(problem(&trust, &old.issue(server())), Some(P::Untrusted));
    assert_eq!(problem(&trust, &new.issue(server())), None);
}

#[test]
fn files_that_are_watched_are_read_again() {
    let (dir, ca) = (TestDir::new(), TestCa::new("test root"));
    let leaf = ca.issue(server());
    let list = dir.write("ca.crl", ca.crl(Crl::new()));
    let trust = ServerTrust::builder().roots(dir.write("ca.pem", ca.cert_pem())).crl(list);
    let trust = trust.watch().unwrap();
    assert_eq!(problem(&trust, &leaf), None);
    dir.write("next", ca.crl(Crl::new().revoke(&leaf)));
    std::fs::rename(dir.join("next"), dir.join("ca.crl")).unwrap();
    let end = tokio::time::Instant::now() + Duration::from_secs(20);
    while trust.generation() == 1 {
        assert!(tokio::time::Instant::now() < end, "not noticed");
        std::thread::yield_now();
    }
    assert_eq!(problem(&trust, &leaf), Some(P::Revoked));
}

#[test]
fn what_is_dangerous_accepts_all_but_counts_its_pins_and_warns_once() {
    let (leaf, other) = (Leaf::client("x").not_after(at(1)).self_signed(), server().self_signed());
    let warnings = Warnings::default();
    tracing::subscriber::with_default(warnings.clone(), || {
        let decision = DangerousNoVerify::for_cluster("web\n1");
        assert_eq!(warnings.texts(), [""; 0]);
        let trust = ServerTrust::dangerous(decision.clone());
        let again = ServerTrust::dangerous(decision);
        assert_eq!((problem(&trust, &leaf), problem(&again, &other)), (None, None));
        assert_eq!(trust.reload().unwrap(), 1);
    });
    let texts = warnings.texts();
    assert_eq!(texts.len(), 1, "{texts:?}");
    assert!(texts[0].contains("NOT verified") && texts[0].contains("web\\n1"), "{texts:?}");
    let pinned = DangerousNoVerify::for_cluster("web").pin(pin_of(&leaf));
    let trust = ServerTrust::dangerous(pinned);
    assert_eq!(problem(&trust, &leaf), None);
    assert!(matches!(problem(&trust, &other), Some(P::PinMismatch { .. })));
}

#[test]
fn a_remark_is_told_when_it_is_new() {
    let (dir, old) = (TestDir::new(), TestCa::lasting("old root", at(NOW - 1)));
    let path = dir.write("ca.pem", old.cert_pem());
    let warnings = Warnings::default();
    tracing::subscriber::with_default(warnings.clone(), || {
        let trust = ServerTrust::builder().roots(&path).clock(FixedClock).load().unwrap();
        trust.reload().unwrap();
        assert_eq!(warnings.texts().len(), 1);
        dir.write("ca.pem", TestCa::lasting("older root", at(NOW - 2)).cert_pem());
        trust.reload().unwrap();
        assert!(trust.notices()[0].to_string().contains("older root"));
    });
    let texts = warnings.texts();
    assert!(texts.len() == 2 && texts[0].contains("CN=old root"), "{texts:?}");
}

/// The warnings of this thread.
#[derive(Clone, Default)]
struct Warnings(Arc<std::sync::Mutex<Vec<String>>>);

impl Warnings {
    fn texts(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl tracing::Subscriber for Warnings {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        struct Text(String);
        impl tracing::field::Visit for Text {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
                self.0 += &format!("{field}={value:?} ");
            }
        }
        if *event.metadata().level() == tracing::Level::WARN {
            let mut text = Text(String::new());
            event.record(&mut text);
            self.0.lock().unwrap().push(text.0);
        }
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn a_changed_byte_of_a_leaf_is_refused() {
    let ca = TestCa::new("test root");
    let (leaf, trust) = (ca.issue(server()), load(&of(&ca)));
    let pinned = ServerTrust::pinned_only([pin_of(&leaf)]).unwrap();
    let der = leaf.cert_der().to_vec();
    for at_byte in 0..der.len() {
        let mut changed = der.clone();
        changed[at_byte] ^= 1;
        let changed = [CertificateDer::from(changed)];
        assert!(verdict(&trust, &changed, NAME, NOW).is_err(), "byte {at_byte}");
        let _ = verdict(&pinned, &changed, NAME, NOW);
    }
    let longer = [CertificateDer::from([&der[..], &[0]].concat())];
    for (chain, trust) in [(&longer, &trust), (&longer, &pinned)] {
        let (problem, alert) = verdict(trust, chain, NAME, NOW).unwrap_err();
        assert!(matches!(problem, P::Malformed(_)), "{problem:?}");
        assert_eq!(alert, AlertDescription::BadCertificate);
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_refused_without_a_panic(
        leaf in proptest::collection::vec(any::<u8>(), 0..200),
        above in proptest::collection::vec(any::<u8>(), 0..200),
        cut in 0usize..300,
        splice in any::<u8>(),
    ) {
        let ca = TestCa::new("test root");
        let minted = ca.issue(server().uri("spiffe://a.test/x"));
        let trusts = [
            load(&of(&ca)),
            load(&of(&ca).spiffe_trust_domain("a.test")),
            ServerTrust::pinned_only([pin_of(&minted)]).unwrap(),
            ServerTrust::dangerous(DangerousNoVerify::for_cluster("web")),
        ];
        let mut spliced = minted.cert_der().to_vec();
        let cut = cut % spliced.len();
        spliced[cut] = splice;
        let mut grafted = spliced[..cut].to_vec();
        grafted.extend_from_slice(&leaf);
        for trust in &trusts {
            for first in [leaf.clone(), grafted.clone()] {
                let chain = [first.into(), above.clone().into()];
                prop_assert!(verdict(trust, &chain, NAME, NOW).is_err());
            }
            let chain = [spliced.clone().into(), above.clone().into()];
            let _ = verdict(trust, &chain, NAME, NOW);
        }
    }
}

/// A handshake of its own, and what was refused in it.
async fn handshake(
    trust: &ServerTrust,
    server: Arc<ServerConfig>,
) -> (Result<(), Error>, Option<Refused>) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(verifier(trust))
        .with_no_client_auth();
    let (near, far) = tokio::io::duplex(256);
    let name = ServerName::try_from(NAME).unwrap();
    let mut connect = pin!(TlsConnector::from(Arc::new(config)).connect(name, near));
    let client = poll_fn(|cx| match observe(|| connect.as_mut().poll(cx)) {
        (std::task::Poll::Ready(done), refused) => {
            let done = done.map(drop).map_err(|error| error.downcast().unwrap());
            std::task::Poll::Ready((done, refused))
        }
        (std::task::Poll::Pending, refused) => {
            assert!(refused.is_none());
            std::task::Poll::Pending
        }
    });
    tokio::join!(client, TlsAcceptor::from(server).accept(far)).0
}

#[tokio::test]
async fn handshakes_of_one_thread_each_find_their_own_refusal() {
    let ca = TestCa::new("test root");
    let trust = load(&of(&ca));
    let (good, wrong) = (ca.issue(server()), ca.issue(Leaf::server("other.test")));
    let stranger = TestCa::new("stranger").issue(server());
    let (good, wrong, stranger) = tokio::join!(
        handshake(&trust, good.server_config(&[])),
        handshake(&trust, wrong.server_config(&[])),
        handshake(&trust, stranger.server_config(&[])),
    );
    assert!(good.0.is_ok() && good.1.is_none());
    assert_eq!(wrong.1.unwrap().problem, wrong_name(NAME, &["other.test"]));
    let refused = stranger.1.unwrap();
    assert_eq!((refused.problem, refused.presented.names), (P::Untrusted, vec![NAME.to_owned()]));
    assert!(take_refusal().is_none());
}

#[tokio::test]
async fn whoever_has_not_the_key_is_refused_whatever_is_trusted() {
    let leaf = TestCa::new("test root").issue(server());
    let other = server().self_signed();
    #[derive(Debug)]
    struct Always(Arc<CertifiedKey>);
    impl rustls::server::ResolvesServerCert for Always {
        fn resolve(&self, _: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
            Some(Arc::clone(&self.0))
        }
    }
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&other.key_der()).unwrap();
    let thief = Always(Arc::new(CertifiedKey::new(leaf.chain_der(), key)));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let trusts = [
        ServerTrust::pinned_only([pin_of(&leaf)]).unwrap(),
        ServerTrust::dangerous(DangerousNoVerify::for_cluster("web")),
    ];
    let thief = Arc::new(thief);
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&thief) as _);
        let config = Arc::new(config);
        for trust in &trusts {
            let (done, refused) = handshake(trust, Arc::clone(&config)).await;
            assert!(done.is_err());
            let problem = refused.unwrap().problem;
            assert!(matches!(problem, P::Unacceptable(_)), "{problem:?}");
        }
    }
}

#[test]
fn a_refusal_that_nobody_took_is_not_found_by_another() {
    let trust = load(&of(&TestCa::new("test root")));
    let leaf = server().self_signed();
    let name = ServerName::try_from(NAME).unwrap();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW));
    let verify = || verifier(&trust).verify_server_cert(leaf.cert_der(), &[], &name, &[], now);
    assert!(verify().is_err());
    assert!(observe(|| ()).1.is_none());
    assert!(verify().is_err());
    let own = ServerTrust::from_pem(memory(leaf.cert_pem())).unwrap();
    let accepted = verifier(&own).verify_server_cert(leaf.cert_der(), &[], &name, &[], now);
    assert!(accepted.is_ok() && take_refusal().is_none());
    assert!(verify().is_err() && take_refusal().is_some() && take_refusal().is_none());
}
