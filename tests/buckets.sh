#!/usr/bin/env bash
# Runs the tests of large payloads on the three kinds of buckets, played by emulators on this machine:
#
#   tests/buckets.sh              # S3 (moto), Azure (azurite) and Google (gcp-storage-emulator)
#   tests/buckets.sh s3 gcs       # some of them
#
# Needs Python 3.10 or newer; for Azure, Node 20 or newer with npm. The first time it installs what the emulators need
# into target/buckets, from the package indexes that pip and npm know. Root installs Debian's `python3-venv` and `npm` if
# they are missing.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'buckets.sh: %s\n' "$*" >&2; }

. tests/need.sh

here=$PWD/tests/buckets
home=$(mkdir -p "${CARGO_TARGET_DIR:-target}/buckets" && cd "${CARGO_TARGET_DIR:-target}/buckets" && pwd)
python=$home/venv/bin/python
azurite=3.35.0

need python3-venv python3 -c 'import ensurepip, venv'
if ! cmp -s "$here/requirements.txt" "$home/venv/installed.txt"; then
    say "making the virtual environment $home/venv"
    python3 -m venv --clear "$home/venv"
    # Everything is named and pinned, so nothing else is looked for.
    "$python" -m pip install --quiet --disable-pip-version-check --no-deps -r "$here/requirements.txt"
    cp "$here/requirements.txt" "$home/venv/installed.txt"
fi

dir=$(mktemp -d)
emulator=
stop() {
    if [ -n "$emulator" ]; then
        kill "$emulator" 2>/dev/null || true
        wait "$emulator" 2>/dev/null || true
        emulator=
    fi
}
clean_up() {
    stop
    rm -rf "$dir"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# start COMMAND...: an emulator at $port, of which somebody hears within half a minute.
start() {
    "$@" >"$dir/log" 2>&1 &
    emulator=$!
    for _ in $(seq 300); do
        if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then return; fi
        kill -0 "$emulator" 2>/dev/null || break
        sleep 0.1
    done
    say "it does not start: $*"
    cat "$dir/log" >&2
    exit 1
}

try() {
    local kind=$1
    port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    local place=http://127.0.0.1:$port
    case $kind in
    s3)
        start "$home/venv/bin/moto_server" -H 127.0.0.1 -p "$port"
        "$python" -c 'import sys, urllib.request as r; r.urlopen(r.Request(sys.argv[1], method="PUT"))' "$place/payloads"
        export TWINMESH_TEST_BUCKET=s3://payloads
        printf whispered >"$dir/secret"
        export TWINMESH_TEST_BUCKET_OPTIONS="endpoint=$place allow_http=true region=us-east-1 access_key_id=somebody secret_access_key_file=$dir/secret"
        ;;
    azure)
        need npm npm --version
        if [ ! -x "$home/azurite-$azurite/node_modules/.bin/azurite-blob" ]; then
            say "installing azurite $azurite into $home/azurite-$azurite"
            npm install --prefix "$home/azurite-$azurite" --no-audit --no-fund --silent "azurite@$azurite" >&2
        fi
        start "$home/azurite-$azurite/node_modules/.bin/azurite-blob" --silent --inMemoryPersistence --disableTelemetry \
            --skipApiVersionCheck --blobHost 127.0.0.1 --blobPort "$port"
        "$python" "$here/azure.py" "$place/devstoreaccount1" payloads >"$dir/secret"
        export TWINMESH_TEST_BUCKET=az://payloads
        export TWINMESH_TEST_BUCKET_OPTIONS="endpoint=$place/devstoreaccount1 allow_http=true account_name=devstoreaccount1 account_key_file=$dir/secret"
        ;;
    gcs)
        start "$python" "$here/gcs.py" "$port" payloads
        # Without a token, as Google's own clients ask an emulator.
        echo '{"private_key": "", "private_key_id": "", "client_email": "", "disable_oauth": true}' >"$dir/account"
        export TWINMESH_TEST_BUCKET=gs://payloads
        export TWINMESH_TEST_BUCKET_OPTIONS="base_url=$place allow_http=true service_account=$dir/account"
        ;;
    *)
        say "there are s3, azure and gcs, not \`$kind\`"
        exit 2
        ;;
    esac
    say "testing on $kind"
    cargo test --quiet --locked -p twinmesh-coordinator --test api -- ledger::object || { tail -n 40 "$dir/log" >&2; exit 1; }
    stop
}

[ $# -gt 0 ] || set -- s3 azure gcs
for kind in "$@"; do
    try "$kind"
done
say "payloads are kept in $*"
