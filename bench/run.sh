#!/usr/bin/env bash
# Compares, on this machine, nats-server's own MQTT listener (A) with nats-mqtt beside a nats-server (B).
#
#   bench/run.sh              every scenario, ROUNDS rounds
#   bench/run.sh qos1         the scenarios whose name contains "qos1"
#
# The two alternate, A B A B, each scenario on its own topics, so that a noisy moment hits both. Each has a nats-server
# of its own with JetStream in files. What counts is the ratio; absolute numbers belong to the machine.
#
# Variables: ROUNDS (3), SECONDS_MAX per run (60), SCALE of the message counts in percent (100), LOADGEN_SOURCE
# (../shared/loadgen), LOADGEN and NATS_MQTT (programs to use instead of building them), NATS_SERVER.
set -euo pipefail
cd "$(dirname "$0")/.."

export CARGO_BUILD_JOBS=${CARGO_BUILD_JOBS:-2}
ROUNDS=${ROUNDS:-3}
SECONDS_MAX=${SECONDS_MAX:-60}
SCALE=${SCALE:-100}
WANTED=${1:-}
TARGET=${CARGO_TARGET_DIR:-target}
LOADGEN_SOURCE=${LOADGEN_SOURCE:-../shared/loadgen}
NATS_SERVER=${NATS_SERVER:-$PWD/.tools/bin/nats-server}

# name, then options of loadgen. QoS 0 runs in a closed loop: an open one measures who drops faster.
SCENARIOS=(
    "qos0-1:1      --qos 0 --pubs 1 --subs 1 --topics own --window 1000 --msgs 1000000"
    "qos0-1:100    --qos 0 --pubs 1 --subs 100 --topics shared --window 1000 --msgs 40000"
    "qos1-1:1      --qos 1 --pubs 1 --subs 1 --topics own --inflight 128 --msgs 200000"
    "qos1-10:10    --qos 1 --pubs 10 --subs 10 --topics own --inflight 128 --msgs 20000"
)

fail() {
    echo "bench: $*" >&2
    exit 1
}

work=$(mktemp -d)
pids=()
cleanup() {
    # Only what was started here, by its id; nats-mqtt first, so that it can drain.
    for ((i = ${#pids[@]} - 1; i >= 0; i--)); do
        kill "${pids[i]}" 2> /dev/null || true
        wait "${pids[i]}" 2> /dev/null || true
    done
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if [[ -z ${LOADGEN:-} ]]; then
    [[ -f $LOADGEN_SOURCE/Cargo.toml ]] ||
        fail "there is no load generator in $LOADGEN_SOURCE: name its source in LOADGEN_SOURCE or the program in LOADGEN"
    cargo build --quiet --release --locked --manifest-path "$LOADGEN_SOURCE/Cargo.toml" --target-dir "$TARGET/loadgen"
    LOADGEN=$TARGET/loadgen/release/loadgen
fi
if [[ -z ${NATS_MQTT:-} ]]; then
    cargo build --release --bin nats-mqtt
    NATS_MQTT=$TARGET/release/nats-mqtt
fi
[[ -x $NATS_SERVER ]] || fail "there is no $NATS_SERVER: run 'make tools'"

read -r nats_a mqtt_a nats_b mqtt_b < <(python3 - << 'PY'
import socket

sockets = [socket.socket() for _ in range(4)]
for s in sockets:
    s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in sockets))
PY
)

# Waits until a port of this machine takes connections.
listens() {
    local name=$1 port=$2 log=$3
    for ((i = 0; i < 300; i++)); do
        (: < "/dev/tcp/127.0.0.1/$port") 2> /dev/null && return
        sleep 0.1
    done
    cat "$log" >&2
    fail "$name does not listen on port $port"
}

start_nats() {
    local name=$1 port=$2 rest=$3
    {
        echo "server_name: $name"
        echo "listen: \"127.0.0.1:$port\""
        echo "jetstream { store_dir: \"$work/$name\" }"
        echo "$rest"
    } > "$work/$name.conf"
    "$NATS_SERVER" -c "$work/$name.conf" 2> "$work/$name.log" &
    pids+=($!)
    listens "nats-server $name" "$port" "$work/$name.log"
}

start_nats a "$nats_a" "mqtt { listen: \"127.0.0.1:$mqtt_a\" }"
pid_a=${pids[-1]}
listens "the MQTT listener of nats-server" "$mqtt_a" "$work/a.log"
start_nats b "$nats_b" ""
pid_b=${pids[-1]}
"$NATS_MQTT" --nats "nats://127.0.0.1:$nats_b" --listen "127.0.0.1:$mqtt_b" --admin "" --log-level warn \
    2> "$work/nats-mqtt.log" &
pids+=($!)
pid_b+=",${pids[-1]}"
listens nats-mqtt "$mqtt_b" "$work/nats-mqtt.log"

results=$work/results
run=0
for scenario in "${SCENARIOS[@]}"; do
    read -r name options <<< "$scenario"
    [[ $name == *"$WANTED"* ]] || continue
    read -ra options <<< "$options"
    for ((i = 0; i < ${#options[@]}; i++)); do
        if [[ ${options[i]} == --msgs ]]; then
            options[i + 1]=$((options[i + 1] * SCALE / 100))
        fi
    done
    for ((round = 1; round <= ROUNDS; round++)); do
        for side in "A $mqtt_a $pid_a" "B $mqtt_b $pid_b"; do
            read -r letter port pid <<< "$side"
            run=$((run + 1))
            echo "bench: $name, round $round of $ROUNDS, $letter" >&2
            result=$("$LOADGEN" --port "$port" --pid "$pid" --prefix "bench$run" --id "bench$run" --max "$SECONDS_MAX" "${options[@]}")
            printf '%s\t%s\t%s\n' "$name" "$letter" "$result" >> "$results"
        done
    done
done
[[ -s $results ]] || fail "no scenario has \"$WANTED\" in its name"
if [[ -s $work/nats-mqtt.log ]]; then
    echo "bench: nats-mqtt said:" >&2
    head -n 20 "$work/nats-mqtt.log" >&2
fi
bench/table.py < "$results"
