#!/usr/bin/env python3
"""CPU time of the `proxy` example per unit of work, beside HAProxy's.

    cargo build --release --example proxy
    benches/versus_haproxy.py                  # ratios, 7 interleaved rounds
    benches/versus_haproxy.py passthrough-bulk # of some of the workloads
    benches/versus_haproxy.py --instructions   # user instructions per request (valgrind)
    benches/versus_haproxy.py --instructions --flags="--outlier default"  # with a part of the proxy's on

Needs the Debian packages haproxy, nginx-light, nghttp2-client, wrk and openssl (valgrind for
--instructions). Each round runs both, the proxy alone on CPU 0 and everything else on CPU 1, and
takes the ratio of their CPU times; the median of the ratios is printed. It moves far less on a
shared machine than any absolute time.
"""
import argparse, os, pathlib, re, shlex, signal, socket, statistics, subprocess, sys, tempfile, time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROXY = os.environ.get("PROXY_BIN", ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "release/examples/proxy")
TICK = os.sysconf("SC_CLK_TCK")
BIG = 16 * 2**20
# What the proxy is started with besides.
FLAGS = []
# What the work is, in the unit that its cost is printed by.
UNITS = {
    "terminate-small": "request",
    "reencrypt-small": "request",
    "handshake-full": "connection",
    "passthrough-small": "request",
    "passthrough-connect": "connection",
    "passthrough-bulk": "MB",
}


def free_ports(count):
    """Ports that were free a moment ago."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in held]
    for s in held:
        s.close()
    return ports


def wait_for(port, process):
    for _ in range(500):
        if process.poll() is not None:
            sys.exit(f"{process.args} ended with {process.returncode}")
        try:
            return socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.02)
    sys.exit(f"{process.args} does not listen")


def start(cpu, *command):
    return subprocess.Popen(["taskset", "-c", cpu, *map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def certificate(folder):
    key, cert, both = (folder / n for n in ("key.pem", "cert.pem", "both.pem"))
    subprocess.run(["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-days", "2",
                    "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", key, "-out", cert],
                   check=True, capture_output=True)
    both.write_text(cert.read_text() + key.read_text())
    both.chmod(0o644)
    return both


def nginx(folder, both, ports):
    """Servers of 1 KiB at `/` and of 16 MiB at `/big`: the first three in the clear, the others over TLS."""
    (folder / "big").write_bytes(bytes(BIG))
    temp = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    tls = f" ssl; ssl_certificate {both}; ssl_certificate_key {both}; ssl_client_certificate {both}; ssl_verify_client optional_no_ca"
    servers = "".join(
        f"server {{ listen 127.0.0.1:{p}{tls if i >= 3 else ''}; root {folder}; location / {{ return 200 '{'x' * 1024}'; }} location /big {{ }} }}"
        for i, p in enumerate(ports)
    )
    conf = folder / "nginx.conf"
    conf.write_text(f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/err crit; events {{ worker_connections 4000; }}"
                    f"http {{ access_log off; {temp} keepalive_requests 1000000000; keepalive_timeout 300s; {servers} }}")
    process = start("1", "nginx", "-p", folder, "-c", conf)
    wait_for(ports[-1], process)
    return process


def bartizan(work, folder, both, port, ports):
    common = [PROXY, "--listen", f"127.0.0.1:{port}", "--workers", "1", *FLAGS]
    if work.startswith("passthrough"):
        return [*common, "--mode", "passthrough", "--route", "localhost=pass:" + ",".join(f"127.0.0.1:{p}" for p in ports[3:])]
    if work.startswith("reencrypt"):
        tls = ["--mode", "reencrypt", "--backend-ca", both, "--backend-name", "localhost", "--backend-cert", both]
        return [*common, *tls, "--certs", both, *(x for p in ports[3:] for x in ("--backend", f"127.0.0.1:{p}"))]
    return [*common, "--certs", both, *(x for p in ports[:3] for x in ("--backend", f"127.0.0.1:{p}"))]


def haproxy(work, folder, both, port, ports):
    conf = folder / "haproxy.cfg"
    servers = lambda ports: "".join(f"  server s{p} 127.0.0.1:{p}\n" for p in ports)
    common = "global\n  nbthread 1\n  maxconn 8000\ndefaults\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n"
    if work.startswith("passthrough"):
        conf.write_text(f"{common}  mode tcp\nfrontend f\n  bind 127.0.0.1:{port}\n  tcp-request inspect-delay 5s\n"
                        "  tcp-request content accept if { req_ssl_hello_type 1 }\n  use_backend b if { req_ssl_sni -i localhost }\n"
                        f"backend b\n  balance roundrobin\n{servers(ports[3:])}")
    else:
        again = work.startswith("reencrypt")
        tls = f"  default-server ssl verify required ca-file {both} crt {both} sni str(localhost) verifyhost localhost\n" if again else ""
        conf.write_text(f"{common}{tls}  mode http\n  http-reuse always\n  option forwardfor\n"
                        f"listen f\n  bind 127.0.0.1:{port} ssl crt {both} alpn h2,http/1.1\n  balance roundrobin\n{servers(ports[3:] if again else ports[:3])}")
    return ["haproxy", "-db", "-f", conf]


def load(work, port, limit):
    """Runs the load; returns how much work was done."""
    url = f"https://localhost:{port}/"
    if work in ("handshake-full", "passthrough-connect"):
        command = ["wrk", "-t1", "-c32", f"-d{limit[1]}", "-H", "Connection: close", url]
        found, failed = r"(\d+) requests in", r"Non-2xx|Socket errors.* (?:connect|timeout) [1-9]"
    else:
        clients, path = ("-c4", "big") if work == "passthrough-bulk" else ("-c64", "")
        command = ["h2load", "--h1", clients, *limit, "--tls13-ciphers=TLS_AES_128_GCM_SHA256", f"--connect-to=127.0.0.1:{port}", url + path]
        found, failed = r"(\d+) succeeded", r" [1-9]\d* failed"
    out = subprocess.run(["taskset", "-c", "1", *command], capture_output=True, text=True).stdout
    if re.search(failed, out) or not re.search(found, out):
        sys.exit(f"{work}: the load failed:\n{out}")
    return int(re.search(found, out)[1]) * (BIG / 1e6 if work == "passthrough-bulk" else 1)


def cpu(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def one(contestant, work, folder, both, ports, seconds):
    """Microseconds of the proxy's CPU time per unit of work."""
    [port] = free_ports(1)
    process = start("0", *contestant(work, folder, both, port, ports))
    try:
        wait_for(port, process)
        load(work, port, ["-D", "1"])
        before = cpu(process.pid)
        done = load(work, port, ["-D", str(seconds)])
        return (cpu(process.pid) - before) / done * 1e6
    finally:
        process.kill()
        process.wait()


def instructions(contestant, folder, both, ports):
    """User instructions per request: the slope between a short and a long run."""
    runs = []
    for requests in (512, 4096):
        [port] = free_ports(1)
        out = folder / f"callgrind.{requests}"
        process = start("0", "valgrind", "--tool=callgrind", f"--callgrind-out-file={out}", "-q",
                        *contestant("terminate-small", folder, both, port, ports))
        wait_for(port, process)
        done = load("terminate-small", port, ["-n", str(requests)])
        process.send_signal(signal.SIGINT)
        process.wait()
        runs.append((done, int(re.search(r"^(?:totals|summary): (\d+)", out.read_text(), re.M)[1])))
    (n0, i0), (n1, i1) = runs
    return (i1 - i0) / (n1 - n0)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("workload", nargs="*", help=", ".join(UNITS))
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--seconds", type=int, default=2)
    arguments.add_argument("--instructions", action="store_true")
    arguments.add_argument("--flags", default="", help="further flags of the proxy")
    given = arguments.parse_args()
    FLAGS.extend(shlex.split(given.flags))
    if unknown := set(given.workload) - set(UNITS):
        arguments.error(f"there is no workload {', '.join(sorted(unknown))}, only {', '.join(UNITS)}")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        both, ports = certificate(folder), free_ports(6)
        backend = nginx(folder, both, ports)
        try:
            if given.instructions:
                a, b = (instructions(c, folder, both, ports) for c in (bartizan, haproxy))
                print(f"user instructions per small request: bartizan {a:.0f}, HAProxy {b:.0f}, ratio {a / b:.2f}")
                return
            for work in given.workload or UNITS:
                rounds = []
                for i in range(given.rounds):
                    order = (bartizan, haproxy) if i % 2 else (haproxy, bartizan)
                    cost = {c: one(c, work, folder, both, ports, given.seconds) for c in order}
                    rounds.append((cost[bartizan], cost[haproxy], cost[bartizan] / cost[haproxy]))
                a, b, ratio = (statistics.median(column) for column in zip(*rounds))
                ratios = sorted(r[2] for r in rounds)
                print(f"{work}: bartizan {a:.1f} us per {UNITS[work]}, HAProxy {b:.1f} us, ratio {ratio:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})", flush=True)
        finally:
            backend.kill()
            backend.wait()


if __name__ == "__main__":
    main()
