#!/usr/bin/env bash
# Asks a coordinator of its own for everything that its OpenAPI document describes, well and badly, as the root user, a
# researcher and a node; fails on a server error, or on an answer that the document does not describe:
#
#   tests/schemathesis.sh                     # on SQLite
#   tests/postgres.sh tests/schemathesis.sh   # on PostgreSQL
#
# Needs Python 3.10 or newer and, the first time, the package index that pip knows. Each caller asks for SECONDS_EACH (25):
# first everything that is on the edge of being valid, about 10 seconds, then whatever comes to mind.
set -euo pipefail
cd "$(dirname "$0")/.."
top=$PWD

say() { printf 'schemathesis.sh: %s\n' "$*" >&2; }

here=$top/tests/schemathesis
venv=$top/target/schemathesis/venv
if ! cmp -s "$here/requirements.txt" "$venv/installed.txt"; then
    say "installing schemathesis into $venv"
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
    cp "$here/requirements.txt" "$venv/installed.txt"
fi
cargo build --quiet --locked -p twinmesh-coordinator

dir=$(mktemp -d)
coordinator=
clean_up() {
    if [ -n "$coordinator" ]; then
        kill "$coordinator" 2>/dev/null || true
        wait "$coordinator" 2>/dev/null || true
    fi
    rm -rf "$dir"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

password=$(od -An -N12 -tx1 /dev/urandom | tr -d ' \n')Aa-1
export TWINMESH_ROOT_PASSWORD=$password
# Questions that are held are answered at once here.
export COORDINATOR__LIMITS__STATUS_HOLD=50ms
[ -z "${TWINMESH_TEST_POSTGRES:-}" ] || export COORDINATOR__DATABASE__URL=$TWINMESH_TEST_POSTGRES
"${CARGO_TARGET_DIR:-target}/debug/twinmesh-coordinator" start --data-dir "$dir/data" --listen 127.0.0.1:0 2>"$dir/log" &
coordinator=$!
for _ in $(seq 300); do
    [ ! -e "$dir/data/coordinator.json" ] || break
    if ! kill -0 "$coordinator" 2>/dev/null; then
        say "the coordinator does not start:"
        cat "$dir/log" >&2
        exit 1
    fi
    sleep 0.1
done
url=$("$venv/bin/python" -c 'import json, sys; print(json.load(open(sys.argv[1]))["url"])' "$dir/data/coordinator.json")
mapfile -t tokens < <("$venv/bin/python" "$here/seed.py" "$url" "$password")
[ "${#tokens[@]}" -eq 3 ] || { say "the coordinator could not be filled"; cat "$dir/log" >&2; exit 1; }

failed=
ask() {
    local who=$1 token=$2
    shift 2
    say "asking as $who"
    # It leaves files where it stands.
    (cd "$dir" && SCHEMATHESIS_HOOKS=hooks PYTHONPATH=$here "$venv/bin/python" "$venv/bin/st" --config-file "$here/schemathesis.toml" run "$url/openapi.json" \
        --header "Authorization: Bearer $token" --phases examples,coverage,fuzzing --max-time "${SECONDS_EACH:-25}" \
        --warnings off --no-color "$@") >"$dir/report" 2>&1 || {
        failed=yes
        cat "$dir/report" >&2
    }
    grep -A1 '^Test cases' "$dir/report" | tail -n 1 >&2 || true
}
# A stream of events has no end; that there is no VPN is a 501 by the contract. Users are deleted last, or there would be
# nobody left to ask.
others=(--exclude-operation-id event_follow --exclude-operation-id port_vpn --exclude-operation-id user_remove)
ask "a researcher" "${tokens[1]}" "${others[@]}"
ask "a node" "${tokens[2]}" "${others[@]}"
ask "the root user" "${tokens[0]}" "${others[@]}"
SECONDS_EACH=5 ask "the root user, deleting users" "${tokens[0]}" --include-operation-id user_remove

if grep -E ' (ERROR|panicked)' "$dir/log" >&2; then
    say "the coordinator's log holds errors"
    failed=yes
fi
[ -z "$failed" ] || exit 1
say "no server error, and no answer that is not described"
