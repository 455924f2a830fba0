//! Files change under a running proxy: what is good is served, what is not changes nothing.

#![allow(clippy::unwrap_used, reason = "a panic here is a failed test")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bartizan_testkit::{HttpBackend, Leaf, Minted};
use bartizan_tests::{Http, Proxy, Site, Visitor, eventually, within};

/// Well before all files are looked at for want of events, which is every 30 s.
const SOON: Duration = Duration::from_secs(15);

struct Scene {
    site: Site,
    backend: HttpBackend,
}

impl Scene {
    async fn new() -> Self {
        Self { site: Site::new(), backend: HttpBackend::start("web").await }
    }

    fn proxy(&self, certs: &Path) -> Proxy {
        self.site.proxy_of(&[certs], self.backend.addr(), &[])
    }

    fn mint(&self) -> Minted {
        self.site.ca().issue(Leaf::server("localhost"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.site.dir().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        self.site.dir().write(name, content)
    }

    /// Puts a file in place of another in one step.
    fn rename_over(&self, name: &str, content: &str) {
        fs::rename(self.write("aside.tmp", content), self.path(name)).unwrap();
    }

    async fn serves(&self, proxy: &Proxy, minted: &Minted) -> bool {
        let visitor = Visitor::new(self.site.ca(), "localhost").forgetful();
        visitor.shown(proxy).await == *minted.cert_der()
    }

    /// Waits until the certificate is served that is to be.
    async fn comes(&self, proxy: &Proxy, minted: &Minted) {
        let before = generations(proxy);
        while !self.serves(proxy, minted).await {
            let seen = generations(proxy);
            eventually("another generation", || generations(proxy) > seen || seen > before).await;
        }
    }
}

fn generations(proxy: &Proxy) -> usize {
    proxy.stderr().matches("certificates loaded").count()
}

/// How many certificates the log says there are.
fn in_force(proxy: &Proxy) -> String {
    let log = proxy.stderr();
    let (_, last) = log.rsplit_once("certificates=").unwrap();
    last.lines().next().unwrap().to_owned()
}

fn failures(proxy: &Proxy) -> usize {
    proxy.stderr().matches("certificates not loaded").count()
}

/// Waits for a failed load after `before` others that says `reason`. A file may be found half
/// written before it is found as it is.
async fn failure(proxy: &Proxy, before: usize, reason: &str) -> String {
    let line = || {
        let log = proxy.stderr();
        let mut failed = log.lines().filter(|line| line.contains("certificates not loaded"));
        failed.by_ref().take(before).for_each(drop);
        failed.find(|line| line.contains(reason)).map(str::to_owned)
    };
    eventually(&format!("a failed load that says: {reason}"), || line().is_some()).await;
    line().unwrap()
}

#[tokio::test]
async fn a_file_that_is_replaced_or_written_again_is_served() {
    let scene = Scene::new().await;
    let mut minted = scene.mint();
    let path = scene.write("live.pem", minted.bundle_pem());
    let proxy = scene.proxy(&path);
    assert!(scene.serves(&proxy, &minted).await);
    for round in 0..6 {
        minted = scene.mint();
        match round % 3 {
            0 => scene.rename_over("live.pem", &minted.bundle_pem()),
            1 => _ = scene.write("live.pem", minted.bundle_pem()),
            _ => {
                fs::remove_file(&path).unwrap();
                scene.write("live.pem", minted.bundle_pem());
            }
        }
        scene.comes(&proxy, &minted).await;
    }
}

#[tokio::test]
async fn a_hangup_loads_again_at_once() {
    let scene = Scene::new().await;
    let proxy = scene.proxy(&scene.write("live.pem", scene.mint().bundle_pem()));
    for _ in 0..5 {
        let minted = scene.mint();
        scene.rename_over("live.pem", &minted.bundle_pem());
        proxy.signal("HUP");
        scene.comes(&proxy, &minted).await;
    }
    // A storm of them is no more than one.
    for _ in 0..100 {
        proxy.signal("HUP");
    }
    let minted = scene.mint();
    scene.rename_over("live.pem", &minted.bundle_pem());
    proxy.signal("HUP");
    scene.comes(&proxy, &minted).await;
}

#[tokio::test]
async fn links_that_are_turned_as_kubernetes_does_are_followed() {
    let scene = Scene::new().await;
    let mut minted = scene.mint();
    let put = |number: usize, minted: &Minted| {
        scene.write(&format!("vol/..{number}/tls.crt"), minted.chain_pem());
        scene.write(&format!("vol/..{number}/tls.key"), minted.key_pem());
        symlink(format!("..{number}"), scene.path("vol/..data_tmp")).unwrap();
        fs::rename(scene.path("vol/..data_tmp"), scene.path("vol/..data")).unwrap();
    };
    put(0, &minted);
    for file in ["tls.crt", "tls.key"] {
        symlink(format!("..data/{file}"), scene.path(&format!("vol/{file}"))).unwrap();
    }
    let of_file = scene.proxy(&scene.path("vol/tls.crt"));
    let of_folder = scene.proxy(&scene.path("vol"));
    for number in 1..5 {
        minted = scene.mint();
        put(number, &minted);
        fs::remove_dir_all(scene.path(&format!("vol/..{}", number - 1))).unwrap();
        for proxy in [&of_file, &of_folder] {
            scene.comes(proxy, &minted).await;
        }
    }
    assert!(scene.serves(&of_file, &minted).await);
    assert_eq!(failures(&of_file) + failures(&of_folder), 0, "{}", of_file.stderr());
}

#[tokio::test]
async fn links_as_certbot_makes_them_are_followed() {
    let scene = Scene::new().await;
    let minted = scene.mint();
    scene.write("archive/site1.pem", minted.bundle_pem());
    fs::create_dir(scene.path("live")).unwrap();
    symlink("../archive/site1.pem", scene.path("live/site.pem")).unwrap();
    let proxy = scene.proxy(&scene.path("live"));
    for number in 2..5 {
        let minted = scene.mint();
        scene.write(&format!("archive/site{number}.pem"), minted.bundle_pem());
        fs::remove_file(scene.path("live/site.pem")).unwrap();
        symlink(format!("../archive/site{number}.pem"), scene.path("live/site.pem")).unwrap();
        scene.comes(&proxy, &minted).await;
        // And what it points to is written in place.
        let minted = scene.mint();
        scene.write(&format!("archive/site{number}.pem"), minted.bundle_pem());
        scene.comes(&proxy, &minted).await;
    }
}

#[tokio::test]
async fn a_bad_file_keeps_the_last_good_certificate_and_the_log_says_why() {
    let scene = Scene::new().await;
    let good = scene.mint();
    let path = scene.write("live/site.pem", good.bundle_pem());
    let folder = scene.path("live");
    for certs in [&path, &folder] {
        scene.write("live/site.pem", good.bundle_pem());
        let mut proxy = scene.proxy(certs);
        let next = scene.mint();
        let whole = next.bundle_pem();
        let mixed = next.cert_pem() + &good.key_pem();
        let cut = whole[..whole.len() - 40].to_owned();
        for (content, reason) in [
            (whole[..300].to_owned(), "section 1"),
            (cut, "section 2"),
            (next.cert_pem(), "no private key"),
            (mixed, "belongs to no certificate"),
            ("\0\u{1}garbage".to_owned(), "no private key"),
        ] {
            let before = failures(&proxy);
            scene.write("live/site.pem", &content);
            let line = failure(&proxy, before, reason).await;
            assert!(line.contains("site.pem"), "{reason}: {line}");
            assert!(scene.serves(&proxy, &good).await, "{reason}");
        }
        // The rest comes, and nobody need do more.
        scene.write("live/site.pem", &whole);
        scene.comes(&proxy, &next).await;
        assert!(proxy.is_running());
    }
}

#[tokio::test]
async fn a_folder_that_vanishes_and_comes_back_is_watched_on() {
    let scene = Scene::new().await;
    let good = scene.mint();
    scene.write("live/site.pem", good.bundle_pem());
    let proxy = scene.proxy(&scene.path("live"));
    for _ in 0..3 {
        let before = failures(&proxy);
        fs::remove_dir_all(scene.path("live")).unwrap();
        failure(&proxy, before, "").await;
        assert!(scene.serves(&proxy, &good).await || generations(&proxy) > 1);
        // By a rename, as a deployment does it, and file by file.
        let minted = scene.mint();
        scene.write("new/site.pem", minted.bundle_pem());
        fs::rename(scene.path("new"), scene.path("live")).unwrap();
        scene.comes(&proxy, &minted).await;
        let minted = scene.mint();
        scene.write("live/site.pem", minted.bundle_pem());
        scene.comes(&proxy, &minted).await;
    }
}

#[tokio::test]
async fn links_in_the_middle_of_a_path_are_followed() {
    let scene = Scene::new().await;
    let mut minted = scene.mint();
    scene.write("r0/certs/site.pem", minted.bundle_pem());
    symlink("r0", scene.path("current")).unwrap();
    let of_file = scene.proxy(&scene.path("current/certs/site.pem"));
    let of_folder = scene.proxy(&scene.path("current/certs"));
    for number in 1..4 {
        minted = scene.mint();
        scene.write(&format!("r{number}/certs/site.pem"), minted.bundle_pem());
        symlink(format!("r{number}"), scene.path("next")).unwrap();
        fs::rename(scene.path("next"), scene.path("current")).unwrap();
        for proxy in [&of_file, &of_folder] {
            within(SOON, "the next release", scene.comes(proxy, &minted)).await;
        }
    }
    assert_eq!(failures(&of_file) + failures(&of_folder), 0, "{}", of_file.stderr());
}

#[tokio::test]
async fn a_folder_that_vanishes_with_those_above_it_is_waited_for() {
    let scene = Scene::new().await;
    scene.write("a/b/certs/site.pem", scene.mint().bundle_pem());
    let proxy = scene.proxy(&scene.path("a/b/certs"));
    for _ in 0..2 {
        let before = failures(&proxy);
        fs::remove_dir_all(scene.path("a")).unwrap();
        failure(&proxy, before, "").await;
        let minted = scene.mint();
        scene.write("a/b/certs/site.pem", minted.bundle_pem());
        within(SOON, "its return", scene.comes(&proxy, &minted)).await;
    }
}

#[tokio::test]
async fn certificates_come_and_go_with_their_files() {
    let scene = Scene::new().await;
    scene.write("live/0.pem", scene.mint().bundle_pem());
    let proxy =
        scene.site.proxy_of(&[&scene.path("live")], scene.backend.addr(), &["--strict-sni"]);
    let other = Visitor::new(scene.site.ca(), "other.example");
    for _ in 0..3 {
        assert!(other.handshake(&proxy, Http::One).await.is_err());
        let minted = scene.site.ca().issue(Leaf::server("other.example"));
        // The key comes second: half of a pair is a failure for a moment, or not even seen.
        scene.write("live/other.pem", minted.chain_pem());
        scene.write("live/other.pem.key", minted.key_pem());
        eventually("both", || in_force(&proxy) == "2").await;
        assert_eq!(other.shown(&proxy).await, *minted.cert_der());
        fs::remove_file(scene.path("live/other.pem.key")).unwrap();
        fs::remove_file(scene.path("live/other.pem")).unwrap();
        eventually("one", || in_force(&proxy) == "1").await;
    }
}
