//! nginx as a backend.

use std::fs;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use bartizan_testkit::{TestDir, refused_addr};

use crate::program::{Running, listening};

/// A running nginx that answers `GET /` with its name and a newline, and logs each request.
#[derive(Debug)]
pub struct Nginx {
    addr: SocketAddr,
    dir: TestDir,
    running: Running,
}

impl Nginx {
    /// Starts an nginx as a single process on a port of loopback.
    ///
    /// # Panics
    ///
    /// If nginx is missing or does not listen.
    pub async fn start(name: &str) -> Self {
        let addr = refused_addr();
        let dir = TestDir::new();
        dir.write("nginx.conf", config(&dir, addr, name));
        let running = spawn(&dir);
        listening(addr).await;
        Self { addr, dir, running }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many requests it has logged, in all its lives.
    pub fn logged(&self) -> usize {
        fs::read_to_string(self.dir.join("access.log")).unwrap().lines().count()
    }

    /// Kills it, without a chance to finish anything.
    pub fn kill(&mut self) {
        self.running.kill();
    }

    /// Starts it again, with the same address and log.
    ///
    /// # Panics
    ///
    /// If it does not listen.
    pub async fn restart(&mut self) {
        self.running = spawn(&self.dir);
        listening(self.addr).await;
    }
}

fn spawn(dir: &TestDir) -> Running {
    // Debian keeps it where a plain user's PATH does not look.
    let installed = ["/usr/sbin/nginx", "nginx"];
    let path = installed.into_iter().find(|path| fs::exists(path).unwrap()).unwrap_or("nginx");
    let mut command = Command::new(path);
    command.arg("-c").arg(dir.join("nginx.conf")).arg("-p").arg(dir.path());
    command.args(["-e", "error.log"]);
    Running::start(command.stdout(Stdio::null()).stderr(Stdio::inherit()))
}

fn config(dir: &TestDir, addr: SocketAddr, name: &str) -> String {
    let path = dir.path().display();
    format!(
        "daemon off;
master_process off;
pid {path}/nginx.pid;
error_log {path}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log {path}/access.log;
    client_body_temp_path {path}/body;
    proxy_temp_path {path}/proxy;
    fastcgi_temp_path {path}/fastcgi;
    uwsgi_temp_path {path}/uwsgi;
    scgi_temp_path {path}/scgi;
    keepalive_requests 1000000;
    server {{
        listen {addr};
        location / {{ return 200 \"{name}\\n\"; }}
    }}
}}
"
    )
}
