# shellcheck shell=bash
# What every root of a node gets, whatever is installed in it. Sourced by `build-image` and `build-bare`, never run.

# furnish ROOT: the key for ssh, logins, no way out, no services that a node has no use for.
furnish() {
  local root=$1 user unit
  need ssh-keygen=openssh-client
  [ -e "$image/id_ed25519" ] || ssh-keygen -q -t ed25519 -N '' -C flocker-bed -f "$image/id_ed25519"
  mkdir -p -m 700 "$root/root/.ssh"
  cp "$image/id_ed25519" "$image/id_ed25519.pub" "$root/root/.ssh/"
  cp "$image/id_ed25519.pub" "$root/root/.ssh/authorized_keys"
  chmod 600 "$root/root/.ssh/"*
  rm -f "$root"/etc/ssh/ssh_host_*          # each node gets its own
  # Two more logins: one that may become root without a password, and one that may nothing.
  for user in deployer plain; do
    chroot "$root" useradd --create-home --shell /bin/bash "$user"
    mkdir -p -m 700 "$root/home/$user/.ssh"
    cp "$image/id_ed25519.pub" "$root/home/$user/.ssh/authorized_keys"
    chroot "$root" chown -R "$user:$user" "/home/$user"
  done
  echo 'deployer ALL=(ALL) NOPASSWD: ALL' > "$root/etc/sudoers.d/deployer"
  chmod 440 "$root/etc/sudoers.d/deployer"
  cat > "$root/etc/ssh/sshd_config.d/bed.conf" <<'CONF'
HostKey /etc/ssh/ssh_host_ed25519_key
PermitRootLogin prohibit-password
UseDNS no
MaxStartups 100:30:200
MaxSessions 100
CONF
  # The nodes are an island. To ask for an unknown name fails at once.
  rm -f "$root/etc/resolv.conf"
  printf 'nameserver 127.0.0.1\noptions timeout:1 attempts:1\n' > "$root/etc/resolv.conf"
  for unit in systemd-timesyncd.service systemd-networkd.service systemd-resolved.service apt-daily.timer \
    apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer getty@tty1.service \
    console-getty.service systemd-udevd.service nftables.service sys-kernel-debug.mount sys-kernel-tracing.mount \
    systemd-modules-load.service kmod-static-nodes.service dev-mqueue.mount dev-hugepages.mount; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
  done
  rm -f "$root/etc/machine-id" "$root/var/lib/dbus/machine-id"
  : > "$root/etc/machine-id"
}

# give_zfs_unit ROOT: a unit by which ZFS by way of FUSE runs in a node, whether it is installed yet or not.
give_zfs_unit() {
  local root=$1
  # Debian's own unit asks for more rights than a node may have, and counts as failed without them.
  cat > "$root/etc/systemd/system/zfs-fuse.service" <<'UNIT'
[Unit]
Description=Daemon for ZFS support via FUSE
DefaultDependencies=no
Before=sysinit.target shutdown.target
After=local-fs.target systemd-tmpfiles-setup.service
Conflicts=shutdown.target
[Service]
Environment=LC_ALL=C
ExecStart=/sbin/zfs-fuse --no-daemon --no-kstat-mount
ExecStartPost=/bin/sh -c 'for i in $(seq 100); do zpool list >/dev/null 2>&1 && break; sleep 0.05; done; zfs mount -a'
KillMode=process
[Install]
WantedBy=sysinit.target
UNIT
}
