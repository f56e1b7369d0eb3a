#!/usr/bin/env bash
# Tries the systemd units in a machine of their own (systemd-nspawn, without network): they verify; the coordinator's
# starts when the coordinator says that it is ready, is started again when it is killed or hangs, reads its certificate
# anew, and stops without complaint; so does a node's:
#
#   tests/systemd.sh
#
# Needs root on Debian, whose `debootstrap` and `systemd-container` are installed if they are missing. The programs are
# built, or taken from TWINMESH_BINARIES.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'systemd.sh: %s\n' "$*" >&2; }

. tests/need.sh

[ "$(id -u)" -eq 0 ] || { say "run it as root: it starts a machine"; exit 1; }
need debootstrap command -v debootstrap
need systemd-container command -v systemd-nspawn

if [ -z "${TWINMESH_BINARIES:-}" ]; then
    cargo build --quiet --locked -p twinmesh-coordinator -p twinmesh-node
    TWINMESH_BINARIES=${CARGO_TARGET_DIR:-target}/debug
fi

dir=$(mktemp -d /tmp/twinmesh-systemd.XXXXXX)
machine=
clean_up() {
    if [ -n "$machine" ]; then
        kill -KILL "$machine" 2>/dev/null || true
        wait "$machine" 2>/dev/null || true
    fi
    rm -rf "$dir"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# The base is kept: it takes longest.
. /etc/os-release
base=$(realpath -m "${CARGO_TARGET_DIR:-target}/container/$VERSION_CODENAME-systemd.tar")
root=$dir/root
mkdir -p "$root" "$(dirname "$base")"
if [ ! -s "$base" ]; then
    say "making a base of Debian $VERSION_CODENAME"
    debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,procps "$VERSION_CODENAME" "$root" \
        >"$dir/log" 2>&1 || { cat "$dir/log" >&2; exit 1; }
    rm -rf "$root/var/cache/apt/archives" "$root/var/lib/apt/lists"
    tar -C "$root" -cf "$base.new" . && mv "$base.new" "$base"
else
    tar -C "$root" -xf "$base"
fi

for name in coordinator node; do
    install -m 755 "$TWINMESH_BINARIES/twinmesh-$name" "$root/usr/bin/"
    install -m 644 "packaging/systemd/twinmesh-$name.service" "$root/etc/systemd/system/"
done
mkdir -p "$root/etc/twinmesh" "$root/usr/share/doc/twinmesh"
cp docs/operations.md "$root/usr/share/doc/twinmesh/"
cp docs/coordinator.toml "$root/etc/twinmesh/coordinator.toml"
install -m 755 tests/systemd/check.sh "$root/check.sh"
cat >"$root/etc/systemd/system/check.service" <<'UNIT'
[Unit]
After=multi-user.target
[Service]
Type=idle
ExecStart=/check.sh
StandardOutput=file:/result
StandardError=file:/result
ExecStopPost=/bin/systemctl poweroff --no-block
TimeoutStartSec=120
RuntimeMaxSec=120
UNIT
mkdir -p "$root/etc/systemd/system/graphical.target.wants"
ln -s ../check.service "$root/etc/systemd/system/graphical.target.wants/"

say "verifying the units"
systemd-analyze verify --root="$root" twinmesh-coordinator.service twinmesh-node.service
systemd-analyze security --offline=true --threshold=20 --root="$root" twinmesh-coordinator.service >"$dir/security" ||
    { cat "$dir/security" >&2; exit 1; }
tail -n 1 "$dir/security" >&2

say "starting the machine"
mkdir -p /run/systemd
systemd-nspawn --quiet --register=no --keep-unit --private-network --machine=twinmesh --directory="$root" --boot \
    --console=pipe </dev/null >"$dir/console" 2>&1 &
machine=$!
wait "$machine" || true
machine=
cat "$root/result" >&2 || { cat "$dir/console" >&2; exit 1; }
tail -n 1 "$root/result" | grep -qx 'all is well' || exit 1
