//! A front whose keys live in another process: it serves, and has never had them.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::fs::{self, File, Permissions};
use std::net::SocketAddr;
use std::os::linux::fs::MetadataExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use bartizan_testkit::{HttpBackend, KeyType, Leaf, Minted};
use bartizan_tests::{Http, Proxy, Site, Visitor, eventually, example_binary};

/// A running key server.
struct KeyServer {
    child: Child,
}

impl KeyServer {
    /// Starts it with the keys of `files`, and waits until it listens.
    async fn start(socket: &Path, files: &[&Path]) -> Self {
        let mut command = Command::new(example_binary("key_server"));
        command.arg("serve").arg(socket).args(files).stdin(Stdio::null()).stdout(Stdio::null());
        let server = Self { child: command.spawn().unwrap() };
        let listens = || UnixStream::connect(socket).is_ok();
        eventually("a key server that listens", listens).await;
        server
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for KeyServer {
    fn drop(&mut self) {
        // Fails only if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The files of a site whose certificate and key are apart.
struct Apart {
    socket: PathBuf,
    chain: PathBuf,
    key: PathBuf,
}

impl Apart {
    fn new(site: &Site, minted: &Minted) -> Self {
        let dir = site.dir();
        let chain = dir.write("apart.crt", minted.chain_pem());
        let key = dir.write("apart.key", minted.key_pem());
        Self { socket: dir.join("sock"), chain, key }
    }

    async fn keys(&self) -> KeyServer {
        KeyServer::start(&self.socket, &[&self.key]).await
    }

    fn front_args(&self, backend: SocketAddr) -> [String; 5] {
        let [socket, chain] = [&self.socket, &self.chain].map(|path| path.to_str().unwrap());
        ["front", socket, "127.0.0.1:0", chain, &backend.to_string()].map(str::to_owned)
    }

    fn front(&self, backend: SocketAddr) -> Proxy {
        Proxy::example("key_server", &self.front_args(backend))
    }
}

/// Whether any of `needles` is in the memory of a process.
fn holds(pid: u32, needles: &[Vec<u8>]) -> bool {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut looked_at = 0;
    let mut found = false;
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let (range, rights) = (fields.next().unwrap(), fields.next().unwrap());
        // The kernel's own pages cannot be read in this way, and hold nothing of the process.
        if !rights.starts_with('r') || line.ends_with("[vvar]") || line.contains("[vsyscall]") {
            continue;
        }
        let (from, to) = range.split_once('-').unwrap();
        let [from, to] = [from, to].map(|hex| u64::from_str_radix(hex, 16).unwrap());
        let mut bytes = vec![0; (to - from) as usize];
        let mut read = 0;
        // A mapping may end before the file that it maps, or be gone meanwhile.
        while let Ok(n @ 1..) = memory.read_at(&mut bytes[read..], from + read as u64) {
            read += n;
        }
        looked_at += read;
        found |= needles.iter().any(|needle| find(&bytes[..read], needle));
    }
    assert!(looked_at > 1 << 20, "only {looked_at} bytes of {pid} can be read");
    found
}

/// Whether `needle` is in `hay`.
fn find(hay: &[u8], needle: &[u8]) -> bool {
    let first = needle[0];
    let mut at = 0;
    while let Some(next) = hay[at..].iter().position(|byte| *byte == first) {
        at += next;
        if hay[at..].starts_with(needle) {
            return true;
        }
        at += 1;
    }
    false
}

/// What nobody but the owner of the key may know: the scalar of ECDSA, a prime of RSA; as it is
/// written, and as processors have it.
fn secrets(minted: &Minted, key: KeyType) -> Vec<Vec<u8>> {
    let der = minted.key_der().secret_der().to_vec();
    let secret = match key {
        KeyType::Rsa2048 => {
            // Of the integers in it the primes are the first of 129 bytes, of which one is for the
            // sign.
            let at = der.windows(4).position(|head| head == [0x02, 0x81, 0x81, 0x00]).unwrap();
            der[at + 4..at + 4 + 128].to_vec()
        }
        _ => {
            // PKCS#8 around SEC 1: version 1, then an octet string of 32 bytes.
            let head = [0x02, 0x01, 0x01, 0x04, 0x20];
            let at = der.windows(5).position(|part| part == head).unwrap();
            der[at + 5..at + 5 + 32].to_vec()
        }
    };
    let turned: Vec<u8> = secret.iter().rev().copied().collect();
    vec![secret, turned]
}

#[tokio::test]
async fn the_front_serves_with_keys_that_it_has_never_had() {
    let backend = HttpBackend::start("web").await;
    for key in [KeyType::P256, KeyType::Rsa2048] {
        let site = Site::new();
        let minted = site.ca().issue(Leaf::server("localhost").key(key));
        let apart = Apart::new(&site, &minted);
        let server = apart.keys().await;
        let front = apart.front(backend.addr());
        for version in rustls::ALL_VERSIONS {
            let visitor = Visitor::new(site.ca(), "localhost").speaking(version).forgetful();
            for _ in 0..3 {
                let answer = visitor.get(&front, Http::One, "/").await.unwrap();
                assert_eq!(answer.backend(), "web");
            }
        }
        let secrets = secrets(&minted, key);
        assert!(holds(server.pid(), &secrets), "{key:?}: the search finds what is there");
        assert!(!holds(front.pid(), &secrets), "{key:?}");
        // That of the certificate, as a control: the front's memory is searched at all.
        let public = minted.cert_der()[minted.cert_der().len() - 32..].to_vec();
        assert!(holds(front.pid(), &[public]), "{key:?}");
    }
}

#[tokio::test]
async fn a_key_server_that_is_started_again_is_found_and_a_missing_one_is_told() {
    let (site, backend) = (Site::new(), HttpBackend::start("web").await);
    let apart = Apart::new(&site, &site.ca().issue(Leaf::server("localhost")));
    let server = apart.keys().await;
    let front = apart.front(backend.addr());
    let visitor = Visitor::new(site.ca(), "localhost").forgetful();
    visitor.get(&front, Http::One, "/").await.unwrap();
    server.kill();
    visitor.get(&front, Http::One, "/").await.unwrap_err();
    let told = || front.stderr().contains("signer_failed");
    eventually("an event that tells of the signer", told).await;
    let line =
        front.stderr().lines().find(|line| line.contains("signer_failed")).map(str::to_owned);
    assert!(line.unwrap().contains("ERROR"));
    let _server = apart.keys().await;
    visitor.get(&front, Http::One, "/").await.unwrap();
}

#[tokio::test]
async fn a_key_server_that_hangs_costs_a_handshake_its_deadline_and_no_more() {
    let (site, backend) = (Site::new(), HttpBackend::start("web").await);
    let apart = Apart::new(&site, &site.ca().issue(Leaf::server("localhost")));
    // Accepts in the kernel, and reads nothing.
    let silent = UnixListener::bind(&apart.socket).unwrap();
    let front = apart.front(backend.addr());
    let visitor = Visitor::new(site.ca(), "localhost").forgetful();
    visitor.get(&front, Http::One, "/").await.unwrap_err();
    let told = || front.stderr().contains("signer_timeout");
    eventually("an event that tells of the signer", told).await;
    drop(silent);
    fs::remove_file(&apart.socket).unwrap();
    let _server = apart.keys().await;
    visitor.get(&front, Http::One, "/").await.unwrap();
}

#[tokio::test]
async fn processes_of_another_user_get_no_signature() {
    // Only the superuser can be somebody else.
    if fs::metadata("/proc/self").unwrap().st_uid() != 0 {
        return;
    }
    let (site, backend) = (Site::new(), HttpBackend::start("web").await);
    let apart = Apart::new(&site, &site.ca().issue(Leaf::server("localhost")));
    let _server = apart.keys().await;
    let closed = || fs::metadata(&apart.socket).unwrap().permissions().mode() & 0o777 == 0o600;
    eventually("a socket for its owner alone", closed).await;
    // Past the fence of the files, for the one of the credentials to be seen.
    let open = |path: &Path| fs::set_permissions(path, Permissions::from_mode(0o777)).unwrap();
    open(site.dir().path());
    open(&apart.socket);
    let program = site.dir().join("front");
    fs::copy(example_binary("key_server"), &program).unwrap();
    open(&program);
    let front = Proxy::spawn_as(NOBODY, &program, &apart.front_args(backend.addr()));
    Visitor::new(site.ca(), "localhost").get(&front, Http::One, "/").await.unwrap_err();
    let told = || front.stderr().contains("runs as user 0, not as 65534");
    eventually("an event that tells of the wrong user", told).await;
}

/// A user that owns nothing.
const NOBODY: u32 = 65_534;
