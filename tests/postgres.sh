#!/usr/bin/env bash
# Runs a command beside a PostgreSQL server of its own, and removes the server again:
#
#   tests/postgres.sh cargo test -p twinmesh-coordinator
#
# The command finds the server's URL in TWINMESH_TEST_POSTGRES. Root installs Debian's `postgresql` if it is missing,
# and runs the server as the user `postgres`; everybody else runs it as themselves.
set -euo pipefail

if [ $# -eq 0 ]; then
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi

say() { printf 'postgres.sh: %s\n' "$*" >&2; }

# Where Debian keeps what only the server's owner needs, newest release last; elsewhere it is on the path.
binaries() {
    local found
    found=$(find /usr/lib/postgresql -maxdepth 3 -path '*/bin/initdb' 2>/dev/null | sort -V | tail -n 1)
    [ -n "$found" ] || found=$(command -v initdb) || return 1
    dirname "$found"
}

if ! bin=$(binaries); then
    if [ "$(id -u)" -ne 0 ]; then
        say "there is no PostgreSQL server: install Debian's package \`postgresql\`"
        exit 1
    fi
    say "installing Debian's package postgresql"
    # Not the server that the package would start by itself.
    mkdir -p /etc/postgresql-common
    [ -e /etc/postgresql-common/createcluster.conf ] ||
        echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
    DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq postgresql >&2
    bin=$(binaries)
fi

# A socket's path must be short, and the server's user must get there: not TMPDIR.
dir=$(mktemp -d /tmp/twinmesh-pg.XXXXXX)
as_owner() { (cd "$dir" && "$@"); }
if [ "$(id -u)" -eq 0 ]; then
    chown postgres: "$dir"
    as_owner() { (cd "$dir" && setpriv --reuid=postgres --regid=postgres --init-groups -- "$@"); }
fi

running=
clean_up() {
    [ -z "$running" ] || as_owner "$bin/pg_ctl" -D "$dir/data" -m immediate -w stop >/dev/null 2>&1 || true
    rm -rf "$dir"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# The server can be reached by everybody on this machine, so it asks for a password.
password=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
as_owner sh -c 'umask 077; printf %s "$1" > password; mkdir socket' sh "$password"
as_owner "$bin/initdb" -D "$dir/data" --username=twinmesh --pwfile="$dir/password" --auth=scram-sha-256 \
    --encoding=UTF8 --locale=C.UTF-8 >"$dir/initdb.log" 2>&1 || { cat "$dir/initdb.log" >&2; exit 1; }
as_owner sh -c 'cat >> data/postgresql.conf' <<CONF
listen_addresses = '127.0.0.1'
unix_socket_directories = '$dir/socket'
max_connections = 400
fsync = on
CONF
for _ in 1 2 3 4 5 6 7 8 9 10; do
    port=$((20000 + RANDOM % 12000))
    if as_owner "$bin/pg_ctl" -D "$dir/data" -l "$dir/log" -o "-p $port" -w -t 60 start >/dev/null 2>&1; then
        running=yes
        break
    fi
done
if [ -z "$running" ]; then
    say "the server does not start:"
    as_owner cat "$dir/log" >&2 || true
    exit 1
fi

export TWINMESH_TEST_POSTGRES="postgres://twinmesh:$password@127.0.0.1:$port/postgres"
status=0
"$@" || status=$?
exit "$status"
