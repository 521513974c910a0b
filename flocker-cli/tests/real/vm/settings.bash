# shellcheck shell=bash
# What all programs of the virtual machines share. Sourced, never run. Any setting is overridden by the environment.
VM=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$VM/../bed/settings.bash"

: "${FLOCKER_VM_MB:=1536}"             # memory of a machine,
: "${FLOCKER_VM_PROCESSORS:=2}"        # and its processors
: "${FLOCKER_VM_SECONDS:=300}"         # how long a start may take
# `tcg` works everywhere. `kvm` is many times faster, where the machine has /dev/kvm and Debian's kernel starts in it.
: "${FLOCKER_VM_ACCELERATOR:=tcg}"

vm_image=$image/vm                      # disk.img, vmlinuz, initrd, zfs-KERNEL.tar.gz
vm_home() { echo "$run/machine$1"; }
# The id may have been given to somebody else since, so its command line is compared.
vm_is_up() {
  [ -s "$(vm_home "$1")/pid" ] &&
    grep -qa "$(vm_home "$1")/pool.img" "/proc/$(cat "$(vm_home "$1")/pid")/cmdline" 2>/dev/null
}
