#!/bin/sh
# onnxruntime-web for the tests of the web page: npm fetches the package file into build/, once. The version stands in
# edgewise.export.web.runtime, which also checks the file's sha512 whenever it is read.
set -eu
cd "$(dirname "$0")/.."
version=$(sed -n 's/^NAME, VERSION = .*, "\(.*\)"$/\1/p' src/edgewise/export/web/runtime.py)
[ -n "$version" ] || { echo "no version found in edgewise.export.web.runtime" >&2; exit 1; }
file="build/onnxruntime-web-$version.tgz"
[ -f "$file" ] && exit 0
if ! command -v npm >/dev/null; then
    echo "npm is missing; the tests of the web page need $file" >&2
    exit 1
fi
part=$(mktemp -d)
trap 'rm -rf "$part"' EXIT
npm pack --silent --pack-destination "$part" "onnxruntime-web@$version" >/dev/null
mkdir -p build
mv "$part"/*.tgz "$file"
