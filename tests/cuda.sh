#!/usr/bin/env bash
# Fetches the CUDA compiler and NCCL as Python wheels and unpacks them into a folder, for machines without the toolkit.
# Nothing is installed. Exit 3 when it cannot be done.
set -eu
folder=$1
packages=('nvidia-cuda-nvrtc==13.0.*' 'nvidia-cuda-crt==13.0.*' 'nvidia-cuda-runtime==13.0.*' nvidia-nccl-cu13)
[ -e "$folder/nvidia/cu13/lib/libnvrtc.so.13" ] && exit 0
if ! python3 -m pip --version >/dev/null 2>&1; then
    echo "make cuda needs python3 with pip (apt-get install python3-pip), or install the CUDA 13 toolkit" >&2
    exit 3
fi
rm -rf "$folder.partial"
mkdir -p "$folder.partial/wheels"
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: \
    -d "$folder.partial/wheels" "${packages[@]}" >&2 || {
    echo "the wheels cannot be fetched; install the CUDA 13 toolkit instead" >&2
    exit 3
}
for wheel in "$folder.partial"/wheels/*.whl; do python3 -m zipfile -e "$wheel" "$folder.partial"; done
rm -rf "$folder.partial/wheels" "$folder"
mv "$folder.partial" "$folder" # whole or not at all
echo "$folder: $(cd "$folder" && echo *.dist-info)"
