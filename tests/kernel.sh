#!/bin/sh
# Tests on another kernel than this machine's, as root: sh tests/kernel.sh LINUX-IMAGE.deb [PYTEST ARGUMENTS]
#
# QEMU boots the kernel of a Debian package. Its root is this machine's, read-only (virtiofs), with a /tmp and a /run of
# its own, so that Python, the checkout and the BPF program are those that are here. Without arguments: the packet
# vectors, cold and warm.
set -eu
cd "$(dirname "$0")/.."

die() {
	echo "tests/kernel.sh: $*" >&2
	exit 1
}

[ -f "${1:-}" ] || die "which kernel? A package such as linux-image-6.1.0-*-cloud-amd64_*.deb (apt-get download)"
package=$1
shift
[ $# -gt 0 ] || set -- tests/test_vectors.py
busybox=$(command -v busybox) && ! ldd "$busybox" >/dev/null 2>&1 || die "missing: apt-get install busybox-static"
command -v cpio >/dev/null || die "missing: apt-get install cpio"
command -v qemu-system-x86_64 >/dev/null || die "missing: apt-get install qemu-system-x86"
for virtiofsd in /usr/libexec/virtiofsd /usr/lib/qemu/virtiofsd ""; do
	[ -x "$virtiofsd" ] && break
done
[ -n "$virtiofsd" ] || die "virtiofsd is missing: apt-get install virtiofsd, or qemu-system-common in Debian 12"

work=$PWD/build/kernel
rm -rf "$work"
mkdir -p "$work/initial/bin" "$work/initial/modules" "$work/initial/proc" "$work/initial/root"
dpkg-deb -x "$package" "$work/package"
version=$(ls "$work/package/lib/modules")
depmod -b "$work/package" "$version"

# Before the root is there: its driver. After it: what tests use, which this machine's /lib/modules has not.
cp "$busybox" "$work/initial/bin/busybox"
{
	echo "#!/bin/busybox sh"
	echo "/bin/busybox mount -t proc proc /proc"
	modprobe -d "$work/package" -S "$version" --show-depends -a virtio_pci virtiofs veth tun | awk '
		$1 == "insmod" && !seen[$2]++ { name = $2; sub(".*/", "", name); print "/bin/busybox insmod /modules/" name }'
	cat <<-'INIT'
		/bin/busybox mount -t virtiofs -o ro root /root || /bin/busybox poweroff -f
		/bin/busybox mount -t proc proc /root/proc
		/bin/busybox mount -t sysfs sysfs /root/sys
		/bin/busybox mount -t bpf bpf /root/sys/fs/bpf
		/bin/busybox mount -t devtmpfs dev /root/dev
		/bin/busybox mount -t tmpfs tmp /root/tmp
		/bin/busybox mount -t tmpfs run /root/run
	INIT
	echo "/bin/busybox chroot /root /bin/sh $work/tests"
	echo "/bin/busybox poweroff -f"
} >"$work/initial/init"
chmod +x "$work/initial/init"
find "$work/package/lib/modules" -name '*.ko' | while read -r module; do
	if grep -q "/modules/${module##*/}\$" "$work/initial/init"; then cp "$module" "$work/initial/modules"; fi
done
{
	echo "cd '$PWD'"
	echo "export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp PYTHONDONTWRITEBYTECODE=1"
	echo "ip link set lo up"
	echo "uname -rv"
	printf '.venv/bin/python -m pytest --color=no'
	printf " '%s'" "$@"
	# Where nobody else has anything to say.
	printf '\necho "status $?" >/dev/ttyS1\n'
} >"$work/tests"
(cd "$work/initial" && find . | cpio -o -H newc --quiet | gzip -1) >"$work/initrd"

"$virtiofsd" --socket-path="$work/socket" -o source=/ -o sandbox=chroot -o cache=always >"$work/virtiofsd.log" 2>&1 &
served=$!
trap 'kill "$served" 2>/dev/null || true' EXIT
until [ -S "$work/socket" ]; do
	kill -0 "$served" 2>/dev/null || die "virtiofsd ended: $(cat "$work/virtiofsd.log")"
	sleep 0.1
done
# Emulated where there is no KVM, or NETSTITCH_KVM=0; then it is slow: 826 vectors take 25 minutes on one busy core.
accelerate=tcg
[ -w /dev/kvm ] && [ "${NETSTITCH_KVM:-1}" = 1 ] && accelerate=kvm
qemu-system-x86_64 -accel $accelerate -cpu max -smp 1 -m 2048 -display none -no-reboot \
	-object memory-backend-memfd,id=memory,size=2048M,share=on -numa node,memdev=memory \
	-chardev "socket,id=root,path=$work/socket" -device vhost-user-fs-pci,chardev=root,tag=root \
	-serial mon:stdio -serial "file:$work/status" \
	-kernel "$work/package/boot/vmlinuz-$version" -initrd "$work/initrd" \
	-append "console=ttyS0 panic=1 loglevel=4" </dev/null
grep -q "^status 0" "$work/status" || die "tests on $version failed"
