#!/bin/sh
# A Debian arm64 root that qemu-user runs: python3 with numpy and the aarch64 onnxruntime wheel.
#   scripts/arm64.sh make ROOT [PYTHON]   makes it with the numpy and onnxruntime versions of PYTHON (default: python3)
#   scripts/arm64.sh run ROOT [WORD...]   runs python3 in it with these words; CPU=cortex-a76 chooses the processor
# Nothing is mounted, and no package runs its scripts: files are unpacked and each python process is started by qemu.
# It shows what an ARM processor computes, never how fast.
set -eu
here=$(dirname "$0")
root=$2

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else unshare --map-root-user "$@"; fi
}

make_root() {
    PACKAGES="mmdebstrap qemu-user-static" sh "$here/debian.sh"
    for tool in mmdebstrap qemu-aarch64-static; do
        command -v "$tool" >/dev/null || { echo "arm64: $tool is missing (Debian: mmdebstrap, qemu-user-static)" >&2; exit 4; }
    done
    rm -rf "$root" "$root.part"
    mkdir -p "$(dirname "$root")"
    # bookworm's python3 is 3.11; libstdc++6 is what the wheels link to.
    mmdebstrap --quiet --variant=extract --architectures=arm64 --include=python3,libstdc++6 bookworm "$root.part" 2>/dev/null
    versions=$("$1" -c "
from importlib.metadata import version
print(*(f'{name}=={version(name)}' for name in ('numpy', 'onnxruntime')))")
    # shellcheck disable=SC2086
    "$1" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all: --target "$root.part/opt/site" \
        --python-version 3.11 --implementation cp --abi cp311 \
        --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 --platform manylinux_2_17_aarch64 \
        --platform manylinux2014_aarch64 $versions
    cp "$(command -v qemu-aarch64-static)" "$root.part/usr/bin/qemu-aarch64-static"
    mkdir -p "$root.part/sys/devices/system/cpu" "$root.part/proc" "$root.part/work"
    mv "$root.part" "$root"
}

# onnxruntime asks the kernel which processor it runs on; this root has no /proc and no /sys but what is written here.
describe_processor() {
    case "$1" in
    cortex-a72) part=0xd08 more="" ;;                    # Raspberry Pi 4
    cortex-a76) part=0xd0b more=" asimdhp asimddp" ;;    # Raspberry Pi 5: 8-bit dot products
    *) echo "arm64: CPU is cortex-a72 or cortex-a76, not $1" >&2; exit 2 ;;
    esac
    echo 0 >"$root/sys/devices/system/cpu/possible"
    echo 0 >"$root/sys/devices/system/cpu/present"
    printf 'processor\t: 0\nFeatures\t: fp asimd evtstrm crc32 cpuid%s\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: %s\nCPU revision\t: 3\n' \
        "$more" "$part" >"$root/proc/cpuinfo"
}

case "$1" in
make)
    make_root "${3:-python3}"
    ;;
run)
    shift 2
    CPU=${CPU:-cortex-a72}
    describe_processor "$CPU"
    as_root env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin PYTHONPATH=/opt/site OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1 \
        chroot "$root" /usr/bin/qemu-aarch64-static -cpu "$CPU" /usr/bin/python3 "$@"
    ;;
*)
    echo "usage: arm64.sh make|run ROOT ..." >&2
    exit 2
    ;;
esac
