#!/usr/bin/env bash
# Installs the programs that the tests against real peers need, and runs these tests.
# Arguments go to `cargo test`: `tests/interop.sh -- drain` runs those with `drain` in their name.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# Debian keeps servers where a plain user's PATH does not look.
export PATH="$PATH:/usr/sbin:/sbin"
export DEBIAN_FRONTEND=noninteractive

packages=(
    curl openssl nginx-light libnginx-mod-stream haproxy wrk nghttp2-client python3 sslscan testssl.sh
    chromium dnsmasq-base
)
programs=(curl openssl nginx haproxy wrk h2load python3 sslscan testssl chromium dnsmasq)
services=(nginx haproxy)
python_packages=(grpcio==1.85.1 grpcio-health-checking==1.85.1)

as_root() {
    if ((EUID)); then sudo -E "$@"; else "$@"; fi
}

installed() {
    [[ $(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

# The tests run these servers themselves, on ports of their own.
stop_service() {
    if [[ -d /run/systemd/system ]]; then
        as_root systemctl disable --quiet --now "$1"
    elif [[ -x /etc/init.d/$1 ]]; then
        as_root "/etc/init.d/$1" stop
    fi
}

if ((${#python_packages[@]})); then
    packages+=(python3-venv)
fi

missing=()
for package in "${packages[@]}"; do
    installed "$package" || missing+=("$package")
done

if ((${#missing[@]})); then
    # A service that was here before is its owner's, and keeps running.
    new_services=()
    for service in "${services[@]}"; do
        command -v "$service" >/dev/null || new_services+=("$service")
    done
    as_root apt-get update -q
    as_root apt-get install -y -q --no-install-recommends "${missing[@]}"
    for service in "${new_services[@]}"; do
        stop_service "$service"
    done
fi

for program in "${programs[@]}"; do
    if ! command -v "$program" >/dev/null; then
        printf '%s: %s is missing\n' "$0" "$program" >&2
        exit 1
    fi
done

if ((${#python_packages[@]})); then
    venv=$PWD/target/interop-venv
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet "${python_packages[@]}"
    export PATH="$venv/bin:$PATH"
fi

# `limits` has one that the feature adds; the others run without any of this.
# Of the whole workspace, so that nothing is built again that its other tests have built.
cargo test --workspace --features bartizan-tests/interop --test 'interop_*' --test limits "$@"
