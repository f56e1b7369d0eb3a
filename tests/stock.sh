#!/usr/bin/env bash
# Runs the stories of administrators and researchers with the unmodified vantage6-client of PyPI against our programs:
#
#   tests/stock.sh                            # SQLite
#   tests/postgres.sh tests/stock.sh          # PostgreSQL: each coordinator with a database of its own
#   tests/stock.sh -k restart                 # arguments go to pytest
#
# It keeps a Python virtual environment in target/stock, and builds the programs, unless TWINMESH_BINARIES names a
# directory that has them. Root installs Debian's `python3-venv` and `faketime` if they are missing. It needs loopback,
# and a package index for the first start.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'stock.sh: %s\n' "$*" >&2; }

. tests/need.sh

has_faketime() { compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1'; }

need python3-venv python3 -c 'import ensurepip, venv'
need faketime has_faketime
[ -z "${TWINMESH_TEST_POSTGRES:-}" ] || need postgresql-client psql --version

home=${CARGO_TARGET_DIR:-target}/stock
python=$home/venv/bin/python
if ! cmp -s tests/stock/requirements.txt "$home/requirements.txt"; then
    say "making the virtual environment $home/venv"
    rm -rf "$home"
    mkdir -p "$home"
    python3 -m venv "$home/venv"
    # Everything is named and pinned, so nothing else is looked for.
    "$python" -m pip install --quiet --disable-pip-version-check --no-deps -r tests/stock/requirements.txt
    cp tests/stock/requirements.txt "$home/requirements.txt"
fi

if [ -z "${TWINMESH_BINARIES:-}" ]; then
    say "building the programs"
    # All of them: a part would be built with other features, and so anew.
    cargo build --workspace --bins --locked
    TWINMESH_BINARIES=${CARGO_TARGET_DIR:-target}/debug
fi
TWINMESH_BINARIES=$(realpath "$TWINMESH_BINARIES")
export TWINMESH_BINARIES PYTHONDONTWRITEBYTECODE=1

version=$("$python" -c 'from importlib.metadata import version; print(version("vantage6-client"))')
engine=SQLite
[ -z "${TWINMESH_TEST_POSTGRES:-}" ] || engine=PostgreSQL
say "vantage6-client $version, $engine"
# A story that hangs is interrupted, so that it ends what it has started; each says how long it waits for what.
exec timeout --signal=INT --kill-after=60 900 "$python" -m pytest tests/stock -p no:cacheprovider --quiet "$@"
