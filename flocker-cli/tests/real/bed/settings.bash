# shellcheck shell=bash
# What all programs of the bed share. Sourced, never run. Any setting is overridden by the environment.
set -euo pipefail

BED=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# Everything that the bed writes. On ext4 or xfs: Docker's layers cannot lie on an overlay.
: "${FLOCKER_BED_HOME:=/var/tmp/flocker-bed}"
# The prefix of network namespaces, links, cgroups: at most six letters. Two beds at a time need two names and two nets.
: "${FLOCKER_BED_NAME:=fbed}"
: "${FLOCKER_BED_NET4:=10.218.7}"      # /24: the machine itself is .1, node N is .(10+N)
: "${FLOCKER_BED_NET6:=fd00:218:7}"    # /64: the machine itself is ::1, node N is ::(10+N)
: "${FLOCKER_BED_POOL:=flocker}"       # the pool in each node,
: "${FLOCKER_BED_POOL_MB:=2048}"       # and how large the sparse file behind it is
: "${FLOCKER_BED_DISKS:=}"             # another directory for the disks of the nodes than the one where all of theirs is
: "${FLOCKER_BED_IPTABLES:=nft}"       # nft or legacy: which iptables the nodes use
: "${FLOCKER_BED_SUITE:=bookworm}"     # the Debian of the nodes
: "${FLOCKER_BED_BIND:=}"              # "FROM:TO ...": directories of this machine that nodes see, read-only
# Where packages come from: this machine's own configuration, unless another file is named.
if [ -z "${FLOCKER_BED_SOURCES:-}" ]; then
  FLOCKER_BED_SOURCES=/etc/apt/sources.list
  [ ! -e /etc/apt/sources.list.d/debian.sources ] || FLOCKER_BED_SOURCES=/etc/apt/sources.list.d/debian.sources
fi
export FLOCKER_BED_BIND

image=$FLOCKER_BED_HOME/image            # rootfs/, node.tar, id_ed25519, apps/*.tar
bare=$FLOCKER_BED_HOME/bare              # rootfs/ of nodes on which nothing is installed, see build-bare
run=$FLOCKER_BED_HOME/run-$FLOCKER_BED_NAME
switch=$FLOCKER_BED_NAME-switch
cgroups=/sys/fs/cgroup

say() { printf '%s  %s\n' "$(date +%T.%3N)" "$*" >&2; }
die() { say "error: $*"; exit 1; }

address()  { echo "$FLOCKER_BED_NET4.$((10 + $1))"; }
address6() { echo "$FLOCKER_BED_NET6::$((10 + $1))"; }
hardware_address() { printf '02:00:00:00:00:%02x' "$((10 + $1))"; }
node_home() { echo "$run/node$1"; }
# The id of a node's first process, as this machine sees it.
first_process() { cat "$(node_home "$1")/pid"; }
# The namespace is compared too: the id may have been given to somebody else since.
is_up() {
  [ -s "$(node_home "$1")/pid" ] &&
    [ "$(ip netns identify "$(first_process "$1")" 2>/dev/null)" = "$FLOCKER_BED_NAME-node$1" ]
}
nodes() {
  local home
  for home in "$run"/node*/; do
    [ -d "$home" ] || continue
    home=${home%/}
    echo "${home##*/node}"
  done | sort -n
}

# The roots of all cgroup hierarchies of this machine: several of the older kind, or the one of the newer.
hierarchies() {
  local hierarchy
  if [ ! -d "$cgroups/systemd" ]; then
    echo "$cgroups/"
    return
  fi
  for hierarchy in "$cgroups"/*/; do
    if [ -e "$hierarchy/cgroup.procs" ]; then echo "$hierarchy"; fi
  done
}

# The node may have been started bare, see build-bare.
is_bare() { [ -e "$(node_home "$1")/bare" ]; }
# The node may be a virtual machine, see ../vm; then there is no way into it but its network.
is_machine() { [ -d "$run/machine$1" ]; }
machines() {
  local home
  for home in "$run"/machine*/; do
    [ -d "$home" ] || continue
    home=${home%/}
    echo "${home##*/machine}"
  done | sort -n
}

# in_node N PROGRAM [ARGUMENT...]: runs it in all namespaces of the node, as root.
in_node() {
  local n=$1
  shift
  if is_machine "$n"; then
    ssh "${ssh_options[@]}" -o ConnectTimeout=60 "root@$(address "$n")" \
      "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin $(printf '%q ' "$@")"
    return
  fi
  nsenter --target "$(first_process "$n")" --all --root --wd -- \
    /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/root TERM="${TERM:-dumb}" LANG=C.UTF-8 "$@"
}

ssh_options=(-i "$image/id_ed25519" -o BatchMode=yes -o IdentitiesOnly=yes -o LogLevel=ERROR
  -o UserKnownHostsFile="$run/known_hosts" -o GlobalKnownHostsFile=/dev/null)

# need PROGRAM=PACKAGE...: installs what this machine lacks, and remembers what came with it, so that `remove` takes it away again.
need() {
  local pair missing=()
  for pair in "$@"; do
    command -v "${pair%%=*}" >/dev/null || missing+=("${pair##*=}")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  say "installing ${missing[*]}"
  mkdir -p "$FLOCKER_BED_HOME"
  local before after
  before=$(dpkg-query -f '${binary:Package}\n' -W | sort)
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null
  after=$(dpkg-query -f '${binary:Package}\n' -W | sort)
  comm -13 <(echo "$before") <(echo "$after") >> "$FLOCKER_BED_HOME/installed-packages"
}

require_root() { [ "$(id -u)" = 0 ] || die "needs root"; }
