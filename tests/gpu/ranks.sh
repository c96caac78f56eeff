#!/usr/bin/env bash
# What is claimed of an engine on two GPUs, on the GPUs at hand: `tests/gpu/ranks.sh` after `make all build/tests/test_gpu` and
#   tilegen build demo/SKU-tp2 -o build, and where wanted tilegen build mimo-half/SKU-tp2 -o build;
#   tilegen dump demo/SKU-tp2 --after=prog | sed '0,/ wait attn\.w\[0\]>=[0-9]*/s//&9/' >never.prog (a wait that is never met);
#   tilegen build demo/SKU-tp2 --prog never.prog --no-prove -o build/broken
# TILERUN_NCCL names NCCL's library where it is in no usual place. NCCL_DEBUG=WARN says why ranks do not meet.
export BUILD=build ROOT=. GPU_RANKS=2 GPU_ROUNDS=${GPU_ROUNDS:-3000} NCCL_DEBUG=${NCCL_DEBUG:-WARN}
export NCCL_NVLS_ENABLE=0 NCCL_DEBUG_FILE=${NCCL_DEBUG_FILE:-/tmp/nccl.%p}
case $(nvidia-smi --query-gpu=name --format=csv,noheader | head -1) in *H200*) sku=h200 ;; *) sku=h100-sxm ;; esac
if [ -z "${TILERUN_NCCL:-}" ]; then # that of `make cuda`, or of an installed wheel
    for at in build/cuda/nvidia/nccl "$(python3 -c 'import nvidia.nccl; print(list(nvidia.nccl.__path__)[0])' 2>/dev/null)"; do
        [ -e "$at/lib/libnccl.so.2" ] && export TILERUN_NCCL=$at/lib/libnccl.so.2 && break
    done
fi
B=build/demo-$sku-tp2.bundle W="--weights models/demo"
G="timeout -k 5 60 build/tilerun generate $B --gpus 2 $W --prompt"
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
echo "NCCL: ${TILERUN_NCCL:-found by the loader}"
now() { date +%s.%N; }
since() { echo "$(now) $1" | awk '{printf "%.2f", $1 - $2}'; }
# What is left of the ranks, after a moment for the driver.
left() {
    sleep 1
    echo "   processes left: $(pgrep -c -x tilerun); on the GPUs: $(nvidia-smi --query-compute-apps=pid --format=csv,noheader | wc -l);" \
        "memory in use: $(nvidia-smi --query-gpu=memory.used --format=csv,noheader | tr '\n' ' ')"
}
echo "== first text"
begun=$(now)
$G 'def main():' --max-tokens 64 2>/tmp/first.err >/tmp/first.gpu; code=$?
tail -5 /tmp/first.err
echo "exit $code, $(since $begun) s in all"
if [ $code -ne 0 ]; then cat /tmp/nccl.* 2>/dev/null | tail -30; [ -z "${KEEP_GOING:-}" ] && exit 1; fi
build/tilerun generate $B --host $W --prompt 'def main():' --max-tokens 64 2>/dev/null >/tmp/first.host
cmp /tmp/first.gpu /tmp/first.host && echo "the host's text"
left
echo "== correctness"
begun=$(now)
timeout -k 5 ${TEST_TIME:-200} build/tests/test_gpu 2>&1 | tail -30
echo "after $(since $begun) s"
left

# A long request in the background: $pid; its ranks' processes; and a signal to one of them, $1 s after its first text.
strike() { # signal, rank, seconds
    rm -f /tmp/text; mkfifo /tmp/text
    build/tilerun generate $B --gpus 2 $W --prompt 'def main():' --max-tokens 2000 --no-draft >/tmp/text 2>/tmp/struck.err & pid=$!
    exec 5</tmp/text
    read -r -n 1 -t 60 -u 5
    other=$(pgrep -P $pid || cat /proc/$pid/task/$pid/children)
    (cat <&5 >/dev/null) & reader=$!
    sleep $3
    begun=$(now)
    kill -$1 $([ $2 = 0 ] && echo $pid || echo $other)
    wait $pid; code=$?
    gone=$(since $begun)
    for i in $(seq 400); do kill -0 $other 2>/dev/null || break; sleep 0.01; done
    echo "signal $1 to rank $2 after $3 s: exit $code after $gone s, no process of rank 1 after $(since $begun) s"
    kill $reader 2>/dev/null; wait $reader 2>/dev/null; exec 5<&-
    head -3 /tmp/struck.err | cut -c1-200 | sed 's/^/   /'
}
echo "== rank 1 is killed in a round"
for delay in 0.01 0.05; do strike KILL 1 $delay; done
left
echo "== rank 1 is stopped in a round"
strike STOP 1 0.02
left
echo "== rank 0 is killed in a round"
for delay in 0.01 0.05; do strike KILL 0 $delay; done
left
echo "== interrupted in a round"
for delay in 0.01 0.04; do strike INT 0 $delay; done
$G 'def main():' --max-tokens 64 2>/dev/null | cmp - /tmp/first.host && echo "the next run gives the host's text"
left
echo "== a wait that is never met"
if bundle=build/broken/demo-$sku-tp2.bundle && [ -e $bundle ]; then
    begun=$(now)
    timeout -k 5 30 build/tilerun generate $bundle --gpus 2 $W --prompt 'def main():' --max-tokens 8 >/tmp/never.err 2>&1; code=$?
    echo "exit $code within $(since $begun) s, loading included"
    grep -E '^(error|help)' /tmp/never.err | cut -c1-200 | sed 's/^/   /'
    grep -E '^note' /tmp/never.err | head -3 | cut -c1-200 | sed 's/^/   /'
    left
fi
echo "== bench"
for i in 1 2; do timeout -k 5 60 build/tilerun bench $B --gpus 2 $W --rounds 200 2>&1 | head -1; done
timeout -k 5 60 build/tilerun bench $B --gpus 2 $W --rounds 200 --no-draft 2>&1 | head -1
timeout -k 5 60 build/tilerun bench $B --gpus 2 synthetic:1 --rounds 200 2>&1 | head -${LINES_OF_BENCH:-40}
timeout -k 5 60 build/tilerun bench $B --rank 0 --alone synthetic:1 --rounds 200 2>&1 | head -1
if bundle=build/mimo-half-$sku-tp2.bundle && [ -e $bundle ]; then
    timeout -k 5 100 build/tilerun bench $bundle --gpus 2 synthetic:1 --rounds 200 2>&1 | head -${LINES_OF_BENCH:-40}
    timeout -k 5 60 build/tilerun bench $bundle --rank 0 --alone synthetic:1 --rounds 200 2>&1 | head -3
fi
left
