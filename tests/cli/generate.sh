# The command line of tilerun as a user has it.
. "$ROOT/tests/cli/tap.sh.inc"
cd "$ROOT"
T=$TEST_TMP
"$TILEGEN" build demo demo/tp2 -o "$T" >/dev/null || exit 1
B=$T/demo.bundle W=models/demo
gen() { "$TILERUN" generate "$B" --weights $W "$@"; }

text_alone() {
    exits 0 gen --prompt 'import os' --max-tokens 16 && ! grep -q 'token/s' "$out" && [ -s "$out" ] &&
        grep -q 'token/s, acceptance length' "$err" && grep -q 'rounds by tokens emitted' "$err"
}
check text_on_stdout_statistics_on_stderr text_alone
json() {
    exits 0 gen --prompt 'def f(x):' --max-tokens 20 --json && python3 - "$out" <<'P'
import json, sys
r = json.load(open(sys.argv[1]))
assert len(r["tokens"]) == 20 and r["rounds"] == sum(r["histogram"]) and 1 <= r["acceptance"] <= 8 and r["text"]
P
}
if command -v python3 >/dev/null; then check json_result json; else echo "skip json_result: no python3 to read it"; fi
same() { [ "$(gen --prompt 'class A:' --max-tokens 40 "$@" 2>/dev/null)" = "$(gen --prompt 'class A:' --max-tokens 40 "$@" --no-draft 2>/dev/null)" ]; }
check no_draft_gives_the_same_text same
check no_draft_gives_the_same_text_warm same --temperature 1 --seed 3 --top-k 50
ids() { printf '62 38\n747\t291' >"$T/ids" && exits 0 gen --tokens "$T/ids" --max-tokens 4; }
check prompt_as_ids ids
logits() { printf '1 2 3' >"$T/three" && exits 0 "$TILERUN" logits "$B" --weights $W --tokens "$T/three" --out "$T/l.safetensors" && [ "$(stat -c %s "$T/l.safetensors")" -gt 24576 ]; }
check logits_file logits
check bench exits 0 "$TILERUN" bench "$B" --weights $W --rounds 4 --json
check bench_without_a_trace_on_the_host complains 1 "E0917" "the host executor keeps no trace" -- "$TILERUN" bench "$B" --weights $W --rounds 4 --trace "$T/trace"
bench_file() {
    exits 0 "$TILERUN" bench "$B" --weights $W --rounds 4 "--json=$T/bench" && grep -q '4 rounds: median' "$out" && grep -q '"clock": "host"' "$T/bench" && grep -q '"p95"' "$T/bench"
}
check bench_json_beside_the_text bench_file
generate_file() { exits 0 gen --prompt 'def' --max-tokens 4 "--json=$T/made" && [ -s "$out" ] && ! grep -q '"tokens"' "$out" && grep -q '"tokens": \[' "$T/made" && grep -q 'token/s' "$err"; }
check generate_json_beside_the_text generate_file
check synthetic_weights exits 0 "$TILERUN" bench "$B" --weights synthetic:1 --rounds 3
check degree_2 exits 0 "$TILERUN" generate "$T/demo-tp2.bundle" --weights $W --prompt 'import' --max-tokens 4
bytes() { exits 0 gen --prompt "$(printf 'x = "\xff\xfe\xc3"')" --max-tokens 4; }
check invalid_utf8_is_bytes bytes
own() {
    "$TILEGEN" import $W -o "$T/own.yaml" && "$TILEGEN" build --model "$T/own.yaml" --sku host -o "$T/own" && exits 0 "$TILERUN" generate "$T"/own/*.bundle --weights $W --prompt 'def' --max-tokens 4
}
check import_build_generate own

# Other ways to the same sums: experts in one task, a router split over its inputs.
same() { # op: a schedule of this alone
    printf 'return kernel "x" { steps = { op %s } }\n' "$1" >"$T/same.lua"
    "$TILEGEN" build --model models/demo.yaml --schedule "$T/same.lua" --sku host --tp "${2:-1}" -o "$T/same" >/dev/null &&
        gen --prompt 'def main():' --max-tokens 120 >"$T/wanted" &&
        exits 0 "$TILERUN" generate "$T/same/demo.bundle" --weights $W --prompt 'def main():' --max-tokens 120 && cmp "$out" "$T/wanted"
}
check experts_summed_in_one_task same '"experts_sum" { tile = 48 }'
check experts_summed_in_one_task_of_two_ranks same '"experts_sum" { tile = 48 }' 2
check router_split_over_its_inputs same '"router" { split = 3 }'

check no_bundle complains 2 "wants a bundle" -- "$TILERUN" generate --weights $W --prompt x
check no_weights complains 2 "--weights is missing" -- "$TILERUN" generate "$B" --prompt x
check no_prompt complains 2 "--prompt or --tokens" -- "$TILERUN" generate "$B" --weights $W
check unknown_option complains 2 "unknown option --promt" -- "$TILERUN" generate "$B" --promt x
check temperature_that_is_no_number complains 2 "--temperature wants" -- "$TILERUN" generate "$B" --weights $W --prompt x --temperature warm
check json_without_a_file complains 2 "--json= wants a file" -- "$TILERUN" bench "$B" --weights $W --json=
check json_into_no_folder complains 3 "E0004" "/nothing/there" -- "$TILERUN" bench "$B" --weights $W "--json=$T/nothing/there"
check flag_with_a_value complains 2 "--alone takes no value" -- "$TILERUN" bench "$B" --weights $W --alone=1
check rank_without_alone complains 2 "--rank is the rank that --alone times" -- "$TILERUN" bench "$B" --weights $W --rank 0
check alone_on_the_host complains 2 "without --host" -- "$TILERUN" bench "$B" --alone synthetic:1 --host
check alone_of_a_host_bundle complains 1 "E0905" "leave out --alone" -- "$TILERUN" bench "$B" --alone synthetic:1
check alone_is_for_bench complains 2 "no option --alone" -- gen --prompt x --alone
check allreduce_of_one_rank complains 1 "E0905" "for one GPU" -- "$TILERUN" bench "$B" --allreduce
check allreduce_of_a_host_bundle complains 1 "E0914" "as many ranks" -- "$TILERUN" bench "$T/demo-tp2.bundle" --allreduce
check allreduce_of_gpus_and_host complains 1 "E0905" "the host executor runs on no GPU" -- "$TILERUN" bench "$T/demo-tp2.bundle" --allreduce --gpus 2
check blocks_without_allreduce complains 2 "--blocks is of --allreduce" -- "$TILERUN" bench "$B" --weights $W --blocks 2
check rank_out_of_range complains 2 "--rank wants" -- "$TILERUN" bench "$B" --alone --rank 8 synthetic:1
check accept_out_of_range complains 2 "--accept wants" -- "$TILERUN" bench "$B" --weights $W --accept 9
check empty_prompt complains 1 "E0902" "empty" -- "$TILERUN" generate "$B" --weights $W --prompt ''
printf '1 99999' >"$T/big"
check token_out_of_range complains 1 "E0902" "99999" -- "$TILERUN" generate "$B" --weights $W --tokens "$T/big"
printf '1 two' >"$T/word"
check token_that_is_no_number complains 1 "word:1:3" -- "$TILERUN" generate "$B" --weights $W --tokens "$T/word"
yes 5 | head -n 3000 >"$T/long"
check prompt_longer_than_the_context complains 1 "E0902" "3000 tokens" -- "$TILERUN" generate "$B" --weights $W --tokens "$T/long"
check missing_weights complains 1 "E0702" -- "$TILERUN" generate "$B" --weights "$T/nothing" --prompt x
check missing_bundle complains 1 "E0002" -- "$TILERUN" generate "$T/no.bundle" --weights $W --prompt x
head -c 2000 "$B" >"$T/cut.bundle"
check cut_bundle complains 1 "E0433" -- "$TILERUN" generate "$T/cut.bundle" --weights $W --prompt x
cp "$B" "$T/flip.bundle" && printf 'X' | dd of="$T/flip.bundle" bs=1 seek=5000 conv=notrunc status=none
check damaged_bundle complains 1 "E0433" -- "$TILERUN" generate "$T/flip.bundle" --weights $W --prompt x
cp "$B" "$T/newer.bundle" && printf '\x63' | dd of="$T/newer.bundle" bs=1 seek=8 conv=notrunc status=none
check newer_bundle complains 1 "E0432" -- "$TILERUN" generate "$T/newer.bundle" --weights $W --prompt x
check not_a_bundle complains 1 "E0431" -- "$TILERUN" generate README.md --weights $W --prompt x

damaged() { # a copy of the checkpoint, to be spoilt by the caller
    rm -rf "$T/w" && mkdir "$T/w" && cp -r $W/*.json $W/*.safetensors $W/dflash "$T/w/"
}
with_copy() { complains "$1" "${@:2}" -- "$TILERUN" generate "$B" --weights "$T/w" --prompt x; }
truncated() { damaged && truncate -s 100000 "$T"/w/model-00001-of-00002.safetensors && with_copy 1 E0701; }
check truncated_safetensors truncated
missing_shard() { damaged && rm "$T"/w/model-00002-of-00002.safetensors && with_copy 1 E0002; }
check missing_shard missing_shard
other_model() { damaged && sed -i 's/"num_experts_per_tok": 4/"num_experts_per_tok": 3/' "$T/w/config.json" && with_copy 1 E0123; }
check checkpoint_of_another_model other_model
bad_json() { damaged && echo '{' >"$T/w/tokenizer.json" && with_copy 1 E0801; }
check broken_tokenizer bad_json

interrupt() {
    "$TILERUN" generate "$B" --weights $W --prompt 'import os' --max-tokens 1900 --temperature 1 >"$T/o" 2>"$T/e" &
    local pid=$!
    sleep 1
    kill -INT $pid
    local status=0
    wait $pid || status=$?
    [ $status -eq 130 ] && grep -q 'token/s' "$T/e"
}
check ctrl_c_ends_with_130 interrupt
full() { gen --prompt x --max-tokens 8 >/dev/full 2>"$T/e"; [ $? -eq 3 ] && grep -q E0004 "$T/e"; }
check full_disk_for_the_text full
finish
