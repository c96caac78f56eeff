#!/usr/bin/env bash
# The sum over GPUs inside a kernel, alone, against ncclAllReduce in a graph: `tests/gpu/allreduce.sh [GPUS]` after
#   make all && tilegen build demo/SKU-tp2 -o build        (h200 or h100-sxm)
# BUNDLE: another one, of as many ranks as GPUs. When the time is over, perhaps since NCCL hangs, again without it.
# Bars on two GPUs: 96 KB in 2.0 us (aim 1.3), three times as fast as NCCL's (aim five).
gpus=${1:-2}
case $(nvidia-smi --query-gpu=name --format=csv,noheader | head -1) in *H200*) sku=h200 ;; *) sku=h100-sxm ;; esac
if [ -z "${TILERUN_NCCL:-}" ]; then # that of `make cuda`, or of an installed wheel
    for at in build/cuda/nvidia/nccl "$(python3 -c 'import nvidia.nccl; print(list(nvidia.nccl.__path__)[0])' 2>/dev/null)"; do
        [ -e "$at/lib/libnccl.so.2" ] && export TILERUN_NCCL=$at/lib/libnccl.so.2 && break
    done
fi
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
nvidia-smi topo -m 2>/dev/null | head -$((gpus + 1))
for blocks in ${BLOCKS:-all 64 32}; do
    echo "== $gpus GPUs, $blocks blocks"
    few=(); [ "$blocks" = all ] || few=(--blocks "$blocks")
    bench=(build/tilerun bench "${BUNDLE:-build/demo-$sku-tp$gpus.bundle}" --allreduce "${few[@]}"
        --json="${OUT:-build}/allreduce-$gpus-$blocks.json")
    timeout -k 5 "${LIMIT:-120}" "${bench[@]}"
    code=$?
    echo "exit $code"
    case $code in 124 | 137) TILERUN_NCCL=/none timeout -k 5 "${LIMIT:-120}" "${bench[@]}"; echo "without NCCL: exit $?" ;; esac
done
