#!/bin/sh
# Has BIRD announce the common address while bitflow is ready. Run it on each host as a service that is restarted
# (bitflow-announce.service), by whoever may write to BIRD's socket.
#
#   CONTROL      bitflow's control socket (127.0.0.1:9090)
#   BIRD_SOCKET  BIRD's (/run/bird/bird.ctl)
#   PROTOCOL     what is enabled and disabled (anycast)
set -u

control=${CONTROL:-127.0.0.1:9090}
bird_socket=${BIRD_SOCKET:-/run/bird/bird.ctl}
protocol=${PROTOCOL:-anycast}

# Said again each time: BIRD may have been restarted, and begins with the protocol disabled.
tell() { # enable|disable
    birdc -s "$bird_socket" "$1" "$protocol" >/dev/null
}

trap 'tell disable' EXIT
trap 'exit 0' INT TERM
# A single answer may be lost, or late. Two in a row are a no; the very first one is, since it may be that nobody has
# withdrawn what an earlier run had announced.
failures=1
while :; do
    if bitflow control --socket "$control" --timeout 2 ready >/dev/null 2>&1; then
        failures=0
        tell enable
    else
        failures=$((failures + 1))
        [ "$failures" -lt 2 ] || tell disable
    fi
    sleep 1
done
