#!/usr/bin/env bash
# Makes the coordinator's image by its recipe and tries it: it becomes healthy without root, rights and network, ends
# when it is told to, and goes on with what its volume holds:
#
#   tests/container.sh
#
# Needs root on Debian. Nothing is pulled: the base is made by debootstrap, of the release of this machine, for which the
# program is built (or taken from TWINMESH_BINARIES). Debian's `docker.io` and `debootstrap` are installed if they are
# missing; a daemon of its own is started, apart from any other, and ended again.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'container.sh: %s\n' "$*" >&2; }

. tests/need.sh

[ "$(id -u)" -eq 0 ] || { say "run it as root: it makes a base image and starts a container engine"; exit 1; }
need docker.io test -x /usr/sbin/dockerd -a -x /usr/bin/docker
need debootstrap command -v debootstrap

if [ -z "${TWINMESH_BINARIES:-}" ]; then
    cargo build --quiet --locked -p twinmesh-coordinator
    TWINMESH_BINARIES=${CARGO_TARGET_DIR:-target}/debug
fi
program=$(realpath "$TWINMESH_BINARIES")/twinmesh-coordinator

# A socket's path must be short.
dir=$(mktemp -d /tmp/twinmesh-container.XXXXXX)
export DOCKER_HOST=unix://$dir/socket DOCKER_BUILDKIT=1 BUILDKIT_PROGRESS=plain
daemon=
clean_up() {
    if [ -n "$daemon" ]; then
        /usr/bin/docker ps -q 2>/dev/null | xargs -r /usr/bin/docker kill >/dev/null 2>&1 || true
        kill "$daemon" 2>/dev/null || true
        wait "$daemon" 2>/dev/null || true
    fi
    # What the engine had mounted, should it have been killed.
    awk -v dir="$dir/" 'index($2, dir) == 1 { print $2 }' /proc/mounts | sort -r | xargs -r umount -l || true
    rm -rf "$dir"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# The base is kept: it takes longest.
. /etc/os-release
base=$(realpath -m "${CARGO_TARGET_DIR:-target}/container/$VERSION_CODENAME.tar")
if [ ! -s "$base" ]; then
    say "making a base of Debian $VERSION_CODENAME"
    debootstrap --variant=minbase --include=ca-certificates "$VERSION_CODENAME" "$dir/base" >"$dir/log" 2>&1 ||
        { cat "$dir/log" >&2; exit 1; }
    rm -rf "$dir/base/var/cache/apt/archives" "$dir/base/var/lib/apt/lists"
    mkdir -p "$(dirname "$base")"
    tar -C "$dir/base" -cf "$base.new" . && mv "$base.new" "$base"
    rm -rf "$dir/base"
fi

# No bridge and no rules for packets: nothing of this machine's network is touched, and no container has one.
dockerd --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/pid" --host "$DOCKER_HOST" \
    --bridge=none --iptables=false --ip6tables=false >"$dir/engine.log" 2>&1 &
daemon=$!
# until_true SECONDS COMMAND...
until_true() {
    local left=$(($1 * 10))
    shift
    until "$@" >/dev/null 2>&1; do
        left=$((left - 1))
        if [ "$left" -le 0 ]; then return 1; fi
        sleep 0.1
    done
}
docker() { /usr/bin/docker "$@"; }
until_true 30 docker info || { say "the container engine does not start:"; tail -n 20 "$dir/engine.log" >&2; exit 1; }

docker import - twinmesh-base <"$base" >/dev/null
install -D -m 755 "$program" "$dir/given/out/usr/bin/twinmesh-coordinator"
install -d -m 700 -o 65532 -g 65532 "$dir/given/out/var/lib/twinmesh-coordinator"
tar -C "$dir/given" -c . | docker import - twinmesh-program >/dev/null
say "building the image"
docker build --network=none --file packaging/container/Containerfile --tag twinmesh-coordinator \
    --build-arg BASE=twinmesh-base --build-arg PROGRAM=twinmesh-program packaging/container >"$dir/log" 2>&1 ||
    { cat "$dir/log" >&2; exit 1; }

failed() {
    say "$1"
    docker logs coordinator >&2 || true
    exit 1
}
is_healthy() { [ "$(docker inspect --format '{{.State.Health.Status}}' coordinator)" = healthy ]; }
start() {
    docker run --detach --name coordinator --read-only --cap-drop=all --security-opt=no-new-privileges \
        --network=none --volume twinmesh:/var/lib/twinmesh-coordinator twinmesh-coordinator >/dev/null
    until_true 60 is_healthy || failed "it does not become healthy"
    docker exec coordinator /usr/bin/twinmesh-coordinator health >/dev/null || failed "it does not say that it is well"
}
stop() {
    docker stop --time 20 coordinator >/dev/null
    code=$(docker inspect --format '{{.State.ExitCode}}' coordinator)
    [ "$code" = 0 ] || failed "it ends with $code when it is told to stop"
    docker logs coordinator >"$dir/said" 2>&1
    grep -q '"message":"the coordinator stops"' "$dir/said" || failed "it does not say that it stops"
    ! grep -q '"level":"ERROR"' "$dir/said" || failed "its log holds errors"
    docker rm coordinator >/dev/null
}

say "starting it"
start
[ "$(docker exec coordinator id -u)" = 65532 ] || failed "it runs as another user"
grants=$(docker exec coordinator cat /proc/1/status | awk '/^Cap(Eff|Bnd)|^NoNewPrivs/ { print $2 }' | tr '\n' ' ')
[ "$grants" = "0000000000000000 0000000000000000 1 " ] || failed "it has rights: $grants"
! docker exec coordinator touch /usr/bin/x 2>/dev/null || failed "its root can be written to"
docker exec coordinator /usr/bin/twinmesh-coordinator doctor >"$dir/doctor" 2>&1 || { cat "$dir/doctor" >&2; failed "doctor finds fault"; }
first=$(docker exec coordinator cat /var/lib/twinmesh-coordinator/root-password)
stop
say "starting it again on what it kept"
start
[ "$(docker exec coordinator cat /var/lib/twinmesh-coordinator/root-password)" = "$first" ] || failed "it began anew"
stop
say "the image is $(docker image inspect --format '{{.Size}}' twinmesh-coordinator | awk '{ printf "%d MiB", $1 / 1048576 }'), healthy, and ends when told"
