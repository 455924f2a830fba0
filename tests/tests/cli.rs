//! Whatever is wrong with the command line or its files is said in one line that helps.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::net::TcpListener;
use std::time::{Duration, SystemTime};

use bartizan_testkit::{Crl, HttpBackend, Leaf};
use bartizan_tests::{Client, Ended, Http, Proxy, Site};

/// Runs the proxy, which must refuse, and returns its line without the name of the program.
fn refusal(args: &[String]) -> String {
    let Ended { status, stdout, stderr, .. } = Proxy::run(args);
    assert_eq!(status.code(), Some(2), "{args:?}\n{stderr}");
    assert_eq!(stdout, "", "{args:?}");
    assert!(stderr.ends_with('\n') && stderr.lines().count() == 1, "{args:?}\n{stderr}");
    stderr.strip_prefix("proxy: ").unwrap().trim_end().to_owned()
}

/// The line about an otherwise good command line with these arguments added.
fn refusal_of(added: &[&str]) -> String {
    let site = Site::new();
    let mut args = site.args(&["127.0.0.1:9".parse().unwrap()]);
    args.extend(["--listen", "127.0.0.1:0"].map(str::to_owned));
    args.extend(added.iter().map(|&arg| arg.to_owned()));
    refusal(&args)
}

/// The line about a certificate file with this content.
fn refusal_of_certs(site: &Site, content: &str) -> String {
    let path = site.dir().write("wrong.pem", content);
    let args = ["--listen", "127.0.0.1:0", "--backend", "127.0.0.1:9", "--certs"];
    let mut args = args.map(str::to_owned).to_vec();
    args.push(path.to_str().unwrap().to_owned());
    let line = refusal(&args);
    assert!(line.contains("wrong.pem"), "names the file: {line}");
    line
}

fn assert_says(line: &str, words: &[&str]) {
    for word in words {
        assert!(line.contains(word), "{word:?} is missing: {line}");
    }
}

#[test]
fn help_is_no_error() {
    let ended = Proxy::run(&["--help"]);
    assert_eq!(ended.status.code(), Some(0));
    assert_eq!(ended.stderr, "");
    for flag in [
        "--listen",
        "--certs",
        "--strict-sni",
        "--client-auth-names",
        "--ticket-secret",
        "--ocsp",
        "--backend",
        "--check",
        "--observe",
        "--outlier",
        "--on-marked-down",
        "--drain",
        "--timeout-header",
        "--route",
        "--lint-routes",
        "--limit-source",
        "--accept-proxy",
        "--send-proxy",
        "--balance",
        "--hash-key",
        "--sticky",
        "--slowstart",
        "--queue",
        "--backend-ca",
        "--backend-pin",
        "--dangerous-no-verify",
        "--timeout-tunnel",
    ] {
        assert!(ended.stdout.contains(flag), "{flag} is missing:\n{}", ended.stdout);
    }
}

#[test]
fn flags_that_are_missing_or_unknown_are_named() {
    assert_says(&refusal(&[]), &["--certs", "--backend"]);
    assert_says(&refusal_of(&["--nonsense"]), &["--nonsense"]);
    assert_says(&refusal_of(&["--retries"]), &["--retries"]);
    assert_says(&refusal_of(&["--listen", "nowhere"]), &["--listen", "nowhere"]);
    assert_says(&refusal_of(&["--alpn", "h3"]), &["--alpn", "h3"]);
    assert_says(&refusal_of(&["--balance", "fairly"]), &["--balance", "fairly"]);
    assert_says(&refusal_of(&["--mode", "sideways"]), &["--mode", "sideways"]);
    assert_says(&refusal_of(&["--check", "luck"]), &["--check", "luck"]);
    assert_says(&refusal_of(&["--workers", "-1"]), &["-1"]);
    assert_says(&refusal_of(&["--max-conns", "0"]), &["--max-conns"]);
    assert_says(&refusal_of(&["--rise", "0"]), &["--rise"]);
}

#[test]
fn parts_that_are_not_built_yet_say_so() {
    for added in [
        &["--sticky", "source,store=redis://127.0.0.1"][..],
        &["--retry-on", "503"],
        &["--max-age", "1h"],
        &["--min-rate", "500"],
        &["--admin", "127.0.0.1:0"],
        &["--acme-domain", "a.example"],
        &["--ocsp", "auto"],
        &["--log", "json"],
    ] {
        assert_says(&refusal_of(added), &["not built yet"]);
    }
}

#[test]
fn flags_of_health_that_cannot_be_read_are_named() {
    for (flag, wrong, words) in [
        ("--check", "http", "http:PATH"),
        ("--check", "http:health", "http:PATH"),
        ("--check", "tcp:80", "agent:PORT"),
        ("--check", "agent", "agent:PORT"),
        ("--check", "agent:0", "65535"),
        ("--observe", "layer8", "layer4"),
        ("--observe", "layer7,error-limit=0", "from 1 up"),
        ("--observe", "layer7,on-error=cry", "sudden-death"),
        ("--observe", "layer7,loudly", "loudly"),
        ("--outlier", "consecutive-5xx", "key=value"),
        ("--outlier", "consecutive_5xx=many", "consecutive-5xx"),
        ("--outlier", "interval=10", "ms, s, m or h"),
        ("--outlier", "keep=101%", "100%"),
        ("--outlier", "success-rate=maybe", "on nor off"),
        ("--outlier", "weather=fine", "weather"),
        ("--on-marked-down", "cry", "shutdown-sessions"),
    ] {
        assert_says(&refusal_of(&[flag, wrong]), &[flag, words]);
    }
}

#[test]
fn flags_of_health_that_do_not_go_together_are_refused() {
    for (added, words) in [
        (&["--check", "none", "--check", "tcp"][..], &["--check none", "contradict"][..]),
        (&["--check", "tcp", "--check", "tcp"], &["--check tcp", "twice"]),
        (&["--observe", "layer4"], &["--observe", "--check"]),
        (&["--on-marked-down", "shutdown-sessions"], &["--on-marked-down", "--check"]),
    ] {
        assert_says(&refusal_of(added), words);
    }
    let passes = ["--route", "a.example=pass:127.0.0.1:1", "--check", "http:/"];
    assert_says(&refusal_of(&passes), &["--check http", "--backend-ca"]);
}

#[test]
fn flags_of_balancing_that_cannot_be_read_are_named() {
    for (flag, wrong, words) in [
        ("--backend", "127.0.0.1:1,weight=257", "0 to 256"),
        ("--backend", "127.0.0.1:1,weight=-1", "0 to 256"),
        ("--backend", "127.0.0.1:1,backup=yes", "backup=yes"),
        ("--backend", "127.0.0.1:1,maxconn=many", "many"),
        ("--backend", "127.0.0.1:1,colour=red", "colour=red"),
        ("--backend", "dns:web.example", "dns:NAME:PORT"),
        ("--backend", "dns:web.example:0", "port"),
        ("--backend", "dns::80", "empty"),
        ("--backend", "web=dns:web.example:80", "`web=`"),
        ("--balance", "roundrobin,bounded=125", "bounded=125"),
        ("--balance", "ring,bounded=100", "101"),
        ("--balance", "p2c,draws=0", "draws"),
        ("--balance", "ring,tree", "tree"),
        ("--hash-key", "header:", "header:NAME"),
        ("--hash-key", "header:a b", "a b"),
        ("--hash-key", "weather", "cookie:NAME"),
        ("--sticky", "moss", "source or cookie:NAME"),
        ("--sticky", "cookie:", "needs a name"),
        ("--sticky", "cookie:a=b", "needs a name"),
        ("--sticky", "source,size=0", "0"),
        ("--sticky", "source,expire=0s", "nobody"),
        ("--sticky", "cookie:SRV,maxidle=500ms", "a second"),
        ("--sticky", "cookie:SRV,maxlife=0s", "a second"),
        ("--sticky", "cookie:SRV,rewrite,prefix", "has one"),
        ("--sticky", "cookie:SRV,prefix,maxidle=5m", "maxidle"),
        ("--sticky", "cookie:SRV,insecure,rewrite", "insecure"),
        ("--sticky", "cookie:SRV,rewrite,indirect", "indirect"),
        ("--sticky", "cookie:SRV,prefix,preserve", "preserve"),
        ("--sticky", "source,size=200x", "k, m or g"),
        ("--sticky", "source,indirect", "indirect"),
        ("--sticky", "source,on-down=cry", "ms, s, m or h"),
        ("--sticky", "cookie:SRV,samesite=maybe", "samesite=maybe"),
        ("--slowstart", "10", "ms, s, m or h"),
        ("--queue", "soon", "ms, s, m or h"),
    ] {
        assert_says(&refusal_of(&[flag, wrong]), &[flag, words]);
    }
}

#[test]
fn flags_of_balancing_that_do_not_go_together_are_refused() {
    let site = Site::new();
    let secret = site.dir().write("short", "too short\n");
    let key = format!("cookie:SRV,key={}", secret.display());
    let gone = format!("cookie:SRV,key={}.gone", secret.display());
    for (added, words) in [
        (&["--hash-key", "source"][..], &["--hash-key", "no effect"][..]),
        (&["--slowstart", "10s"], &["--slowstart", "--check"]),
        (&["--queue", "1s"], &["--queue", "maxconn"]),
        (&["--backend", "a=127.0.0.1:1,minconn=1"], &["a", "maxconn"]),
        (&["--sticky", &key], &["short", "32"]),
        (&["--sticky", &gone], &["short.gone"]),
    ] {
        assert_says(&refusal_of(added), words);
    }
    for (added, words) in [
        (&["--sticky", "cookie:SRV"][..], &["--sticky", "passes"][..]),
        (&["--balance", "ring", "--hash-key", "uri"], &["--hash-key", "passes"]),
    ] {
        let mut args = vec!["--mode", "passthrough", "--backend", "127.0.0.1:9"];
        args.extend(added);
        assert_says(&refusal(&args.iter().map(|&arg| arg.to_owned()).collect::<Vec<_>>()), words);
    }
}

#[test]
fn flags_of_passthrough_that_cannot_be_read_are_named() {
    for (flag, wrong, words) in [
        ("--limit-source", "10", "RATE,BURST"),
        ("--limit-source", "ten,10", "ten"),
        ("--limit-source", "10,ten", "ten"),
        ("--limit-source", "0,10", "rate"),
        ("--limit-source", "10,0", "burst"),
        ("--limit-source", "NaN,10", "rate"),
        ("--accept-proxy", "127.0.0.0/33", "127.0.0.0/33"),
        ("--accept-proxy", "localhost", "not a network"),
        ("--send-proxy", "v3", "v3"),
        ("--timeout-tunnel", "10", "ms, s, m or h"),
        ("--backend-ca", "", "system"),
    ] {
        assert_says(&refusal_of(&[flag, wrong]), &[flag, words]);
    }
}

#[test]
fn flags_of_passthrough_that_do_not_go_together_are_refused() {
    let site = Site::new();
    let (certs, ca) = (site.certs().to_str().unwrap(), site.ca_file().to_str().unwrap());
    let route = "a.example=pass:127.0.0.1:1";
    for (args, words) in [
        (&["--mode", "passthrough"][..], &["--backend", "--route"][..]),
        (&["--mode", "passthrough", "--certs", certs], &["--backend", "--route"]),
        (&["--route", route, "--strict-sni"], &["--strict-sni", "nowhere"]),
        (
            &["--route", route, "--client-auth", "required", "--client-ca", ca],
            &["--client-auth", "nowhere"],
        ),
        (&["--route", "a.example=reject", "--send-proxy", "v2"], &["--send-proxy"]),
        (&["--certs", certs, "--backend", "127.0.0.1:9", "--lint-routes"], &["--route"]),
        (&["--route", route, "--route", route], &["two routes"]),
        (&["--route", route, "--backend", "127.0.0.1:9"], &["--certs"]),
        (&["--route", "a.example=terminate", "--backend", "127.0.0.1:9"], &["--certs"]),
        (&["--route", "a.example=terminate", "--certs", certs], &["--backend"]),
        (&["--route", route, "--backend-ca", ca], &["--backend-ca", "--check tls"]),
        (&["--route", route, "--backend-name", "a.example"], &["--backend-name", "--check tls"]),
        (&["--route", route, "--check", "tls"], &["--check tls", "--backend-ca"]),
    ] {
        let args = [&["--listen", "127.0.0.1:0"], args].concat();
        let args: Vec<_> = args.into_iter().map(str::to_owned).collect();
        assert_says(&refusal(&args), words);
    }
    let added = ["--check", "tls", "--backend-ca", ca];
    assert_says(&refusal_of(&added), &["--check tls", "in the clear"]);
}

#[test]
fn flags_of_reencryption_that_cannot_be_read_or_do_not_go_together_are_refused() {
    let site = Site::new();
    let ca = site.ca_file().to_str().unwrap();
    let certs = site.certs().to_str().unwrap();
    let again = ["--mode", "reencrypt"];
    let named = ["--mode", "reencrypt", "--backend-ca", ca, "--backend-name", "web.internal"];
    let ca_only = ["--mode", "reencrypt", "--backend-ca", ca];
    let unverified = ["--mode", "reencrypt", "--dangerous-no-verify"];
    let pin = "sha256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let dangerous = "--dangerous-no-verify";
    for (base, added, words) in [
        (&again[..], &[][..], &["--backend-ca"][..]),
        (&again, &["--backend-ca", ca], &["--backend-name", "sni=", "127.0.0.1:9"]),
        (&again, &["--backend-ca", "/nowhere/ca.pem", "--backend-name", "a"], &["/nowhere/ca.pem"]),
        (&named, &[dangerous], &[dangerous, "--backend-ca"]),
        (&named, &["--backend-key", certs], &["--backend-key", "--backend-cert"]),
        (&named, &["--backend-cert", ca], &[ca, "key"]),
        (&named, &["--backend-pin", "sha256:AAAA"], &["--backend-pin", "sha256:AAAA"]),
        (&named, &["--backend-pin", "md5:AAAA"], &["--backend-pin", "md5:AAAA"]),
        (&named, &["--backend-proto", "h3"], &["--backend-proto", "h3"]),
        (&named, &["--backend", "b=127.0.0.1:1,sni="], &["sni="]),
        (&named, &["--backend", "b=127.0.0.1:1,sni=a b"], &["--backend", "`a b`"]),
        (&ca_only, &["--backend-name", "a b"], &["--backend-name", "`a b`"]),
        (&ca_only, &["--backend-name", ""], &["--backend-name", "empty"]),
        (&ca_only, &["--backend-name", "*.internal"], &["--backend-name", "wildcard"]),
        (
            &unverified,
            &["--route", "a.example=pass:127.0.0.1:1", "--check", "tls"],
            &["--check tls", "--backend-ca"],
        ),
        (&[], &["--backend-cert", certs], &["--backend-cert", "no effect"]),
        (&[], &["--backend-pin", pin], &["--backend-pin", "no effect"]),
        (&[], &[dangerous], &[dangerous, "no effect"]),
        (&[], &["--route", "a.example=reencrypt:127.0.0.1:1"], &["--backend-ca"]),
        (&[], &["--route", "a.example=reencrypt:nowhere"], &["nowhere"]),
    ] {
        assert_says(&refusal_of(&[base, added].concat()), words);
    }
}

#[test]
fn durations_need_a_unit_that_exists() {
    for wrong in ["10", "ten", "10x", "", "-1s", "1.5s", "99999999999999999999h"] {
        let line = refusal_of(&[&format!("--timeout-header={wrong}")]);
        assert_says(&line, &["--timeout-header", wrong]);
    }
    assert_says(&refusal_of(&["--drain", "10"]), &["ms, s, m or h"]);
}

#[test]
fn backends_need_an_address() {
    for wrong in
        ["web=", "web=127.0.0.1", "127.0.0.1:http", "127.0.0.1:99999", ":80", "=127.0.0.1:80"]
    {
        let line = refusal_of(&["--backend", wrong]);
        let named = wrong.trim_matches('=').split('=').next_back().unwrap();
        assert_says(&line, &[named]);
    }
    assert_says(&refusal_of(&["--backend", "a=127.0.0.1:1", "--backend", "a=127.0.0.1:2"]), &["a"]);
}

#[test]
fn certificate_files_that_cannot_be_used_are_named_with_the_reason() {
    let site = Site::new();
    let minted = |leaf: Leaf| site.ca().issue(leaf);
    let (one, other) = (minted(Leaf::server("localhost")), minted(Leaf::server("localhost")));
    let day = Duration::from_secs(86_400);
    #[expect(clippy::disallowed_methods, reason = "certificates end by the real calendar")]
    let now = SystemTime::now();
    let expired = minted(Leaf::server("localhost").not_after(now - day));
    let future = minted(Leaf::server("localhost").not_before(now + day));
    let mismatch = one.cert_pem() + &other.key_pem();
    let cut = &one.bundle_pem()[..400];
    for (content, words) in [
        (&*mismatch, &["key"][..]),
        (&expired.bundle_pem(), &["expired", "20"]),
        (&future.bundle_pem(), &["not valid before", "20"]),
        ("garbage\n", &["no private key"]),
        ("", &["no private key"]),
        (cut, &["PEM"]),
        ("-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n", &["PEM"]),
        ("-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n", &[]),
        (&one.cert_pem(), &["no private key"]),
        (&one.key_pem(), &["no certificate"]),
        (&(one.bundle_pem() + &other.key_pem()), &["second private key"]),
    ] {
        assert_says(&refusal_of_certs(&site, content), words);
    }
}

#[test]
fn certificate_files_that_cannot_be_read_are_named() {
    let site = Site::new();
    let missing = site.dir().join("missing.pem");
    let missing = missing.to_str().unwrap();
    let args = ["--backend", "127.0.0.1:9", "--certs", missing].map(str::to_owned);
    assert_says(&refusal(&args), &["missing.pem", "No such file"]);
}

#[test]
fn flags_about_clients_that_do_not_go_together_are_refused() {
    let site = Site::new();
    let ca = site.ca_file().to_str().unwrap();
    for (added, words) in [
        (&["--client-auth", "required"][..], &["--client-auth", "--client-ca"][..]),
        (&["--client-auth", "optional"], &["--client-auth", "--client-ca"]),
        (&["--client-auth", "perhaps"], &["perhaps", "off, optional, required"]),
        (&["--client-ca", ca], &["--client-ca", "--client-auth"]),
        (&["--client-crl", ca], &["--client-crl", "--client-auth"]),
        (&["--client-auth-names", "a.example"], &["--client-auth-names", "--client-auth"]),
        (
            &["--client-auth", "optional", "--client-ca", ca, "--client-auth-names", "a.example"],
            &["--client-auth-names", "required"],
        ),
        (
            &["--client-auth", "required", "--client-ca", ca, "--client-auth-names", "a b"],
            &["`a b`", "host name"],
        ),
        (
            &["--client-auth", "required", "--client-ca", ca, "--client-auth-names", "a.*.b"],
            &["`a.*.b`", "host name"],
        ),
        (
            &["--client-auth", "required", "--client-ca", ca, "--client-auth-names", ""],
            &["host name", "empty"],
        ),
        (&["--client-cn-header", "x client"], &["--client-cn-header"]),
    ] {
        assert_says(&refusal_of(added), words);
    }
}

#[test]
fn files_about_clients_that_cannot_be_used_are_named_with_the_reason() {
    let site = Site::new();
    let file =
        |name: &str, content: &str| site.dir().write(name, content).to_str().unwrap().to_owned();
    let ca = site.ca_file().to_str().unwrap();
    let leaf = site.ca().issue(Leaf::client("alice"));
    let crl = site.ca().crl(Crl::new());
    let (missing, garbage) = (site.dir().join("missing.pem"), file("garbage.pem", "garbage\n"));
    let missing = missing.to_str().unwrap();
    for (path, words) in [
        (missing, &["missing.pem", "No such file"][..]),
        (&garbage, &["garbage.pem", "no certificate"]),
        (&file("leaf.pem", &leaf.cert_pem()), &["leaf.pem", "authorit"]),
        (&file("cut.pem", &site.ca().cert_pem()[..200]), &["cut.pem", "PEM"]),
    ] {
        let added = ["--client-auth", "required", "--client-ca", path];
        assert_says(&refusal_of(&added), words);
    }
    for (path, words) in [
        (missing, &["missing.pem", "No such file"][..]),
        (&garbage, &["garbage.pem", "revocation"]),
        (&file("cut.crl", &crl[..150]), &["cut.crl", "PEM"]),
        (&file("cert.crl", &site.ca().cert_pem()), &["cert.crl", "revocation"]),
    ] {
        let added = ["--client-auth", "required", "--client-ca", ca, "--client-crl", path];
        assert_says(&refusal_of(&added), words);
    }
}

#[test]
fn keys_that_cannot_be_used_are_named_with_what_to_do() {
    let site = Site::new();
    let leaf = || site.ca().issue(Leaf::server("localhost"));
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\naGVsbG8=\n\
                     -----END ENCRYPTED PRIVATE KEY-----\n";
    let line = refusal_of_certs(&site, &(leaf().cert_pem() + encrypted));
    assert_says(&line, &["encrypted", "openssl"]);
    let old = "-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\
               DEK-Info: AES-256-CBC,00\n\naGVsbG8=\n-----END EC PRIVATE KEY-----\n";
    let line = refusal_of_certs(&site, &(leaf().cert_pem() + old));
    assert_says(&line, &["encrypted", "openssl"]);
    // A key beside its certificate, of another.
    let certs = site.dir().write("apart.pem", leaf().cert_pem());
    site.dir().write("apart.key", leaf().key_pem());
    let args = ["--backend", "127.0.0.1:9", "--certs", certs.to_str().unwrap()];
    assert_says(&refusal(&args.map(str::to_owned)), &["apart.", "key"]);
}

#[test]
fn folders_with_nothing_to_serve_or_with_a_bad_file_are_named() {
    let site = Site::new();
    let folder = site.dir().join("certs");
    std::fs::create_dir(&folder).unwrap();
    let args = ["--backend", "127.0.0.1:9", "--certs", folder.to_str().unwrap()];
    let args = args.map(str::to_owned);
    assert_says(&refusal(&args), &["certs", "strict"]);
    site.dir().write("certs/.hidden", "x");
    site.dir().write("certs/a.key", "x");
    assert_says(&refusal(&args), &["certs", "strict"]);
    // The first in the order of names, and how many more.
    let good = site.ca().issue(Leaf::server("localhost"));
    site.dir().write("certs/a.pem", good.bundle_pem());
    site.dir().write("certs/b.pem", good.cert_pem());
    site.dir().write("certs/c.pem", "garbage");
    assert_says(&refusal(&args), &["b.pem", "no private key", "1 more"]);
    let other = refusal_of(&["--certs", folder.to_str().unwrap()]);
    assert_says(&other, &["b.pem", "no private key"]);
}

#[test]
fn secrets_of_tickets_that_are_none_are_named() {
    let site = Site::new();
    for (content, words) in
        [("", &["secret", "32"][..]), ("short\n", &["secret", "32"]), (&" ".repeat(64), &["32"])]
    {
        let path = site.dir().write("secret", content);
        assert_says(&refusal_of(&["--ticket-secret", path.to_str().unwrap()]), words);
    }
    let missing = site.dir().join("missing");
    let line = refusal_of(&["--ticket-secret", missing.to_str().unwrap()]);
    assert_says(&line, &["missing", "No such file"]);
    assert!(!refusal_of(&["--ocsp", "sometimes"]).contains("not built yet"));
}

#[test]
fn a_taken_port_is_named() {
    let site = Site::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    assert_says(&refusal_of(&["--listen", &addr]), &[&addr, "choose another"]);
    // A proxy's own sockets share their port with each other, and with nobody else.
    let proxy = site.proxy(&["127.0.0.1:9".parse().unwrap()], &[]);
    let addr = proxy.addr().to_string();
    assert_says(&refusal_of(&["--listen", &addr]), &[&addr, "choose another"]);
}

#[tokio::test]
async fn the_key_may_lie_beside_the_certificate() {
    for name in ["apart.key", "apart.pem.key"] {
        let (site, backend) = (Site::new(), HttpBackend::start("web").await);
        let minted = site.ca().issue(Leaf::server("localhost"));
        let certs = site.dir().write("apart.pem", minted.chain_pem());
        site.dir().write(name, minted.key_pem());
        let backend_addr = backend.addr().to_string();
        let args = ["--certs", certs.to_str().unwrap(), "--backend", &backend_addr];
        let proxy = Proxy::start(&args);
        assert_eq!(Client::connect(&site, &proxy, Http::Two).await.get("/").await.text(), "web\n");
    }
}

#[tokio::test]
async fn the_parts_of_a_bundle_may_come_in_any_order() {
    let (site, backend) = (Site::new(), HttpBackend::start("web").await);
    let middle = site.ca().intermediate("middle");
    let minted = middle.issue(Leaf::server("localhost"));
    let bundle = [minted.key_pem(), middle.cert_pem(), minted.cert_pem()].concat();
    let certs = site.dir().write("shuffled.pem", bundle);
    let backend_addr = backend.addr().to_string();
    let proxy = Proxy::start(&["--certs", certs.to_str().unwrap(), "--backend", &backend_addr]);
    assert_eq!(Client::connect(&site, &proxy, Http::One).await.get("/").await.text(), "web\n");
}
