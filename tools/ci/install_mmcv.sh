#!/usr/bin/env bash
# Usage: install_mmcv.sh light|ops PYTHON
#
# Installs the pinned onedl-mmcv for PYTHON.
#   light  without compiled operators, in seconds: enough for MMPretrain. Leaves any installed build as it is.
#   ops    with operators, compiled against the installed torch: 5 to 8 minutes on two cores, once. The wheel is kept in
#          a cache outside the clone under torch, Python, mmcv and machine, because pip's own cache knows neither the
#          torch a wheel was built against nor whether it has operators. The operators are the CPU ones.
set -euo pipefail
kind=$1 python=$(realpath -s "$2")
cd "$(dirname "$0")/../.."

version=$(sed -n 's/^onedl-mmcv==//p' constraints.txt)
pip=("$python" -m pip --disable-pip-version-check)
prefix=$("$python" -c 'import sys; print(sys.prefix)')

if [ "$kind" = light ]; then
    "$python" -c 'import importlib.metadata as m; m.version("onedl-mmcv")' 2>/dev/null && exit 0
    exec "${pip[@]}" install --quiet --no-deps --no-cache-dir --no-binary onedl-mmcv "onedl-mmcv==$version"
fi
[ "$kind" = ops ] || { echo "install_mmcv.sh: expected 'light' or 'ops', got '$kind'" >&2; exit 2; }

key=$("$python" - "$version" <<'PY'
import importlib.metadata, platform, sys
major, minor = sys.version_info[:2]
print(f"torch-{importlib.metadata.version('torch')}-cp{major}{minor}-mmcv-{sys.argv[1]}-{platform.machine()}")
PY
)
works() { "$python" -c 'import torch, mmcv._ext' 2>/dev/null; }
stamp=$prefix/.mmcv-ops # names the wheel that was installed here: an operator built for another torch may still import
[ "$(cat "$stamp" 2>/dev/null)" = "$key" ] && works && exit 0

cache=${XDG_CACHE_HOME:-$HOME/.cache}/efficient-backbones/wheels
mkdir -p "$cache"
exec 9>"$cache/.lock-$key"
flock --nonblock 9 || { echo "waiting for another build of $key ..."; flock 9; }
if [ ! -d "$cache/$key" ]; then
    echo "compiling mmcv's operators once into $cache/$key (5 to 8 minutes on two cores) ..."
    building=$(mktemp -d "$cache/.building-XXXXXX")
    trap 'rm -rf "$building"' EXIT
    # Without optimiser effort and debug information the build takes half the time; hiding a GPU keeps nvcc out of it.
    PATH="$prefix/bin:$PATH" CFLAGS='-O1 -g0' MAX_JOBS=${MAX_JOBS:-$(nproc)} CUDA_VISIBLE_DEVICES='' \
        "${pip[@]}" wheel --no-build-isolation --no-deps --no-cache-dir --no-binary onedl-mmcv \
        --wheel-dir "$building" "onedl-mmcv==$version"
    "$python" -m zipfile --list "$building"/onedl_mmcv-*.whl | grep -q 'mmcv/_ext' ||
        { echo "install_mmcv.sh: the wheel that was built has no operators" >&2; exit 1; }
    mv --no-target-directory "$building" "$cache/$key"
fi
flock --unlock 9

"${pip[@]}" install --quiet --force-reinstall --no-deps "$cache/$key"/onedl_mmcv-*.whl
works || { echo "install_mmcv.sh: $cache/$key does not import; remove it and run again" >&2; exit 1; }
echo "$key" >"$stamp"
