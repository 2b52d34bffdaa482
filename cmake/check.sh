#!/bin/sh
# Builds bitflow and runs every test of it, having installed the tools they need.
#
#   check.sh [STAGE...]        default: style release
#
# style             formatting, layers, forbidden functions, sizes
# release debug     build, unit tests, end-to-end tests
# asan tsan         the same, with sanitizers
# clang             build by clang (its warnings, its check of the locks); nightly its unit tests, too
# tidy              clang-tidy
# fuzz              build the fuzz targets and run each for 15 seconds, nightly for ten minutes
# quickstart        cmake/quickstart.sh
#
# All stages are run, also after one has failed; the exit status tells whether each went well.
#
# What this machine lacks (a peer, npm's registry, network namespaces, ...) leaves out the tests that take it, and the
# summary names it. With CI=true it is a failure instead.
#
# BITFLOW_NIGHTLY=1: all that is too much for each run: chains of certificates in both versions of TLS, in both roles,
# and in another order; 20 upgrades and rotations under load; replicas for longer; the whole image; all of the
# benchmark's scenarios; each sanitizer with all end-to-end tests; clang's unit tests; longer fuzzing.
set -u

cd "$(dirname "$0")/.." || exit 1
# Nothing here reads a person's input, and CI may start us with no standard input at all.
exec </dev/null

# Debian's python3: it has Debian's pytest, another one that comes first in PATH may not.
PYTHON=/usr/bin/python3
LLVM=19
E2E_LIMIT=1200
FUZZ_SECONDS=15
if [ "${BITFLOW_NIGHTLY:-}" = 1 ]; then
    E2E_LIMIT=5400
    FUZZ_SECONDS=600
fi
JOBS=$(nproc)
E2E_PARTS=$((JOBS * 2))

export PYTHONDONTWRITEBYTECODE=1
export ASAN_OPTIONS="detect_stack_use_after_return=1:strict_string_checks=1${ASAN_OPTIONS:+:$ASAN_OPTIONS}"
export UBSAN_OPTIONS="print_stacktrace=1${UBSAN_OPTIONS:+:$UBSAN_OPTIONS}"
export TSAN_OPTIONS="second_deadlock_stack=1${TSAN_OPTIONS:+:$TSAN_OPTIONS}"

results=
failed=0

is_ci() {
    [ "${CI:-}" = true ]
}

# A line of the closing table.
record() { # NAME SECONDS OUTCOME
    results="$results$(printf '%-22s %5s s  %s' "$1" "$2" "$3")
"
}

# Whether a stage's tools are there; without one it is left out.
has_tools() { # NAME TOOL...
    name=$1
    shift
    for tool in "$@"; do
        case $tool in
        cmocka) echo '#include <cmocka.h>' | cc -E - ;;
        python3-*) "$PYTHON" -c "import ${tool#python3-}" ;;
        *) command -v "$tool" ;;
        esac >/dev/null 2>&1 && continue
        record "$name" - "left out for want of $tool"
        ! is_ci || failed=$((failed + 1))
        return 1
    done
}

# Runs a command as one line of the closing table.
timed() { # NAME COMMAND...
    name=$1
    shift
    printf '\n==== %s\n' "$name"
    started=$(date +%s)
    "$@"
    status=$?
    took=$(($(date +%s) - started))
    if [ $status -eq 0 ]; then
        outcome=ok
    else
        outcome="FAILED (exit status $status)"
        failed=$((failed + 1))
    fi
    record "$name" "$took" "$outcome"
    return $status
}

build() { # PRESET [CMAKE-OPTION...]
    preset=$1
    shift
    cmake --preset "$preset" -DBITFLOW_WERROR=ON "$@" && cmake --build --preset "$preset" --parallel "$JOBS"
}

# gcc's ThreadSanitizer cannot map its shadow where the kernel randomizes addresses by more than 28 bits.
fixed_addresses() { # PRESET COMMAND...
    preset=$1
    shift
    if [ "$preset" = tsan ] && [ "$(cat /proc/sys/vm/mmap_rnd_bits 2>/dev/null || echo 28)" -gt 28 ]; then
        setarch -R "$@"
    else
        "$@"
    fi
}

# Most of these tests wait more than they compute; under a sanitizer they compute more.
unit() { # PRESET
    case $1 in
    asan | tsan) parallel=$((JOBS * 2)) ;;
    *) parallel=$((JOBS * 4)) ;;
    esac
    fixed_addresses "$1" ctest --preset "$1" --parallel "$parallel"
}

# What refuses to start has one thread only: ThreadSanitizer has nothing to find there.
ONE_THREAD_TESTS="test_command_line test_config_features test_config_files test_config_values test_docs_examples"

# Hundreds of handshakes, one after the other, for what libraries answer: sanitizers see the same of our own code in
# test_tls_hostile_chains and others.
LIBRARY_TESTS="test_tls_pkits test_tls_paths test_tls_testssl test_tls_ca_names"

# What AddressSanitizer has nightly only: hundreds of starts that are refused, since the configuration's unit tests and
# its fuzzer are sanitized, too; and what waits for minutes, which ThreadSanitizer has each time.
LONG_TESTS="test_config_files test_config_values"
LONG_TESTS="$LONG_TESTS test_second_thread test_stalled_memory test_timeouts test_vanished_peers"
[ "${BITFLOW_NIGHTLY:-}" != 1 ] || LONG_TESTS=

# What each sanitizer has of the folders; nightly both have all but project. Where memory is what may go wrong: parsing,
# handshakes, configurations. Where threads meet: reports, logs, reloads, balancing. Relays: both. Neither
# has project: documents, packages and benchmarks.
ASAN_FOLDERS="access config control dial listeners proxy_protocol relay socks tls"
TSAN_FOLDERS="balancing control logs metrics process relay sentry"

# Whether a preset leaves a file out.
is_left_out() { # PRESET FOLDER NAME
    case $1 in
    asan) folders=$ASAN_FOLDERS few="$LIBRARY_TESTS $LONG_TESTS" ;;
    tsan) folders=$TSAN_FOLDERS few="$ONE_THREAD_TESTS $LIBRARY_TESTS" ;;
    *) return 1 ;;
    esac
    [ "${BITFLOW_NIGHTLY:-}" != 1 ] || folders="$ASAN_FOLDERS $TSAN_FOLDERS"
    case " $few " in *" $3 "*) return 0 ;; esac
    case " $folders " in *" $2 "*) return 1 ;; esac
}

# The longest first, as far as their length tells, so that none is left to run alone.
e2e_files() { # PRESET
    for file in $(find test/e2e -name 'test_*.py' -printf '%s %p\n' | sort -rn | cut -d ' ' -f 2); do
        folder=$(basename "$(dirname "$file")")
        is_left_out "$1" "$folder" "$(basename "$file" .py)" || echo "$file"
    done
}

# Prints what a command has to say when it is over, since several run at once; the summary reads the log.
logged() { # LOG COMMAND...
    log=$1
    shift
    "$@" >"$log" 2>&1
    status=$?
    cat "$log"
    return $status
}

e2e_file() { # PRESET FILE
    export BITFLOW="$PWD/build/$1/bitflow"
    logged "build/$1/e2e/$(basename "$2" .py).log" \
        fixed_addresses "$1" "$PYTHON" -m pytest -p no:cacheprovider -ra --durations=3 "$2"
}

# What tests were left out for, and how many, by the logs of pytest.
left_out() { # STAGE LOG...
    stage=$1
    shift
    sed -n 's/^SKIPPED \[\([0-9]*\)\] .*left out for want of: /\1 /p' "$@" 2>/dev/null |
        awk -v stage="$stage" '
            { count = $1; sub(/^[0-9]+ /, ""); tests[$0] += count }
            END { for (what in tests) printf "%-22s %5d tests  %s\n", stage, tests[what], what }' | sort
}

# The tests that failed, again: whoever sees only the end of a long log learns what to look for.
broken_tests() { # STAGE
    grep -hE '^(FAILED|ERROR) ' "build/$1.log" "build/$1/e2e"/*.log 2>/dev/null | sed "s/^[A-Z]*/$1:/"
    sed "s/^[0-9]*:/$1 unit: /" "build/$1/Testing/Temporary/LastTestsFailed.log" 2>/dev/null
}

# What takes the longest, so that whoever wants check.sh to be quicker knows where to begin.
slowest() { # STAGE
    for log in "build/$1/e2e"/*.log; do
        took=$(sed -n 's/^[=. ]*[0-9].* in \([0-9]*\)[.][0-9]*s.*/\1/p' "$log" 2>/dev/null | tail -n 1)
        [ -z "$took" ] || printf '%-22s %5s s  %s\n' "$1 e2e" "$took" "$(basename "$log" .log)"
    done | sort -k 3 -rn | head -n 12
}

# A file at a time, several at once: they wait more than they compute.
e2e() { # PRESET
    mkdir -p "build/$1/e2e"
    e2e_files "$1" | BITFLOW_TEST_PARTS="$E2E_PARTS" timeout "$E2E_LIMIT" \
        xargs -P "$E2E_PARTS" -n 1 --process-slot-var=BITFLOW_TEST_PART sh cmake/check.sh e2e-file "$1"
}

style() {
    mkdir -p build && logged build/style.log "$PYTHON" -m pytest -p no:cacheprovider -q -ra test/style
}

tidy() {
    cmake --preset clang -DBITFLOW_TESTS=ON >/dev/null &&
        find src -name '*.c' -print0 | xargs -0 -P "$JOBS" -n 3 "clang-tidy-$LLVM" -p build/clang --quiet
}

run_stage() {
    case $1 in
    style) has_tools style python3-pytest && timed style style ;;
    release | debug | asan | tsan)
        tests=ON
        has_tools "$1 unit" cmocka || tests=OFF
        timed "$1 build" build "$1" -DBITFLOW_TESTS=$tests || return
        [ $tests = OFF ] || timed "$1 unit" unit "$1"
        has_tools "$1 e2e" python3-pytest python3-yaml python3-jsonschema && timed "$1 e2e" e2e "$1"
        ;;
    clang)
        has_tools clang "clang-$LLVM" cmocka &&
            timed "clang build" build clang -DBITFLOW_TESTS=ON || return
        [ "${BITFLOW_NIGHTLY:-}" != 1 ] || timed "clang unit" unit clang
        ;;
    tidy) has_tools tidy "clang-$LLVM" "clang-tidy-$LLVM" cmocka && timed tidy tidy ;;
    fuzz)
        has_tools fuzz "clang-$LLVM" && timed "fuzz build" build fuzz -DBITFLOW_FUZZ_SECONDS=$FUZZ_SECONDS &&
            timed fuzz ctest --preset fuzz --parallel "$JOBS"
        ;;
    # With the warnings of the stages after it, so that what it compiles serves them, too.
    quickstart) timed quickstart env BITFLOW_WERROR=ON cmake/quickstart.sh ;;
    esac
}

if [ "${1:-}" = e2e-file ]; then # e2e() calls us for each
    e2e_file "$2" "$3"
    exit
fi

[ $# -gt 0 ] || set -- style release
packages=test
for stage in "$@"; do
    case $stage in
    style | release | debug | asan | tsan | quickstart) ;;
    clang | tidy | fuzz) packages=ci ;;
    *)
        sed -n '2,15s/^# \{0,1\}//p' "$0" >&2
        exit 2
        ;;
    esac
done

# Without the packages of the build there is nothing to test.
cmake/install-deps.sh $packages || { ! is_ci && cmake/install-deps.sh build; } || exit 1
for stage in "$@"; do
    rm -f "build/$stage.log" "build/$stage/e2e"/*.log "build/$stage/Testing/Temporary/LastTestsFailed.log"
    run_stage "$stage"
done

printf '\n==== summary\n%s' "$results"
slow=$(for stage in "$@"; do slowest "$stage"; done)
[ -z "$slow" ] || printf '\n==== the slowest files\n%s\n' "$slow"
broken=$(for stage in "$@"; do broken_tests "$stage"; done)
[ -z "$broken" ] || printf '\n==== failed tests\n%s\n' "$broken"
left=$(for stage in "$@"; do left_out "$stage" "build/$stage.log" "build/$stage/e2e"/*.log; done)
[ -z "$left" ] || printf '\n==== left out, for want of\n%s\n' "$left"
if [ $failed -gt 0 ]; then
    printf '%s: %d of the above failed\n' "$0" "$failed" >&2
    exit 1
fi
