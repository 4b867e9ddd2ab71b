#!/bin/sh
# Builds controller/fulfillment/paths.c as build/paths/paths.so, if it is not newer than its source.
set -eu
cd "$(dirname "$0")/../.."
library=build/paths/paths.so
if [ -e $library ] && [ -z "$(find controller/fulfillment/paths.c controller/fulfillment/build.sh -newer $library)" ]; then
	exit 0
fi
mkdir -p build/paths
clang -O2 -g -ffile-prefix-map="$PWD"=. -std=gnu17 -Wall -Wextra -Werror -fvisibility=hidden -shared -fPIC \
	-o $library.$$ controller/fulfillment/paths.c
mv $library.$$ $library
