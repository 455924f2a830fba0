//! nginx as a backend, and as whatever a configuration makes of it.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use bartizan_testkit::{TestDir, refused_addr};

use crate::eventually;
use crate::group::Group;
use crate::program::{listening, signal};

/// A running nginx that answers `GET /` with its name and a newline, and logs each request; those of
/// `/check`, which are for checks, apart from the others.
#[derive(Debug)]
pub struct Nginx {
    addr: SocketAddr,
    dir: TestDir,
    running: Group,
}

impl Nginx {
    /// Starts an nginx as a single process on a port of loopback.
    ///
    /// # Panics
    ///
    /// If nginx is missing or does not listen.
    pub async fn start(name: &str) -> Self {
        Self::with(name, "", "").await
    }

    /// Starts an nginx as it runs in production: a master and two workers.
    ///
    /// # Panics
    ///
    /// If nginx is missing or does not listen.
    pub async fn with_workers(name: &str) -> Self {
        Self::configured(|dir, addr| {
            let config = config(dir, addr, name, "");
            config.replace("master_process off;", "master_process on; worker_processes 2;")
        })
        .await
    }

    /// Starts an nginx that has these directives in its `http` block as well, and a `stream` block
    /// of these if there are any. All of its ports are open when this returns.
    ///
    /// # Panics
    ///
    /// If nginx or its stream module is missing, or if it does not listen.
    pub async fn with(name: &str, http: &str, stream: &str) -> Self {
        let (module, stream) = match stream {
            "" => (String::new(), String::new()),
            _ => (format!("load_module {STREAM_MODULE};\n"), format!("stream {{\n{stream}}}\n")),
        };
        Self::configured(|dir, addr| module + &config(dir, addr, name, http) + &stream).await
    }

    async fn configured(config: impl FnOnce(&TestDir, SocketAddr) -> String) -> Self {
        let (addr, dir) = (refused_addr(), TestDir::new());
        dir.write("nginx.conf", config(&dir, addr));
        let running = spawn(&dir);
        listening(addr).await;
        Self { addr, dir, running }
    }

    /// An nginx that ends TLS with the certificate and key in `bundle`, and answers with its name,
    /// the server name that the client sent, the TLS version and the application protocol.
    ///
    /// Returned with the address where it does so.
    ///
    /// # Panics
    ///
    /// If nginx is missing or does not listen.
    pub async fn tls(name: &str, bundle: &Path) -> (Self, SocketAddr) {
        let addr = refused_addr();
        let text = format!("{name} $ssl_server_name $ssl_protocol $ssl_alpn_protocol");
        let http = Self::tls_server(&format!("{addr} ssl http2"), bundle, &says(&text));
        (Self::with(name, &http, "").await, addr)
    }

    /// A `server` block that ends TLS.
    pub fn tls_server(listen: &str, bundle: &Path, directives: &str) -> String {
        let bundle = bundle.display();
        format!(
            "server {{ listen {listen}; ssl_certificate {bundle}; ssl_certificate_key {bundle};
            ssl_protocols TLSv1.2 TLSv1.3; {directives} }}\n"
        )
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What is in its log of errors, from the level `error` on.
    pub fn errors(&self) -> String {
        fs::read_to_string(self.dir.join("error.log")).unwrap()
    }

    /// How many requests it has logged, in all its lives, but for those of `/check`.
    pub fn logged(&self) -> usize {
        self.lines("access.log")
    }

    /// How many requests of `/check` it has logged, in all its lives.
    pub fn checked(&self) -> usize {
        self.lines("check.log")
    }

    fn lines(&self, log: &str) -> usize {
        // Not read: it is asked a hundred times a second, and a load makes it long.
        usize::try_from(fs::metadata(self.dir.join(log)).unwrap().len()).unwrap() / LINE
    }

    /// Kills all of its processes, without a chance to finish anything.
    pub fn kill(&mut self) {
        self.running.kill();
    }

    /// Lets it finish what it is doing, and end.
    ///
    /// # Panics
    ///
    /// If it has not within 30 s.
    pub async fn quit(&mut self) {
        let path = self.dir.join("nginx.pid");
        let pid = || fs::read_to_string(&path).ok()?.trim().parse().ok();
        eventually("nginx's number", || pid().is_some()).await;
        signal(pid().unwrap(), "QUIT");
        // Nearly the last that it does is to remove the file.
        eventually("nginx's end", || !fs::exists(&path).unwrap()).await;
        self.running.kill();
    }

    /// Stops all of its processes where they are: connections stay, and new ones are taken by the
    /// kernel.
    pub fn freeze(&self) {
        self.running.signal("STOP");
    }

    /// Lets them go on after [`freeze`](Self::freeze).
    pub fn thaw(&self) {
        self.running.signal("CONT");
    }

    /// Starts it again after its end, with the same address and logs.
    ///
    /// # Panics
    ///
    /// If it does not listen.
    pub async fn restart(&mut self) {
        self.running = spawn(&self.dir);
        listening(self.addr).await;
    }
}

fn spawn(dir: &TestDir) -> Group {
    // Of one that was killed. It need not be there.
    let _ = fs::remove_file(dir.join("nginx.pid"));
    // Debian keeps it where a plain user's PATH does not look.
    let installed = ["/usr/sbin/nginx", "nginx"];
    let path = installed.into_iter().find(|path| fs::exists(path).unwrap()).unwrap_or("nginx");
    let mut command = Command::new(path);
    command.arg("-c").arg(dir.join("nginx.conf")).arg("-p").arg(dir.path());
    command.args(["-e", "error.log"]);
    Group::start(&command)
}

fn says(text: &str) -> String {
    format!("location / {{ return 200 \"{text}\\n\"; }}")
}

fn config(dir: &TestDir, addr: SocketAddr, name: &str, more: &str) -> String {
    let says = says(name);
    let path = dir.path().display();
    format!(
        "daemon off;
master_process off;
pid {path}/nginx.pid;
error_log {path}/error.log;
events {{ worker_connections 4096; }}
http {{
    log_format one .;
    access_log {path}/access.log one;
    client_body_temp_path {path}/body;
    proxy_temp_path {path}/proxy;
    fastcgi_temp_path {path}/fastcgi;
    uwsgi_temp_path {path}/uwsgi;
    scgi_temp_path {path}/scgi;
    keepalive_requests 1000000;
    server {{
        listen {addr};
        {says}
        location = /check {{
            access_log {path}/check.log one;
            return 200 \"ok\\n\";
        }}
    }}
{more}}}
"
    )
}

/// Bytes of a line in a log: a full stop and its end.
const LINE: usize = 2;

/// Where Debian keeps it.
const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";
