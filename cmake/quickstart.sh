#!/bin/sh
# From a checkout to a request that passes through bitflow: installs what is missing, builds, starts bitflow on
# config.example.yaml in front of a small web server, and fetches a page. Everything started is stopped again.
set -u

cd "$(dirname "$0")/.." || exit 1

# What config.example.yaml says.
CONFIG=config.example.yaml
LISTEN=127.0.0.1:8080
TARGET=127.0.0.1:8000

PYTHON=/usr/bin/python3
BITFLOW=build/release/bitflow
START_SECONDS=15

bitflow_pid=
origin_pid=
work=

say() {
    printf '\n\033[1m%s\033[0m\n' "$*"
}
[ -t 1 ] || say() {
    printf '\n%s\n' "$*"
}

fail() {
    printf '\nquickstart failed: %s\n' "$*" >&2
    exit 1
}

show() { # FILE: what a program said, for a failure's explanation
    sed 's/^/    | /' "$1" >&2
}

cleanup() {
    for pid in $bitflow_pid $origin_pid; do
        kill "$pid" 2>/dev/null && wait "$pid" 2>/dev/null
    done
    [ -z "$work" ] || rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# A connection tells whether somebody listens, without a line in anybody's request log.
is_listening() { # HOST:PORT
    "$PYTHON" -c 'import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 2).close()' \
        "${1%:*}" "${1##*:}" 2>/dev/null
}

check_free() { # HOST:PORT WHAT-FOR
    "$PYTHON" -c '
import socket, sys
probe = socket.socket()
probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
try:
    probe.bind((sys.argv[1], int(sys.argv[2])))
except OSError as error:
    sys.exit(error.strerror)' "${1%:*}" "${1##*:}" 2>"$work/reason" ||
        fail "$1 is needed for $2, but: $(cat "$work/reason"). Stop what uses it and try again."
}

wait_for() { # HOST:PORT PID LOG NAME
    until is_listening "$1"; do
        kill -0 "$2" 2>/dev/null || {
            show "$3"
            fail "$4 has ended; what it said is above"
        }
        [ "$(date +%s)" -lt "$deadline" ] || {
            show "$3"
            fail "$4 does not listen on $1 after $START_SECONDS s"
        }
        sleep 0.1
    done
}

say "1. Installing what is missing"
cmake/install-deps.sh demo || fail "the packages that bitflow needs could not be installed; the reason is above"
echo "   everything is there"

say "2. Building build/release/bitflow"
work=$(mktemp -d) || fail "no temporary directory"
{
    cmake --preset release -DBITFLOW_WERROR="${BITFLOW_WERROR:-OFF}" &&
        cmake --build --preset release --parallel "$(nproc)"
} >"$work/build.log" 2>&1 || {
    tail -n 30 "$work/build.log" >"$work/build.end"
    show "$work/build.end"
    fail "the build failed; its last lines are above"
}
"$BITFLOW" --version | sed 's/^/   /'

say "3. Starting a web server on $TARGET and bitflow with $CONFIG in front of it"
check_free "$TARGET" "the web server"
check_free "$LISTEN" "bitflow"
deadline=$(($(date +%s) + START_SECONDS))
page="Hello through bitflow, $(date -u +%Y-%m-%dT%H:%M:%SZ), process $$"
mkdir "$work/site"
echo "$page" >"$work/site/index.html"
"$PYTHON" -m http.server "${TARGET##*:}" --bind "${TARGET%:*}" --directory "$work/site" >"$work/origin.log" 2>&1 &
origin_pid=$!
wait_for "$TARGET" "$origin_pid" "$work/origin.log" "the web server"
"$BITFLOW" --config "$CONFIG" >"$work/bitflow.log" 2>&1 &
bitflow_pid=$!
wait_for "$LISTEN" "$bitflow_pid" "$work/bitflow.log" "bitflow"
echo "   both are up"

say "4. Fetching a page through bitflow: curl http://$LISTEN/"
answer=$(curl --silent --show-error --noproxy '*' --max-time 10 "http://$LISTEN/" 2>"$work/curl.log") || {
    show "$work/curl.log"
    show "$work/bitflow.log"
    fail "no answer came through bitflow; what curl and bitflow said is above"
}
echo "   $answer"
[ "$answer" = "$page" ] || fail "that is not the page that the web server has: $page"
echo "   what bitflow said:"
sed 's/^/    | /' "$work/bitflow.log"

say "5. Stopping bitflow"
kill "$bitflow_pid"
wait "$bitflow_pid"
status=$?
bitflow_pid=
[ $status -eq 0 ] || {
    show "$work/bitflow.log"
    fail "bitflow ended with exit status $status, not 0"
}

cat <<END
   ended by SIGTERM, exit status 0

It works. Next:
   $BITFLOW --config $CONFIG          run it yourself
   $BITFLOW --check --config FILE             check a configuration of yours
   cmake --install build/release                 install it
docs/configuration.md describes every key of the configuration.
END
