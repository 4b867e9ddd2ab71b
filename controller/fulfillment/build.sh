#!/bin/sh
# Builds controller/fulfillment/{paths,disjoint}.c as build/paths/paths.so, if it is not newer than they are.
set -eu
cd "$(dirname "$0")/../.."
library=build/paths/paths.so
sources="controller/fulfillment/paths.c controller/fulfillment/disjoint.c"
if [ -e $library ] && [ -z "$(find $sources controller/fulfillment/paths.h controller/fulfillment/build.sh -newer $library)" ]; then
	exit 0
fi
mkdir -p build/paths
clang -O2 -g -ffile-prefix-map="$PWD"=. -std=gnu17 -Wall -Wextra -Werror -fvisibility=hidden -shared -fPIC \
	-o $library.$$ $sources
mv $library.$$ $library
