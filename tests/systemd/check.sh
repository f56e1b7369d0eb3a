#!/bin/bash
# What tests/systemd.sh asks within the machine. Its last word is `all is well`, or what is not.
set -uo pipefail

unit=twinmesh-coordinator.service
fail() {
    journalctl --no-pager --lines=40 --unit='twinmesh-*'
    systemctl --no-pager status $unit
    echo "failed: $1"
    exit 1
}
value() { systemctl show --property="$1" --value $unit; }
# until_true COMMAND...: within half a minute.
until_true() {
    local left=300
    until "$@"; do
        left=$((left - 1))
        [ "$left" -gt 0 ] || return 1
        sleep 0.1
    done
}
ask() { /usr/bin/twinmesh-coordinator health --config /etc/twinmesh/coordinator.toml 2>/dev/null; }
# A service with a user of its own keeps its files here.
export COORDINATOR__DATA_DIR=/var/lib/private/twinmesh-coordinator

# `start` comes back when it is said to be ready, so it answers at once.
systemctl start $unit || fail "it does not start"
[ "$(value ActiveState)" = active ] || fail "it is $(value ActiveState)"
ask || fail "it is said to be ready and does not answer"
[ "$(value WatchdogUSec)" = 1min ] || fail "it is not watched: $(value WatchdogUSec)"
[ "$(stat -c %a /var/lib/private/twinmesh-coordinator)" = 700 ] || fail "others may look into its directory"
echo "started, and answers"

first=$(value MainPID)
systemctl reload $unit || fail "it does not reload"
[ "$(value MainPID)" = "$first" ] && ask || fail "it is another after a reload"
echo "reloaded"

started_again() { [ "$(value ActiveState)" = active ] && [ "$(value MainPID)" != "$first" ] && [ "$(value MainPID)" != 0 ]; }
kill -KILL "$first"
until_true started_again || fail "it is not started again after it was killed"
until_true ask || fail "it does not answer after it was killed"
[ "$(value NRestarts)" = 1 ] || fail "it was started $(value NRestarts) times"
echo "killed, and started again"

# One that hangs is found by its watchdog.
first=$(value MainPID)
mkdir -p /run/systemd/system/$unit.d
printf '[Service]\nWatchdogSec=2s\n' >/run/systemd/system/$unit.d/soon.conf
systemctl daemon-reload && systemctl restart $unit || fail "it does not restart"
first=$(value MainPID)
kill -STOP "$first"
until_true started_again || fail "one that hangs is not started again"
until_true ask || fail "it does not answer after it hung"
echo "hung, and started again"

# A node beside it, of an organization that the coordinator knows.
key=00000000-0000-4000-8000-000000000001
cat >/federation.yaml <<YAML
organizations:
  - name: hospital
collaborations:
  - name: registry
    encrypted: false
    participants:
      - {name: hospital, api_key: $key}
YAML
systemctl stop $unit || fail "it does not stop for an import"
/usr/bin/twinmesh-coordinator import /federation.yaml || fail "nothing can be imported"
systemctl start $unit || fail "it does not start after an import"
cat >/etc/twinmesh/node.toml <<TOML
coordinator_url = "http://127.0.0.1:7601"
api_key = "$key"
state_directory = "/var/lib/twinmesh-node"
[encryption]
enabled = false
[runtime]
minimum = "lite"
TOML
useradd --system --user-group --home-dir /var/lib/twinmesh-node twinmesh-node
chown root:twinmesh-node /etc/twinmesh/node.toml && chmod 640 /etc/twinmesh/node.toml
coordinator=$unit unit=twinmesh-node.service
systemctl start $unit || fail "the node does not start"
[ "$(value ActiveState)" = active ] || fail "the node is $(value ActiveState)"
[ "$(stat -c '%U %a' /var/lib/twinmesh-node)" = "twinmesh-node 700" ] || fail "others may look into the node's directory"
first=$(value MainPID)
kill -KILL "$first"
until_true started_again || fail "the node is not started again after it was killed"
systemctl stop $unit || fail "the node does not stop"
[ "$(value Result)" = success ] || fail "the node stops with $(value Result)"
echo "a node started, was killed, was started again and stopped"
unit=$coordinator

systemctl stop $unit || fail "it does not stop"
[ "$(value Result)" = success ] && [ "$(value ExecMainStatus)" = 0 ] || fail "it stops with $(value Result)"
journalctl --no-pager --unit=$unit | grep -q 'the coordinator stops' || fail "it does not say that it stops"
! ask || fail "it answers after it was stopped"
echo "stopped"
echo "all is well"
