use rustls::{CertificateError, Error};
use std::time::Duration;

use bartizan_testkit::{Crl, Leaf, Minted, TestCa, TestDir};
use rustls::pki_types::CertificateDer;

use super::*;
use crate::load::LoadProblem;
use crate::trust::TrustConcern;

fn at(secs: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(secs)
}

/// 2026-01-01, and a day.
const NOW: u64 = 1_767_225_600;
const DAY: u64 = 86_400;

fn memory(text: impl Into<Vec<u8>>) -> PemSource {
    PemSource::memory("memory.pem", text.into())
}

fn required(ca: &TestCa) -> ClientAuth {
    ClientAuth::required(memory(ca.cert_pem()))
}

fn load(auth: &ClientAuth) -> (ClientPolicy, Vec<TrustNotice>) {
    auth.load(at(NOW)).unwrap()
}

fn digest(auth: &ClientAuth) -> [u8; 32] {
    load(auth).0.trust
}

fn problem(auth: &ClientAuth) -> LoadError {
    auth.load(at(NOW)).unwrap_err()
}

/// Why a client is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Refusal {
    /// It has shown no certificate.
    NoCertificate,
    /// A certificate of the chain is revoked.
    Revoked,
    /// A certificate of the chain, the authority's own included, has expired.
    Expired,
    /// A certificate of the chain is not valid yet.
    NotYetValid,
    /// The chain leads to none of the authorities.
    UnknownIssuer,
    /// A revocation list is out of date.
    CrlExpired,
    /// There is no revocation list of an issuer.
    RevocationUnknown,
    /// Anything else: not meant for clients, a wrong signature, not X.509.
    Other,
}

impl Refusal {
    /// The reason in an error of the verifier.
    fn of(error: &Error) -> Self {
        let error = match error {
            Error::NoCertificatesPresented => return Self::NoCertificate,
            Error::InvalidCertificate(error) => error,
            _ => return Self::Other,
        };
        match error {
            CertificateError::Revoked => Self::Revoked,
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Self::NotYetValid
            }
            CertificateError::UnknownIssuer => Self::UnknownIssuer,
            CertificateError::ExpiredRevocationList
            | CertificateError::ExpiredRevocationListContext { .. } => Self::CrlExpired,
            CertificateError::UnknownRevocationStatus => Self::RevocationUnknown,
            _ => Self::Other,
        }
    }
}

/// `None` if the client is let in.
fn refusal_at(auth: &ClientAuth, client: &Minted, now: u64) -> Option<Refusal> {
    let verdict = load(auth).0.verify(&client.chain_der(), at(now));
    verdict.err().map(|error| Refusal::of(&error))
}

fn refusal(auth: &ClientAuth, client: &Minted) -> Option<Refusal> {
    refusal_at(auth, client, NOW)
}

fn concerns(auth: &ClientAuth) -> Vec<TrustConcern> {
    load(auth).1.iter().map(|notice| notice.concern().clone()).collect()
}

#[test]
fn a_client_of_the_authority_is_let_in_and_no_other() {
    let (ca, twin) = (TestCa::new("test root"), TestCa::new("test root"));
    for auth in [required(&ca), ClientAuth::optional(memory(ca.cert_pem()))] {
        assert_eq!(refusal(&auth, &ca.issue(Leaf::client("alice"))), None);
        let under = ca.intermediate("people").issue(Leaf::client("bob"));
        assert_eq!(refusal(&auth, &under), None);
        let stranger = TestCa::new("stranger").issue(Leaf::client("mallory"));
        assert_eq!(refusal(&auth, &stranger), Some(Refusal::UnknownIssuer));
        assert!(refusal(&auth, &twin.issue(Leaf::client("mallory"))).is_some());
        assert_eq!(refusal(&auth, &ca.issue(Leaf::server("a.test"))), Some(Refusal::Other));
        let garbage = load(&auth).0.verify(&[CertificateDer::from(vec![1])], at(NOW));
        assert_eq!(Refusal::of(&garbage.unwrap_err()), Refusal::Other);
    }
}

#[test]
fn a_client_without_a_certificate_is_let_in_unless_one_is_required() {
    let ca = TestCa::new("test root");
    let optional = ClientAuth::optional(memory(ca.cert_pem()));
    for (auth, offers, mandatory) in
        [(ClientAuth::off(), false, false), (optional, true, false), (required(&ca), true, true)]
    {
        let (policy, notices) = load(&auth);
        assert_eq!(notices, []);
        assert_eq!((auth.mode(), policy.mode), (policy.mode, auth.mode()));
        let verdict = policy.verify(&[], at(NOW)).map_err(|error| Refusal::of(&error));
        assert_eq!(verdict, if mandatory { Err(Refusal::NoCertificate) } else { Ok(()) });
        assert_eq!(policy.verifier.offer_client_auth(), offers);
        if offers {
            assert_eq!(policy.verifier.client_auth_mandatory(), mandatory);
            assert_eq!(policy.verifier.root_hint_subjects().len(), 1);
        }
    }
}

#[test]
fn no_chain_is_good_where_clients_are_not_asked() {
    let client = TestCa::new("test root").issue(Leaf::client("alice"));
    assert_eq!(refusal(&ClientAuth::off(), &client), Some(Refusal::UnknownIssuer));
}

#[test]
fn dates_are_judged_at_each_handshake_and_the_authoritys_too() {
    let ca = TestCa::lasting("test root", at(NOW + 9 * DAY));
    let auth = required(&ca);
    let leaf = Leaf::client("alice").not_before(at(NOW - DAY)).not_after(at(NOW + DAY));
    let client = ca.issue(leaf);
    assert_eq!(refusal_at(&auth, &client, NOW), None);
    assert_eq!(refusal_at(&auth, &client, NOW + DAY + 1), Some(Refusal::Expired));
    assert_eq!(refusal_at(&auth, &client, NOW - DAY - 1), Some(Refusal::NotYetValid));
    let lasting = ca.issue(Leaf::client("bob"));
    assert_eq!(refusal_at(&auth, &lasting, NOW + 9 * DAY), None);
    assert_eq!(refusal_at(&auth, &lasting, NOW + 9 * DAY + 1), Some(Refusal::Expired));
    // Renewed with the same key, it goes on; both certificates are in the file for a while.
    let renewed = ca.renewed("test root", at(NOW + 99 * DAY));
    let both = ClientAuth::required(memory(ca.cert_pem() + &renewed.cert_pem()));
    assert_eq!(refusal_at(&both, &lasting, NOW + 9 * DAY + 1), None);
    assert_eq!(refusal_at(&both, &lasting, NOW + 99 * DAY + 1), Some(Refusal::Expired));
}

#[test]
fn an_authority_out_of_date_is_told_of() {
    let ca = TestCa::lasting("old root", at(NOW - 1));
    let (_, notices) = load(&required(&ca));
    let text = notices[0].to_string();
    assert!(matches!(notices[0].concern(), TrustConcern::AuthorityExpired { .. }), "{text}");
    assert!(text.starts_with("memory.pem, PEM section 1: "), "{text}");
    assert!(text.contains("CN=old root") && text.contains("2025"), "{text}");
    let early = required(&TestCa::new("new root")).load(at(0)).unwrap().1;
    assert!(matches!(early[0].concern(), TrustConcern::AuthorityNotYetValid { .. }));
}

#[test]
fn whoever_is_on_the_list_is_refused() {
    let ca = TestCa::new("test root");
    let (alice, bob) = (ca.issue(Leaf::client("alice")), ca.issue(Leaf::client("bob")));
    let list = || Crl::new().revoke(&alice);
    let lists = [memory(ca.crl(list())), memory(ca.crl_der(list()).to_vec())];
    for list in lists {
        let auth = required(&ca).crl(list);
        assert_eq!(refusal(&auth, &alice), Some(Refusal::Revoked));
        assert_eq!(refusal(&auth, &bob), None);
        assert_eq!(concerns(&auth), []);
    }
}

#[test]
fn an_expired_list_refuses_all_unless_it_is_told_to_count_on() {
    let ca = TestCa::new("test root");
    let (alice, bob) = (ca.issue(Leaf::client("alice")), ca.issue(Leaf::client("bob")));
    let list = ca.crl(Crl::new().revoke(&alice).next_update(at(NOW)));
    let enforced = required(&ca).crl(memory(list));
    assert_eq!(refusal_at(&enforced, &bob, NOW - 1), None);
    assert_eq!(refusal(&enforced, &bob), Some(Refusal::CrlExpired));
    let allowing = enforced.clone().unknown_revocation(UnknownRevocation::Allow);
    assert_eq!(refusal(&allowing, &bob), Some(Refusal::CrlExpired), "expired is not unknown");
    let ignored = enforced.clone().crl_expiry(CrlExpiry::Ignore);
    assert_eq!(refusal(&ignored, &bob), None);
    assert_eq!(refusal(&ignored, &alice), Some(Refusal::Revoked));
    for auth in [enforced, ignored] {
        assert!(matches!(concerns(&auth)[..], [TrustConcern::CrlExpired { .. }]));
    }
}

#[test]
fn where_there_are_lists_each_issuer_needs_one_unless_the_unknown_is_allowed() {
    let (ca, other) = (TestCa::new("test root"), TestCa::new("other root"));
    let (alice, bob) = (ca.issue(Leaf::client("alice")), other.issue(Leaf::client("bob")));
    let both = ClientAuth::required(memory(ca.cert_pem() + &other.cert_pem()));
    assert_eq!(refusal(&both, &bob), None, "no lists, nothing is looked up");
    let denied = both.crl(memory(ca.crl(Crl::new().revoke(&alice))));
    assert_eq!(refusal(&denied, &bob), Some(Refusal::RevocationUnknown));
    assert!(matches!(
        &concerns(&denied)[..],
        [TrustConcern::AuthorityWithoutCrl { subject }] if subject == "CN=other root"
    ));
    let allowed = denied.unknown_revocation(UnknownRevocation::Allow);
    assert_eq!(refusal(&allowed, &bob), None);
    assert_eq!(refusal(&allowed, &alice), Some(Refusal::Revoked));
}

#[test]
fn the_whole_chain_is_looked_up_or_the_leaf_alone() {
    let root = TestCa::new("test root");
    let people = root.intermediate("people");
    let alice = people.issue(Leaf::client("alice"));
    let (roots, peoples) = (root.crl(Crl::new().revoke_ca(&people)), people.crl(Crl::new()));
    let chain = required(&root).crl(memory(roots + &peoples));
    assert_eq!(refusal(&chain, &alice), Some(Refusal::Revoked));
    assert_eq!(refusal(&chain.crl_depth(CrlDepth::Leaf), &alice), None);
    // With the root's list missing, the intermediate one's status is unknown.
    let half = required(&root).crl(memory(peoples));
    assert_eq!(refusal(&half, &alice), Some(Refusal::RevocationUnknown));
    assert_eq!(refusal(&half.clone().crl_depth(CrlDepth::Leaf), &alice), None);
    assert!(concerns(&half).contains(&TrustConcern::CrlOfAnother { issuer: "CN=people".into() }));
}

#[test]
fn the_latest_list_of_an_issuer_counts_in_whatever_order_they_come() {
    let ca = TestCa::new("test root");
    let (alice, bob) = (ca.issue(Leaf::client("alice")), ca.issue(Leaf::client("bob")));
    let old = ca.crl(Crl::new().revoke(&bob).this_update(at(NOW - DAY)));
    let new = ca.crl(Crl::new().revoke(&alice).this_update(at(NOW)));
    for text in [old.clone() + &new, new.clone() + &old] {
        let auth = required(&ca).crl(memory(text));
        assert_eq!(refusal(&auth, &alice), Some(Refusal::Revoked));
        assert_eq!(refusal(&auth, &bob), None);
        assert!(matches!(concerns(&auth)[..], [TrustConcern::CrlSuperseded { .. }]));
    }
    let twice = required(&ca).crl(memory(new.clone())).crl(memory(new));
    assert_eq!(concerns(&twice), [], "the same list twice is no other");
}

#[test]
fn after_a_change_of_keys_each_list_counts_for_its_own() {
    let (old, new) = (TestCa::new("test root"), TestCa::new("test root"));
    let cas = memory(old.cert_pem() + &new.cert_pem());
    let client = |ca: &TestCa| (ca.issue(Leaf::client("good")), ca.issue(Leaf::client("bad")));
    let ((old_good, old_bad), (new_good, new_bad)) = (client(&old), client(&new));
    let lists = old.crl(Crl::new().revoke(&old_bad))
        + &new.crl(Crl::new().revoke(&new_bad).this_update(at(NOW - DAY)));
    let auth = ClientAuth::required(cas.clone()).crl(memory(lists));
    assert_eq!(concerns(&auth), []);
    assert_eq!((refusal(&auth, &old_good), refusal(&auth, &new_good)), (None, None));
    let revoked = Some(Refusal::Revoked);
    assert_eq!((refusal(&auth, &old_bad), refusal(&auth, &new_bad)), (revoked, revoked));
    // One list out of date does not stand in the way of the other.
    for (stale, fresh, since) in [(&old, &new, NOW), (&new, &old, 0)] {
        let ended = Crl::new().this_update(at(NOW - DAY)).next_update(at(NOW));
        let auth = ClientAuth::required(cas.clone())
            .crl(memory(stale.crl(ended) + &fresh.crl(Crl::new().this_update(at(since)))));
        assert_eq!(refusal(&auth, &fresh.issue(Leaf::client("alice"))), None);
        assert_eq!(refusal(&auth, &stale.issue(Leaf::client("alice"))), Some(Refusal::CrlExpired));
    }
}

#[test]
fn a_list_with_the_name_of_an_authority_that_did_not_sign_it_is_refused() {
    let (ca, twin) = (TestCa::new("test root"), TestCa::new("test root"));
    let auth = required(&ca).crl(memory(twin.crl(Crl::new())));
    let error = problem(&auth.unknown_revocation(UnknownRevocation::Allow));
    let text = error.to_string();
    assert!(matches!(error.problem(), LoadProblem::CrlSignature { .. }), "{text}");
    assert!(text.contains("PEM section 1") && text.contains("CN=test root"), "{text}");
}

#[test]
fn a_list_of_authorities_alone_says_nothing_of_leaves() {
    let ca = TestCa::new("test root");
    let alice = ca.issue(Leaf::client("alice"));
    let auth = required(&ca).crl(memory(ca.crl(Crl::new().of_authorities("http://a.test/"))));
    assert_eq!(refusal(&auth, &alice), Some(Refusal::RevocationUnknown));
    // A later one of that scope does not take the place of the full one.
    let later = Crl::new().of_authorities("http://a.test/").this_update(at(NOW));
    let both = required(&ca).crl(memory(ca.crl(later) + &ca.crl(Crl::new().revoke(&alice))));
    assert_eq!(refusal(&both, &alice), Some(Refusal::Revoked));
}

#[test]
fn what_is_no_list_is_refused_with_its_section() {
    let ca = TestCa::new("test root");
    let mut cut = ca.crl_der(Crl::new()).to_vec();
    cut.pop();
    for (bytes, section) in [
        (cut, None),
        (vec![0x30, 0x82, 0, 0], None),
        (b"-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n".to_vec(), Some(1)),
    ] {
        let error = problem(&required(&ca).crl(memory(bytes)));
        assert!(matches!(error.problem(), LoadProblem::BadCrl(_)), "{error}");
        assert_eq!(error.section(), section);
    }
    for text in [String::new(), ca.cert_pem()] {
        let error = problem(&required(&ca).crl(memory(text)));
        assert!(matches!(error.problem(), LoadProblem::NoCrl), "{error}");
    }
}

#[test]
fn no_changed_byte_of_a_list_is_taken_or_makes_it_panic() {
    let ca = TestCa::new("test root");
    let alice = ca.issue(Leaf::client("alice"));
    let der = ca.crl_der(Crl::new().revoke(&alice)).to_vec();
    let alice = alice.chain_der();
    for at_byte in 0..der.len() {
        for change in [0x01, 0x80] {
            let mut changed = der.clone();
            changed[at_byte] ^= change;
            // Another issuer's name makes another's list of it, which does not count for alice.
            if let Ok((policy, _)) = required(&ca).crl(memory(changed)).load(at(NOW)) {
                assert!(policy.verify(&alice, at(NOW)).is_err(), "byte {at_byte} ^ {change:#x}");
            }
        }
        assert!(required(&ca).crl(memory(&der[..at_byte])).load(at(NOW)).is_err());
    }
}

#[test]
fn the_ca_file_is_read_with_care() {
    let ca = TestCa::new("test root");
    let leaf = ca.issue(Leaf::client("alice"));
    let text = leaf.bundle_pem() + &ca.cert_pem() + &ca.cert_pem() + &ca.crl(Crl::new());
    let auth = ClientAuth::required(memory(text));
    let (policy, notices) = load(&auth);
    assert_eq!(policy.verifier.root_hint_subjects().len(), 1);
    let told: Vec<_> = notices.iter().map(|n| (n.section(), n.concern().clone())).collect();
    assert_eq!(
        told,
        [
            (Some(1), TrustConcern::NotAnAuthority { subject: "CN=alice".into() }),
            (Some(2), TrustConcern::PrivateKey),
            (Some(5), TrustConcern::CrlAmongAuthorities),
        ]
    );
    assert_eq!(policy.trust, digest(&required(&ca)), "what was passed over does not count");

    let error = problem(&ClientAuth::required(memory(leaf.cert_pem())));
    assert!(matches!(error.problem(), LoadProblem::NoAuthority), "{error}");
    let error = problem(&ClientAuth::required(memory(leaf.key_pem())));
    assert!(matches!(error.problem(), LoadProblem::NoCertificate), "{error}");
    let broken = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
    let error = problem(&ClientAuth::required(memory(ca.cert_pem() + broken)));
    assert!(matches!(error.problem(), LoadProblem::BadCertificate(_)), "{error}");
    assert_eq!(error.section(), Some(2));
}

#[test]
fn a_leaf_in_the_ca_file_vouches_for_nobody() {
    // With the authority itself absent, and the leaf's key in an attacker's hands.
    let ca = TestCa::new("test root");
    let leaf = ca.issue(Leaf::client("alice"));
    let auth = ClientAuth::required(memory(leaf.cert_pem() + &TestCa::new("other").cert_pem()));
    assert_eq!(refusal(&auth, &leaf), Some(Refusal::UnknownIssuer));
}

#[test]
fn an_authority_has_to_say_that_it_is_one() {
    use base64::Engine as _;
    let ca = TestCa::new("test root");
    // What is in the file is trusted for itself, so a signature that no longer fits is not seen.
    let changed = |from: &[u8], to: u8| {
        let mut der = ca.cert_der().to_vec();
        let end = der.windows(from.len()).rposition(|w| w == from).unwrap() + from.len();
        der[end - 1] = to;
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        let pem = format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
        ClientAuth::required(memory(pem)).load(at(NOW)).map(drop).map_err(|e| e.to_string())
    };
    let (constraints, usage) = ([0x30, 3, 1, 1, 0xff], [0x03, 2, 1, 6]);
    assert_eq!(changed(&constraints, 0xff), Ok(()));
    assert!(changed(&constraints, 0).is_err(), "CA:FALSE");
    assert!(changed(&usage, 2).is_err(), "for revocation lists alone");
}

#[test]
fn an_intermediate_authority_is_trusted_for_itself() {
    let people = TestCa::new("test root").intermediate("people");
    assert_eq!(refusal(&required(&people), &people.issue(Leaf::client("alice"))), None);
}

#[test]
fn more_authorities_than_can_be_named_are_not_named() {
    let ca = TestCa::new("test root");
    let long = |letter: &str| TestCa::new(&letter.repeat(20_000)).cert_pem();
    let auth = ClientAuth::required(memory(ca.cert_pem() + &long("a") + &long("b") + &long("c")));
    let (policy, notices) = load(&auth);
    assert!(policy.verifier.root_hint_subjects().is_empty());
    assert!(matches!(notices[0].concern(), TrustConcern::TooManyToName));
    assert_eq!(refusal(&auth, &ca.issue(Leaf::client("alice"))), None);
}

#[test]
fn the_same_trust_has_the_same_digest_and_any_other_has_another() {
    let (a, b) = (TestCa::new("a"), TestCa::new("b"));
    let (la, lb) = (a.crl(Crl::new()), b.crl(Crl::new()));
    let (pa, pb) = (a.cert_pem(), b.cert_pem());
    let auth = |ca: String, crl: String| {
        let auth = ClientAuth::required(memory(ca));
        if crl.is_empty() { auth } else { auth.crl(memory(crl)) }
    };
    let base = auth(pa.clone() + &pb, la.clone() + &lb);
    let same = [
        auth(pb.clone() + &pa, lb.clone() + &la),
        auth(pa.clone() + &pb + &pa, lb.clone() + &la + &lb),
        auth(pa.clone() + &pb, la.clone()).crl(memory(lb.clone())),
    ];
    for auth in &same {
        assert_eq!(digest(auth), digest(&base));
    }
    let revoking = b.crl(Crl::new().revoke(&b.issue(Leaf::client("alice"))));
    let others = [
        base.clone(),
        ClientAuth::off(),
        ClientAuth::optional(memory(pa.clone() + &pb)).crl(memory(la.clone() + &lb)),
        auth(pa.clone(), la.clone()),
        auth(pa.clone() + &pb, la.clone()),
        auth(pa.clone() + &pb, String::new()),
        auth(pa + &pb, la + &revoking),
        base.clone().crl_expiry(CrlExpiry::Ignore),
        base.clone().crl_depth(CrlDepth::Leaf),
        base.unknown_revocation(UnknownRevocation::Allow),
    ];
    let digests: std::collections::HashSet<_> = others.iter().map(digest).collect();
    assert_eq!(digests.len(), others.len());
}

#[test]
fn configurations_compare_by_what_they_say_and_name_their_files() {
    let auth = |ca: &str| ClientAuth::required(ca).crl("a.crl").crl(memory("x"));
    assert_eq!(auth("ca.pem"), auth("ca.pem"));
    assert_ne!(auth("ca.pem"), auth("other.pem"));
    assert_ne!(auth("ca.pem"), auth("ca.pem").crl_depth(CrlDepth::Leaf));
    assert_ne!(ClientAuth::required("ca.pem"), ClientAuth::optional("ca.pem"));
    assert_ne!(ClientAuth::required("memory.pem"), ClientAuth::required(memory("x")));
    assert_eq!(auth("ca.pem").paths(), [Path::new("ca.pem"), Path::new("a.crl")]);
    assert!(ClientAuth::off().crl("a.crl").paths().is_empty(), "not asked, not read");
    let shown = format!("{:?}", ClientAuth::required(memory("secret")));
    assert!(shown.contains("memory.pem") && !shown.contains("115"), "{shown}");
}

#[test]
fn files_are_read_when_it_is_loaded_and_missing_ones_named() {
    let (dir, ca) = (TestDir::new(), TestCa::new("test root"));
    let (file, list) = (dir.join("ca.pem"), dir.join("a.crl"));
    let auth = ClientAuth::required(&file).crl(list.as_path());
    assert_eq!(problem(&auth).path(), file);
    dir.write("ca.pem", ca.cert_pem());
    let error = problem(&auth);
    assert_eq!(error.path(), list);
    assert!(matches!(error.problem(), LoadProblem::Unreadable(_)), "{error}");
    let alice = ca.issue(Leaf::client("alice"));
    dir.write("a.crl", ca.crl(Crl::new().revoke(&alice)));
    assert_eq!(refusal(&auth, &alice), Some(Refusal::Revoked));
}
