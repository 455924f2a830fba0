use std::time::Duration;

use bartizan_testkit::{KeyType, Leaf, Minted, TestCa, TestDir};

use super::*;

fn minted() -> Minted {
    TestCa::new("test root").issue(Leaf::server("localhost"))
}

/// What is wrong with this text.
fn wrong(pem: &str) -> LoadError {
    wrong_at(pem, &SystemClock)
}

fn wrong_at(pem: &str, clock: &dyn Clock) -> LoadError {
    let error = Identity::from_pem_at("site.pem", pem.as_bytes(), clock).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("site.pem"), "{text}");
    assert_eq!(error.path(), Path::new("site.pem"));
    let section = error.section();
    let named = section.is_some_and(|n| text.contains(&format!("PEM section {n}:")));
    assert_eq!(named, section.is_some(), "{text}");
    // Everything that the problem says of itself is in the message.
    assert!(text.ends_with(&error.problem().to_string()), "{text}");
    error
}

fn day(n: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(n * 86_400)
}

/// The sections of a PEM text.
fn sections(pem: &str) -> Vec<String> {
    let mut sections = vec![String::new()];
    for line in pem.lines().filter(|line| !line.is_empty()) {
        let last = sections.last_mut().unwrap();
        *last += line;
        *last += "\n";
        if line.starts_with("-----END") {
            sections.push(String::new());
        }
    }
    sections.pop();
    sections
}

#[test]
fn leaf_chain_and_key_come_in_any_order() {
    let lower = TestCa::new("test root").intermediate("upper").intermediate("lower");
    let site = lower.issue(Leaf::server("localhost"));
    let parts = sections(&site.bundle_pem());
    assert_eq!(parts.len(), 4);
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 3, 0, 1], [1, 0, 3, 2]] {
        let pem: String = order.iter().map(|i| parts[*i].as_str()).collect();
        let identity = Identity::from_pem("site.pem", pem.as_bytes()).unwrap();
        assert_eq!(identity.chain(), site.chain_der(), "{order:?}: leaf first, then its issuers");
    }
}

#[test]
fn what_nothing_leads_to_stays_behind_the_chain() {
    let ca = TestCa::new("test root").intermediate("upper");
    let (site, stranger) = (ca.issue(Leaf::server("localhost")), TestCa::new("stranger"));
    let pem = stranger.cert_pem() + &site.bundle_pem();
    let identity = Identity::from_pem("site.pem", pem.as_bytes()).unwrap();
    let mut expected = site.chain_der();
    expected.push(stranger.cert_der().clone());
    assert_eq!(identity.chain(), expected);
}

#[test]
fn certificate_and_key_come_in_one_file_or_two() {
    let (dir, site) = (TestDir::new(), minted());
    let bundle = dir.write("site.pem", site.bundle_pem());
    let (certs, key) =
        (dir.write("fullchain.pem", site.chain_pem()), dir.write("key", site.key_pem()));
    for identity in [Identity::from_pem_file(&bundle), Identity::from_pem_files(&certs, &key)] {
        assert_eq!(identity.unwrap().chain(), site.chain_der());
    }
    // A key beside the certificates is no second one: the other file has the one that counts.
    assert!(Identity::from_pem_files(&bundle, &key).is_ok());
}

#[test]
fn texts_around_the_sections_and_foreign_line_ends_do_no_harm() {
    let bundle = minted().bundle_pem();
    for pem in [
        format!("subject=CN = localhost\nissuer=CN = test root\n{bundle}# the end"),
        bundle.replace('\n', "\r\n"),
        bundle.replace("\r\n", "\n").replace('\n', "\r"),
        bundle.replace("-----\n", "-----  \n"),
        bundle.trim_end().to_owned(),
    ] {
        assert!(Identity::from_pem("site.pem", pem.as_bytes()).is_ok(), "{pem:?}");
    }
}

#[test]
fn keys_of_every_kind_and_encoding_are_taken() {
    let ca = TestCa::new("test root");
    for (kind, label) in [
        (KeyType::P256, "EC PRIVATE KEY"),
        (KeyType::P384, "EC PRIVATE KEY"),
        (KeyType::Rsa2048, "RSA PRIVATE KEY"),
    ] {
        let site = ca.issue(Leaf::server("localhost").key(kind));
        let older = pem(label, older_form(site.key_der().secret_der()));
        // What `openssl ecparam -genkey` writes has its parameters before the key.
        let parameters = pem("EC PARAMETERS", [6, 8, 42, 134, 72, 206, 61, 3, 1, 7]);
        for key in [site.key_pem(), older.clone(), parameters + &older] {
            let text = site.cert_pem() + &key;
            let identity = Identity::from_pem("site.pem", text.as_bytes());
            assert_eq!(identity.unwrap().chain(), site.chain_der(), "{kind:?}: {key}");
        }
    }
}

#[test]
fn an_unreadable_file_is_named_with_the_systems_reason() {
    let dir = TestDir::new();
    let (missing, key) = (dir.join("none.pem"), dir.write("key.pem", minted().key_pem()));
    for error in [
        Identity::from_pem_file(&missing).unwrap_err(),
        Identity::from_pem_files(&missing, &key).unwrap_err(),
        Identity::from_pem_files(&key, &missing).unwrap_err(),
    ] {
        assert_eq!(error.path(), missing);
        let LoadProblem::Unreadable(io) = error.problem() else { panic!("{error:?}") };
        assert_eq!(io.kind(), std::io::ErrorKind::NotFound);
        assert!(error.to_string().starts_with(missing.to_str().unwrap()), "{error}");
    }
}

#[test]
fn no_certificate_is_said_so() {
    let site = minted();
    let error = wrong(&site.key_pem());
    let (problem, section) = (error.problem(), error.section());
    assert!(matches!(problem, LoadProblem::NoCertificate), "{problem:?}");
    assert_eq!(section, None);
}

#[test]
fn no_key_is_said_so_and_of_the_right_file() {
    let site = minted();
    for text in [site.cert_pem(), String::new(), "nothing like PEM".to_owned()] {
        let error = wrong(&text);
        let (problem, section) = (error.problem(), error.section());
        assert!(matches!(problem, LoadProblem::NoKey), "{problem:?}");
        assert_eq!(section, None);
    }
    let dir = TestDir::new();
    let (certs, key) = (dir.write("certs", site.cert_pem()), dir.write("key", site.cert_pem()));
    let error = Identity::from_pem_files(&certs, &key).unwrap_err();
    assert_eq!(error.path(), key);
}

#[test]
fn a_second_key_is_pointed_out() {
    let site = minted();
    let error = wrong(&(site.key_pem() + &site.cert_pem() + &minted().key_pem()));
    let (problem, section) = (error.problem(), error.section());
    assert!(matches!(problem, LoadProblem::SeveralKeys), "{problem:?}");
    assert_eq!(section, Some(3));
}

#[test]
fn a_key_of_another_certificate_is_a_mismatch() {
    let (site, other) = (minted(), minted());
    let error = wrong(&(site.cert_pem() + &other.key_pem()));
    let problem = error.problem();
    assert!(matches!(problem, LoadProblem::KeyMismatch { .. }), "{problem:?}");

    let dir = TestDir::new();
    let (certs, key) = (dir.write("certs", site.cert_pem()), dir.write("key", other.key_pem()));
    let error = Identity::from_pem_files(&certs, &key).unwrap_err();
    assert_eq!(error.path(), key);
    assert!(error.to_string().contains(certs.to_str().unwrap()), "both files are named: {error}");
}

#[test]
fn a_leaf_out_of_date_says_since_or_until_when() {
    let leaf = Leaf::server("localhost").not_before(day(10_000)).not_after(day(10_100));
    let site = TestCa::new("test root").issue(leaf);
    let bundle = site.key_pem() + &site.cert_pem();
    let second = Duration::from_secs(1);

    let error = wrong_at(&bundle, &(day(10_100) + second));
    let (problem, section) = (error.problem(), error.section());
    assert!(
        matches!(&problem, LoadProblem::Expired { since } if since.contains("1997")),
        "{problem:?}"
    );
    assert_eq!(section, Some(2));
    let error = wrong_at(&bundle, &(day(10_000) - second));
    let (problem, section) = (error.problem(), error.section());
    let LoadProblem::NotYetValid { until } = &problem else { panic!("{problem:?}") };
    assert!(until.contains("1997"), "{until}");
    assert_eq!(section, Some(2));

    for valid in [day(10_000), day(10_050), day(10_100)] {
        let identity = Identity::from_pem_at("site.pem", bundle.as_bytes(), &valid).unwrap();
        assert_eq!((identity.not_before(), identity.not_after()), (day(10_000), day(10_100)));
    }
    // What has no clock argument asks the system's, and that is later than 1997.
    let error = Identity::from_pem("site.pem", bundle.as_bytes()).unwrap_err();
    assert!(matches!(error.problem(), LoadProblem::Expired { .. }), "{error:?}");
}

#[test]
fn an_encrypted_key_is_recognised_in_both_forms() {
    let site = minted();
    let body = "MIIFHDBOBgkqhkiG9w0BBQ0wQTApBgkqhkiG9w0BBQwwHAQI\n";
    let pkcs8 = format!(
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\n{body}-----END ENCRYPTED PRIVATE KEY-----\n"
    );
    let older = format!(
        "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\
         DEK-Info: AES-256-CBC,0123456789ABCDEF\n\n{body}-----END EC PRIVATE KEY-----\n"
    );
    for key in [pkcs8, older] {
        let error = wrong(&(site.cert_pem() + &key));
        let (problem, section) = (error.problem(), error.section());
        assert!(matches!(problem, LoadProblem::EncryptedKey), "{problem:?}");
        assert_eq!(section, Some(2));
        assert!(problem.to_string().contains("openssl pkey"), "it says what to do: {problem}");

        // Beside the right key it does no harm, in the same file or in that of the certificate.
        assert!(Identity::from_pem("x", (site.bundle_pem() + &key).as_bytes()).is_ok());
        let dir = TestDir::new();
        let certs = dir.write("certs", site.cert_pem() + &key);
        assert!(Identity::from_pem_files(certs, dir.write("key", site.key_pem())).is_ok());
    }
}

#[test]
fn a_section_that_is_cut_or_garbled_is_counted_right() {
    let site = minted();
    let (cert, key) = (site.cert_pem(), site.key_pem());
    let parameters = pem("DH PARAMETERS", [48, 3, 2, 1, 5]);
    let unknown = pem("SOMETHING ELSE", [1, 2, 3]);
    let lines: Vec<_> = cert.lines().collect();
    let without = |n: usize| {
        let kept = lines.iter().enumerate().filter(|(i, _)| *i != n).map(|(_, line)| *line);
        kept.collect::<Vec<_>>().join("\n") + "\n"
    };
    let no_end = without(lines.len() - 1);
    for (what, text, section, says) in [
        (
            "no END at the end",
            format!("{key}{no_end}"),
            2,
            "`-----END CERTIFICATE-----` is missing",
        ),
        (
            "no END before another",
            format!("{no_end}{key}"),
            1,
            "`-----END CERTIFICATE-----` is missing",
        ),
        ("after others", format!("{key}{parameters}{unknown}{no_end}"), 4, "is missing"),
        ("no base64", cert.replacen("MII", "M*I", 1) + &key, 1, "not base64"),
        ("the other END", cert.replace("END CERT", "END NCERT") + &key, 1, "is missing"),
        ("a cut BEGIN", key.clone() + &cert.replace("CATE-----\nM", "CATE--\nM"), 2, "BEGIN line"),
    ] {
        let error = wrong(&text);
        let (problem, at) = (error.problem(), error.section());
        assert!(matches!(problem, LoadProblem::BadPem(_)), "{what}: {problem:?}");
        assert!(problem.to_string().contains(says), "{what}: {problem}");
        assert_eq!(at, Some(section), "{what}");
    }
}

#[test]
fn base64_that_holds_no_certificate_or_key_is_said_so() {
    let site = minted();
    let mut longer = site.cert_der().to_vec();
    longer.extend([0; 3]);
    let cut = &site.cert_der()[..site.cert_der().len() / 2];
    for der in [cut, &longer, b"", b"\x30\x82\xff\xff"] {
        let error = wrong(&(site.key_pem() + &pem("CERTIFICATE", der)));
        let (problem, section) = (error.problem(), error.section());
        assert!(matches!(problem, LoadProblem::BadCertificate(_)), "{problem:?}");
        assert_eq!(section, Some(2));
    }
    let key = site.key_der().secret_der().to_vec();
    for (label, der) in
        [("PRIVATE KEY", &key[..40]), ("RSA PRIVATE KEY", &key), ("EC PRIVATE KEY", b"")]
    {
        let error = wrong(&(site.cert_pem() + &pem(label, der)));
        let (problem, section) = (error.problem(), error.section());
        assert!(matches!(problem, LoadProblem::BadKey(_)), "{label}: {problem:?}");
        assert_eq!(section, Some(2));
    }
}

#[test]
fn no_error_shows_any_of_the_key() {
    let site = minted();
    let (cert, key) = (site.cert_pem(), site.key_pem());
    let secret = key.lines().nth(1).unwrap();
    for text in [
        // As it comes out of a variable or a careless paste: all on one line.
        cert.clone() + &key.replace('\n', " "),
        cert.clone() + &key.replace('\n', ""),
        cert.clone() + &key.replacen("-----\n", "-----", 1),
        cert.clone() + &key.replacen("KEY-----\n", "KEY\n", 1),
        cert.clone() + &key.replacen("-----BEGIN PRIVATE KEY-----\n", "-----BEGIN ", 1),
        cert.clone() + &key.replacen("MI", "M*I", 1),
        cert.clone() + &key.replace("-----END PRIVATE KEY-----", ""),
        cert.clone() + &key.replace("END PRIVATE", "END"),
        key.replace("PRIVATE KEY", "CERTIFICATE"),
        cert + &key + &key,
    ] {
        let error = Identity::from_pem("site.pem", text.as_bytes()).unwrap_err();
        for shown in [error.to_string(), format!("{error:?}")] {
            assert!(!shown.contains(&secret[..16]), "{shown}");
            assert!(!shown.contains(&secret[secret.len() - 16..]), "{shown}");
        }
    }
}

#[test]
fn debug_shows_no_key_material() {
    let site = minted();
    let identity = Identity::from_pem("site.pem", site.bundle_pem().as_bytes()).unwrap();
    let shown = format!("{identity:?}");
    assert!(shown.starts_with("Identity { chain: 1, not_before: "), "{shown}");
    // Neither as text nor as a list of numbers.
    let key = site.key_der();
    let secret: Vec<_> = key.secret_der()[40..44].iter().map(u8::to_string).collect();
    assert!(!shown.contains(&secret.join(", ")), "{shown}");
    assert!(!shown.to_lowercase().contains("key"), "{shown}");
}

/// What is in a PKCS#8 key: SEC 1 for elliptic curves, PKCS#1 for RSA.
fn older_form(pkcs8: &[u8]) -> &[u8] {
    let (sequence, _) = tlv(pkcs8);
    let (_version, rest) = tlv(sequence);
    let (_algorithm, rest) = tlv(rest);
    tlv(rest).0
}

/// The contents of the first DER element, and what is behind it.
fn tlv(der: &[u8]) -> (&[u8], &[u8]) {
    let (length, head) = match der[1] {
        short @ 0..=127 => (usize::from(short), 2),
        long => {
            let bytes = usize::from(long & 127);
            let length = der[2..2 + bytes].iter().fold(0, |n, b| n << 8 | usize::from(*b));
            (length, 2 + bytes)
        }
    };
    der[head..].split_at(length)
}

fn pem(label: &str, der: impl AsRef<[u8]>) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in der.as_ref().chunks(3) {
        let bits = (0..3).fold(0, |n, i| n << 8 | usize::from(*group.get(i).unwrap_or(&0)));
        for digit in 0..4 {
            let known = digit <= group.len();
            text.push(if known { char::from(DIGITS[bits >> (18 - 6 * digit) & 63]) } else { '=' });
        }
        if text.len() % 65 == 64 {
            text.push('\n');
        }
    }
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", text.trim_end())
}
