#!/bin/bash
# The whole recipe on one GPU, each stage for a fixed time.
#
#   run.sh OUT [RESUME_DIR]
#
# OUT receives the checkpoint (OUT/checkpoint), the golden files (OUT/golden), reports and logs. RESUME_DIR holds
# resume.safetensors, tokenizer.json and optionally a drafter (dflash/model.safetensors) of an earlier run to carry on from.
# Seconds of each stage: STABLE, DECAY (twice, once for each arithmetic), GENERATE, TRAIN.
set -u
here=$(cd "$(dirname "$0")" && pwd)
out=$1
resume=${2:-}
mkdir -p "$out"
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
cpus=$(nproc)
begin=$SECONDS

target_args=(--stable "${STABLE:-130}" --decay "${DECAY:-35}" --length "${LENGTH:-1024}" --batch "${BATCH:-32}" --lr "${LR:-3e-3}")
drafter_args=(--generate "${GENERATE:-35}" --train "${TRAIN:-100}" --wait "$out/exported" --lr "${DRAFT_LR:-2e-3}" --gamma "${GAMMA:-4}")
tokenizer=
if [ -n "$resume" ]; then
    target_args+=(--resume "$resume/resume.safetensors" --seed "${SEED:-2}")
    tokenizer=$resume/tokenizer.json
    [ -f "$resume/dflash/model.safetensors" ] && drafter_args+=(--resume "$resume/dflash/model.safetensors")
fi

(python3 "$here/data.py" "$out" "$cpus" && python3 "$here/tokenizer.py" "$out" $tokenizer) >"$out/data.log" 2>&1 &
data=$!
python3 "$here/train_drafter.py" "$out" "$out" "$out/checkpoint" "${drafter_args[@]}" >"$out/drafter.log" 2>&1 &
drafter=$!
python3 "$here/train_target.py" "$out" "$out" "${target_args[@]}" >"$out/target.log" 2>&1 &
target=$!
fail() { echo "$1 failed after $((SECONDS - begin)) s"; tail -n 25 "$out"/*.log; kill $data $target $drafter 2>/dev/null; exit 1; }
wait $data || fail data
wait $target || fail target
python3 "$here/export.py" "$out" "$out/checkpoint" || fail export
touch "$out/exported"
echo "target exported after $((SECONDS - begin)) s"
wait $drafter || fail drafter
echo "drafter exported after $((SECONDS - begin)) s"
python3 "$here/evaluate.py" "$out" "$out/checkpoint" "$out/acceptance.json" 2>&1 | tee "$out/evaluate.log"
python3 "$here/golden.py" "$out" "$out/checkpoint" "$out/golden" 2>&1 | tee "$out/golden.log"
grep -h . "$out/data.log" "$out/target.log" "$out/drafter.log"
du -sh "$out/checkpoint"
echo "done after $((SECONDS - begin)) s"
