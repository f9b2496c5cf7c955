#!/bin/sh
# Debian packages that the tests use: chromium opens the report and the web page, dataset-fashion-mnist is
# real data, node and npm run the page's scripts and fetch onnxruntime-web; the OpenSSH client and server are the device
# that is measured over ssh (a server of the tests' own, on the loopback); strace shows what the runner opens; GStreamer
# plays test pictures and files where a board has its CSI camera, python3-gst-1.0 is its PyGObject, and opencv-data has
# the LBP cascades, which PyPI's OpenCV lacks.
# PACKAGES="..." asks for others (scripts/arm64.sh does).
# Installs what is missing where that is allowed; says what is missing where it is not.
set -eu
tests="chromium dataset-fashion-mnist openssh-client openssh-server strace"
tests="$tests gstreamer1.0-tools gstreamer1.0-plugins-base gstreamer1.0-plugins-good python3-gst-1.0 opencv-data"
command -v node >/dev/null || tests="$tests nodejs"
command -v npm >/dev/null || tests="$tests npm"
packages="${PACKAGES:-$tests}"
missing=""
for package in $packages; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q "ok installed" || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null; then
    echo "missing for the tests:$missing (this system has no apt-get; install them by hand)" >&2
    exit 0
fi
if [ "$(id -u)" = 0 ]; then
    as_root=""
elif sudo -n true 2>/dev/null; then
    as_root="sudo"
else
    echo "missing for the tests:$missing; run: sudo apt-get install$missing" >&2
    exit 0
fi
$as_root apt-get update -qq
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null
