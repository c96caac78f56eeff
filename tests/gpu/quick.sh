#!/usr/bin/env bash
# Correctness, then times: one call on a GPU. OUT: where traces go.
export BUILD=build ROOT=. OUT=${OUT:-/tmp}
case $(nvidia-smi --query-gpu=name --format=csv,noheader | head -1) in *H200*) sku=h200 ;; *) sku=h100-sxm ;; esac
B=build/demo-$sku.bundle W="--weights models/demo"

timeout 10 build/tilerun generate $B $W --prompt 'def main():' --max-tokens 20 2>&1 | head -12
timeout 60 build/tests/test_gpu 2>&1 | tail -${LINES_OF_TEST:-30}
(sleep 1.5; nvidia-smi --query-gpu=clocks.sm,clocks.mem,power.draw --format=csv,noheader) &
for i in 1 2; do
    for b in $B build/few/demo-$sku.bundle; do
        build/tilerun bench $b $W --rounds 400 2>&1 | tail -1
        build/tilerun bench $b $W --rounds 400 --no-draft 2>&1 | tail -1
    done
done
build/tilerun bench $B $W --rounds 80 --trace $OUT/t.json 2>&1 | tail -1
python3 - $OUT/t.json <<'PY'
import json,sys
t=json.load(open(sys.argv[1])); print("round %.1f us"%t["us_a_round"])
for o in t["ops"]: print("%-16s steps %4.1f tasks %6.1f  us %7.2f  a step %6.2f  task %6.2f" % (o["op"],o["steps"],o["tasks"],o["us"],o["us"]/o["steps"],o["worker_us"]/o["tasks"]))
PY
