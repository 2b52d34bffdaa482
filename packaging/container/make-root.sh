#!/bin/sh
# Puts the root file system of bitflow's image together, of what this Debian has installed: the program, the libraries
# that it loads, the certificates of public authorities, and nothing else. There is no shell in it and no package
# manager; which packages its files are of is told in var/lib/dpkg/status.d, where scanners of images look.
#
#   make-root.sh BUILD-DIRECTORY ROOT
set -eu

[ $# -eq 2 ] || {
    sed -n '2,6s/^# \{0,1\}//p' "$0" >&2
    exit 2
}
build=$1
root=$2
here=$(cd "$(dirname "$0")" && pwd)
program=$build/bitflow
id=10000
taken=

# The packages that own these files, by the names that they have there: below /usr/lib, or below /lib. One question, as
# each reads the whole database.
owners_of() { # FILE...
    places=$(for file in "$@"; do printf '%s\n' "${file#/usr}" "/usr${file#/usr}"; done)
    # It fails where it does not know one of two names.
    # shellcheck disable=SC2086
    owned=$(dpkg-query -S $places 2>/dev/null | sed 's|: /usr/|: /|' || true)
    for file in "$@"; do
        echo "$owned" | grep -q ": ${file#/usr}\$" || {
            echo "make-root: $file belongs to no package" >&2
            return 1
        }
    done
    echo "$owned" | sed 's/:.*//' | sort -u
}

# A file, with the link by which it is asked for.
take() { # FILE
    real=$(readlink -f "$1")
    install -D -m 0755 "$real" "$root$real"
    directory=$(readlink -f "$(dirname "$1")")
    name=${1##*/}
    if [ "$directory/$name" != "$real" ]; then
        mkdir -p "$root$directory"
        ln -s -r -f "$root$real" "$root$directory/$name"
    fi
    taken="$taken $real"
}

rm -rf "$root"
# As Debian's: /lib is a link.
mkdir -p "$root/etc/bitflow" "$root/etc/ssl/certs" "$root/run" "$root/usr/lib" "$root/usr/lib64" \
    "$root/usr/lib/ssl" "$root/var/lib/dpkg/status.d"
ln -s usr/lib "$root/lib"
ln -s usr/lib64 "$root/lib64"
install -d -m 1777 "$root/tmp"

install -D -m 0755 "$program" "$root/usr/local/bin/bitflow"
libraries=$(ldd "$program" | awk '$2 == "=>" && $3 ~ /^\// { print $3 } $1 ~ /^\// { print $1 }')
c_library=$(echo "$libraries" | grep '/libc[.]so')
# The C library loads the unwinder for the trace of a crash.
for library in $libraries "${c_library%/*}/libgcc_s.so.1"; do
    take "$library"
done

install -m 0644 /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/"
install -m 0644 /etc/ssl/openssl.cnf "$root/etc/ssl/"
ln -s /etc/ssl/openssl.cnf "$root/usr/lib/ssl/openssl.cnf"
ln -s /etc/ssl/certs/ca-certificates.crt "$root/usr/lib/ssl/cert.pem"
# shellcheck disable=SC2086
packages="$(owners_of $taken) ca-certificates openssl"

# By number, or Kubernetes cannot tell that it is not root (runAsNonRoot); with a group, or that is root's.
printf 'root:x:0:0:root:/:/nologin\nbitflow:x:%s:%s::/nonexistent:/nologin\n' $id $id >"$root/etc/passwd"
printf 'root:x:0:\nbitflow:x:%s:\n' $id >"$root/etc/group"
printf 'passwd: files\ngroup: files\nhosts: files dns\n' >"$root/etc/nsswitch.conf"
cp /etc/os-release "$root/etc/os-release"
install -m 0644 "$here/config.yaml" "$root/etc/bitflow/config.yaml"
install -D -m 0644 "$build/packaging/bitflow.spdx.json" "$root/usr/local/share/doc/bitflow/bitflow.spdx.json"

# shellcheck disable=SC2086
dpkg-query -s $packages | awk -v directory="$root/var/lib/dpkg/status.d" -v RS= '{ print >(directory "/" $2) }'
for package in $packages; do
    install -D -m 0644 "/usr/share/doc/$package/copyright" "$root/usr/share/doc/$package/copyright"
done
chmod 0644 "$root"/etc/passwd "$root"/etc/group "$root"/etc/nsswitch.conf "$root"/etc/os-release \
    "$root"/var/lib/dpkg/status.d/*
