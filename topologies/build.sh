#!/bin/sh
# Builds the relay of the lab's links (topologies/relay*.c) as build/lab/relay, if it is not newer than its sources.
set -eu
cd "$(dirname "$0")/.."
relay=build/lab/relay
if [ -x $relay ] && [ -z "$(find topologies/relay*.[ch] -newer $relay)" ]; then
	exit 0
fi
mkdir -p build/lab
clang -O2 -g -ffile-prefix-map="$PWD"=. -std=gnu17 -Wall -Wextra -Werror -o $relay.$$ topologies/relay*.c
mv $relay.$$ $relay
