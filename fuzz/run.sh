#!/usr/bin/env bash
# Runs every fuzz target, or those that are named, for a minute each, SECONDS_EACH (60) long:
#
#   fuzz/run.sh                                     # all of them
#   SECONDS_EACH=600 fuzz/run.sh opening connection
#
# Needs cargo-fuzz (`cargo install cargo-fuzz`). What it finds is kept in fuzz/artifacts; mend it and make it a seed. With
# a nightly compiler, `TOOLCHAIN=+nightly SANITIZER=address fuzz/run.sh` looks for faults of memory, too.
set -euo pipefail
cd "$(dirname "$0")"

# The versions that the programs are built with.
cp ../Cargo.lock Cargo.lock
export RUSTC_BOOTSTRAP=1
options=(--dev --sanitizer "${SANITIZER:-none}")
toolchain=${TOOLCHAIN:-}
[ $# -gt 0 ] || set -- $(sed -n 's/^name = "\(.*\)"$/\1/p' Cargo.toml | grep -v twinmesh-fuzz)
# shellcheck disable=SC2086
cargo $toolchain fuzz build "${options[@]}"

run() {
    local target=$1
    mkdir -p "corpus/$target"
    # shellcheck disable=SC2086
    cargo $toolchain fuzz run "${options[@]}" "$target" "corpus/$target" "seeds/$target" -- \
        -max_total_time="${SECONDS_EACH:-60}" -timeout=20 -rss_limit_mb=4096 -max_len=65536 -print_final_stats=1 \
        >"corpus/$target.log" 2>&1
}
failed=
for target in "$@"; do
    if run "$target"; then
        printf '%-12s %s\n' "$target" "$(sed -n 's/^stat::number_of_executed_units: *//p' "corpus/$target.log") inputs"
    else
        failed=yes
        printf '%-12s FAILED, see fuzz/corpus/%s.log\n' "$target" "$target"
    fi
done
[ -z "$failed" ]
