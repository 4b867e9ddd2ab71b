#!/bin/sh
# Builds dataplane/probes/*.c as build/probes/prober.so, if it is not newer than these.
#
# SHA-256 is libcrypto's, by the name under which Debian's Python needs it: its headers are not needed.
set -eu
cd "$(dirname "$0")/../.."
library=build/probes/prober.so
if [ -e $library ] && [ -z "$(find dataplane/probes/*.[ch] dataplane/probes/build.sh -newer $library)" ]; then
	exit 0
fi
mkdir -p build/probes
clang -O2 -g -ffile-prefix-map="$PWD"=. -std=gnu17 -Wall -Wextra -Werror -fvisibility=hidden -shared -fPIC \
	-o $library.$$ dataplane/probes/*.c -l:libcrypto.so.3
mv $library.$$ $library
