#!/usr/bin/env bash
# What is claimed of the engine kernel, on the GPU at hand: `tests/gpu/bars.sh` after `make all build/tests/test_gpu` and
#   tilegen build demo/SKU -o build; tilegen build demo/SKU --workers 40 -o build/few;
#   tilegen dump demo/SKU --after=prog | sed '0,/ wait attn\.w\[0\]>=[0-9]*/s//&9/' >never.prog (a wait that is never met);
#   tilegen build demo/SKU --prog never.prog --no-prove -o build/broken
export BUILD=build ROOT=. GPU_ROUNDS=${GPU_ROUNDS:-100000}
case $(nvidia-smi --query-gpu=name --format=csv,noheader | head -1) in *H200*) sku=h200 ;; *) sku=h100-sxm ;; esac
B=build/demo-$sku.bundle W="--weights models/demo"
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader
echo "== correctness"
timeout ${TEST_TIME:-300} build/tests/test_gpu 2>&1 | grep -v '^error.E0916' | tail -30
echo "== times"
for i in 1 2 3; do
    build/tilerun bench $B $W --rounds 200 2>&1 | sed -n 1p
    build/tilerun bench $B $W --rounds 200 --no-draft 2>&1 | sed -n 1p
done
timeout 20 build/tilerun generate $B $W --prompt 'def main():' --max-tokens 64 2>&1 | tail -1
echo "== a wait that is never met"
if bundle=build/broken/demo-$sku.bundle && [ -e $bundle ]; then
    SECONDS=0
    timeout 20 build/tilerun generate $bundle $W --prompt 'def main():' --max-tokens 8 2>&1 | head -${LINES_OF_REPORT:-6} | cut -c1-170
    echo "exit ${PIPESTATUS[0]} within $((SECONDS + 1)) s, loading included"
    timeout 20 build/tilerun generate $B $W --prompt 'def main():' --max-tokens 8 2>/dev/null; echo " (the next run: exit $?)"
fi
echo "== interrupted in a round"
for delay in 0.3 0.4 0.5 0.6 0.7 0.8; do # some of these fall into a round
    build/tilerun generate $B $W --prompt 'def main():' --max-tokens 2000 --no-draft >/dev/null 2>&1 & pid=$!
    sleep $delay; kill -INT $pid 2>/dev/null; wait $pid; echo -n "exit $? "
done
echo
timeout 20 build/tilerun generate $B $W --prompt 'def main():' --max-tokens 8 2>/dev/null; echo " (the next run: exit $?)"
echo "== two programs at once"
timeout 30 build/tilerun bench $B $W --rounds 300 --timeout 10 2>&1 | sed -n 1p & timeout 30 build/tilerun bench $B $W --rounds 300 --timeout 10 2>&1 | sed -n 1p; wait
for tool in memcheck racecheck; do
    echo "== compute-sanitizer $tool, $(compute-sanitizer --version | grep -o '^Version [0-9.]*')"
    timeout ${TOOL_TIME:-100} compute-sanitizer --tool $tool build/tilerun generate $B $W --prompt 'def main():' --max-tokens 12 --timeout 90 2>&1 | tail -${LINES_OF_TOOL:-8} | cut -c1-200
done
