#!/bin/sh
# Builds build/ebpf/stitch.bpf.o, detour.bpf.o and loss.bpf.o (incremental). Needs clang, libbpf-dev and the kernel's UAPI headers (linux-libc-dev).
#
# The types of <linux/bpf.h>, not a vmlinux.h made by bpftool: the program reads no structure of the kernel, so there is
# nothing to relocate, and a vmlinux.h would bring 10,000 type names of one kernel (one of them `struct port`). loss.bpf.c
# declares the three members that it reads.
set -eu
cd "$(dirname "$0")/.."

last=build/ebpf/stitch.bpf.o
headers=/usr/include/$(uname -m)-linux-gnu

die() {
	echo "ebpf/build.sh: $*" >&2
	exit 1
}

command -v clang >/dev/null || die "clang is missing: apt-get install clang"
[ -e /usr/include/bpf/bpf_helpers.h ] || die "/usr/include/bpf/bpf_helpers.h is missing: apt-get install libbpf-dev"
[ -e "$headers/asm/types.h" ] || die "$headers/asm/types.h is missing: apt-get install linux-libc-dev"

mkdir -p build/ebpf
if [ -s "$last" ] && [ -z "$(find ebpf -newer "$last" \( -name '*.[ch]' -o -name build.sh \) -print)" ]; then
	exit 0
fi
# Another build may run at the same time: each writes a file of its own and moves it into place.
strip=$(command -v llvm-strip || command -v llvm-strip-14 || true)
for name in detour loss stitch; do
	object=build/ebpf/$name.bpf.o
	clang -O2 -g -ffile-prefix-map="$PWD"=. -target bpf -mcpu=v3 -Wall -Wextra -Wno-unused-parameter -Werror -Iebpf -I"$headers" \
		-c "ebpf/$name.bpf.c" -o "$object.$$"
	[ -z "$strip" ] || "$strip" -g "$object.$$"
	mv "$object.$$" "$object"
done
