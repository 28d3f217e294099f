#!/usr/bin/env python3
"""Prints the results of bench/run.sh, read from standard input, as one table: medians over the rounds, and ratios."""

import json
import sys
from statistics import median

COLUMNS = "{:<12} {:>10} {:>10} {:>6}   {:>9} {:>9}   {:>8} {:>8}   {}"


def main():
    scenarios = {}
    for line in sys.stdin:
        name, side, result = line.rstrip("\n").split("\t")
        scenarios.setdefault(name, {"A": [], "B": []})[side].append(json.loads(result))
    print("A: nats-server's own MQTT, B: nats-mqtt beside nats-server. Medians.\n")
    print(COLUMNS.format("", "A msg/s", "B msg/s", "B/A", "A p99 ms", "B p99 ms", "A µs/msg", "B µs/msg", ""))
    for name, sides in scenarios.items():
        def of(side, field):
            return median(run[field] for run in sides[side])

        rate_a, rate_b = of("A", "delivered_rate"), of("B", "delivered_rate")
        remarks = [
            f"{side}: {what} {total}"
            for side, runs in sides.items()
            for what in ("lost", "dup", "reordered", "conn_lost", "connect_errors")
            if (total := sum(run[what] for run in runs))
        ]
        print(COLUMNS.format(
            name, f"{rate_a:.0f}", f"{rate_b:.0f}", f"{rate_b / rate_a:.2f}" if rate_a else "-",
            f"{of('A', 'lat_p99_ms'):.1f}", f"{of('B', 'lat_p99_ms'):.1f}",
            f"{of('A', 'srv_us_per_delivered'):.2f}", f"{of('B', 'srv_us_per_delivered'):.2f}", ", ".join(remarks)))
    print("\nmsg/s: messages delivered a second. p99: from publish to delivery. µs/msg: processor time of the servers "
          "for each\nmessage delivered, nats-server included on both sides.")


if __name__ == "__main__":
    main()
