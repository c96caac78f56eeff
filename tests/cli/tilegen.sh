# The command line of tilegen as a user has it.
. "$ROOT/tests/cli/tap.sh.inc"
cd "$ROOT"
T=$TEST_TMP

all_models() { for m in mimo-v2.5-pro mimo-v2.6-flash demo llama-3.2-1b; do exits 0 "$TILEGEN" check "models/$m.yaml" || return 1; done; }
check check_accepts_all_models all_models
check check_every_target exits 0 "$TILEGEN" check demo demo/tp2 demo/h200 demo/h100-sxm llama-3.2-1b llama-3.2-1b/h200
check check_flash_at_degree_2 exits 0 "$TILEGEN" check mimo-v2.6-flash/h200-tp2
check check_a_schedule_alone exits 0 "$TILEGEN" check schedules/decode.lua
check check_the_build_file exits 0 "$TILEGEN" check build.lua

twice() {
    exits 0 "$TILEGEN" build demo -o "$T/a" && exits 0 "$TILEGEN" build demo -o "$T/b" && cmp "$T/a/demo.bundle" "$T/b/demo.bundle"
}
check build_twice_gives_identical_bytes twice

dump_back() { "$TILEGEN" dump "$1" --after=prog >"$T/prog" && "$TILEGEN" check - <"$T/prog"; }
check dumped_prog_checks dump_back demo
check dumped_prog_checks_at_degree_2 dump_back demo/tp2
check dumped_gpu_prog_checks dump_back demo/h200
every_pass() { for p in sched plan lower prog; do exits 0 "$TILEGEN" dump demo --after=$p && [ -s "$out" ] || return 1; done; }
check dump_after_every_pass every_pass
check explain_a_target exits 0 "$TILEGEN" explain mimo-v2.5-pro/h200-tp8
explain_all() {
    for code in $(grep -hoE 'DIAG\(E[0-9]{4}' tilegen/base/diag/*.def | cut -c6-); do
        exits 0 "$TILEGEN" explain "$code" && [ "$(wc -l <"$out")" -ge 3 ] || return 1
    done
}
check explain_every_code explain_all
check help exits 0 "$TILEGEN" --help
check help_of_a_command exits 0 "$TILEGEN" build --help
check sku_list exits 0 "$TILEGEN" sku list
check sku_targets exits 0 "$TILEGEN" sku targets
check sku_without_a_word complains 2 "\"targets\"" -- "$TILEGEN" sku

import_build() {
    exits 0 "$TILEGEN" import models/demo -o "$T/own.yaml" && exits 0 "$TILEGEN" build --model "$T/own.yaml" --sku host -o "$T/own"
    [ -s "$T"/own/*.bundle ]
}
check import_then_build_without_a_line_of_yaml import_build

check no_command complains 2 "no command" -- "$TILEGEN" frobnicate
check unknown_option complains 2 "unknown option --frob" -- "$TILEGEN" check --frob demo
check option_of_another_command complains 2 "no option --after" -- "$TILEGEN" build demo --after=prog
check missing_value complains 2 "wants a value" -- "$TILEGEN" build demo -o
check bad_degree complains 2 "--tp wants 1, 2, 4 or 8" -- "$TILEGEN" check demo --tp 3
check unknown_target complains 1 "E03" "demo" -- "$TILEGEN" build dem
check unknown_sku complains 1 "h200" -- "$TILEGEN" check demo --sku h20O
check unknown_code_or_target complains 1 "E0999" -- "$TILEGEN" explain E0999
check diff_without_a_target complains 2 "one target" -- "$TILEGEN" diff
check diff_of_a_host_target complains 1 "E0441" "no kernel to compare" -- "$TILEGEN" diff demo
check diff_of_an_unknown_op complains 2 'no op "o_prj"' 'did you mean "o_proj"?' -- "$TILEGEN" diff demo/h200 --stop-after o_prj
check diff_of_no_layers complains 2 "--layers wants a number from 1 to 256" -- "$TILEGEN" diff demo/h200 --layers 0
check diff_of_an_unknown_target complains 1 "E0304" -- "$TILEGEN" diff demo/h20o
no_driver() { complains 3 "E0907" -- env TILERUN_CUDA=/nonexistent/libcuda.so.1 "$TILEGEN" diff demo/h200 && [ ! -s "$out" ]; }
check diff_without_a_driver no_driver
check missing_file complains 1 "E0002" "nothing.yaml" -- "$TILEGEN" check nothing.yaml
check a_folder_is_no_file complains 1 "E0002" -- "$TILEGEN" check --model models demo.lua
degree() { complains 1 "E0401" -- "$TILEGEN" check demo --tp 8; }
check degree_that_does_not_divide degree

printf 'return kernel "x" { steps = { op "qkv" { tile = 7 } } }\n' >"$T/tile.lua"
check tile_that_does_not_divide complains 1 "E0405" "tile.lua:1" "divide" -- "$TILEGEN" check "$T/tile.lua"
gpu_kernel() { # file step: a schedule of one step for a GPU with ${pages:-11} pages
    printf 'return kernel "x" {\n  roles = { load = { warps = 4 }, compute = { warps = 8 } },\n  pages = { bytes = 16384, count = %d },\n  steps = { op %s } }\n' \
        "${pages:-11}" "$2" >"$1"
}
gpu_kernel "$T/strip.lua" '"o_proj" { tile = 24 }'
check tile_that_cuts_a_strip complains 1 "E0411" "strip.lua:4" "16 and 32 are whole strips" -- "$TILEGEN" check "$T/strip.lua" --sku h200
gpu_kernel "$T/pair.lua" '"mlp_up" { tile = 4 }'
check tile_that_cuts_a_pair complains 1 "E0411" "8 is whole strips" -- "$TILEGEN" check "$T/pair.lua" --sku h200
gpu_kernel "$T/whole.lua" '"router" { tile = 24 }'
check a_tile_of_everything exits 0 "$TILEGEN" check "$T/whole.lua" --sku h200
gpu_kernel "$T/group.lua" '"attention" { tile = 8 }'
check tile_across_kv_heads complains 1 "E0412" "4 share" "4 divides them" -- "$TILEGEN" check "$T/group.lua" --sku h200
check tile_of_too_many_heads complains 1 "E0442" "a tile of 16 query heads keeps" "4 heads fit" -- "$TILEGEN" check mimo-rank/h200 -D heads=16
gpu_kernel "$T/keys.lua" '"attention" { full_tile = 16, split = 2 }'
check keys_of_few_heads complains 1 "E0405" "a tile of 16" -- "$TILEGEN" check "$T/keys.lua" --sku h200
sed 's/return kernel "x" {/& activations = "bf16",/' "$T/keys.lua" >"$T/paged.lua"
check keys_in_small_pages complains 1 "E0417" "24576 bytes of a chunk" "leave out full_tile" -- "$TILEGEN" check "$T/paged.lua" --model models/mimo-rank.yaml --sku h200
sed 's/qk_dim: 192/&\n    qk_norm: true/' models/mimo-rank.yaml >"$T/normed.yaml"
check keys_of_normed_heads exits 0 "$TILEGEN" check schedules/decode.lua --model "$T/normed.yaml" --sku h200
sed 's/rotary: 64/rotary: 24/' models/mimo-rank.yaml >"$T/turned.yaml"
check keys_of_other_heads exits 0 "$TILEGEN" check schedules/decode.lua --model "$T/turned.yaml" --sku h200
gpu_kernel "$T/merge.lua" '"attention" { split = 2 }, op "merge" { split = 3 }'
check rows_split_unevenly complains 1 "E0418" "merge: 8 rows split in 3" "2 parts are alike" -- "$TILEGEN" check "$T/merge.lua" --model models/mimo-rank.yaml --sku h200
printf 'return kernel "x" { steps = {\n  op "experts_sum" {}, op "combine" {} } }\n' >"$T/two_ways.lua"
check experts_summed_in_two_ways complains 1 "E0415" "two_ways.lua:2" "combine beside experts_sum" "name either" -- "$TILEGEN" check "$T/two_ways.lua"
printf 'return kernel "x" { steps = { op "router" { split = 2 } } }\n' >"$T/uneven.lua"
check router_split_unevenly complains 1 "E0416" "uneven.lua:1" "384 inputs split in 2" "1 parts are" -- "$TILEGEN" check "$T/uneven.lua"
gpu_kernel "$T/split.lua" '"router" { tile = 32, split = 3 }'
check split_router_of_two_strips complains 1 "E0416" "split.lua:4" "use a tile of 16" -- "$TILEGEN" check "$T/split.lua" --sku h200
gpu_kernel "$T/wide.lua" '"experts_sum" { tile = 48 }'
sed 's/count: 16$/count: 1536/' models/mimo-rank.yaml >"$T/many.yaml"
check too_many_experts complains 1 "E0442" "more than 1024 experts" -- "$TILEGEN" build --model "$T/many.yaml" --schedule schedules/decode.lua --sku h200 -o "$T/many"
check experts_summed_of_float_activations complains 1 "E0442" "not bf16" -- "$TILEGEN" build --model models/demo.yaml --schedule "$T/wide.lua" --sku h200 -o "$T/wide"
pages=12 gpu_kernel "$T/pages.lua" '"o_proj" { tile = 16 }'
check pages_that_leave_no_room complains 1 "E0408" "at most 11 pages" -- "$TILEGEN" check "$T/pages.lua" --sku h200
check pages_of_the_shipped_schedule complains 1 "the 187392 that a block has" -- "$TILEGEN" check demo/h200 -D page_count=12
printf 'while true do end\n' >"$T/loop.lua"
check endless_loop complains 1 "loop.lua:1" -- "$TILEGEN" check "$T/loop.lua"
printf 'local s = "x" while true do s = s .. s end\n' >"$T/bomb.lua"
check memory_bomb complains 1 "bomb.lua:1" -- "$TILEGEN" check "$T/bomb.lua"
printf '\033Lua' >"$T/code.lua"
check bytecode complains 1 "code.lua" -- "$TILEGEN" check "$T/code.lua"
truncate -s 2G "$T/big.yaml"
check two_gigabytes complains 1 "E0003" -- "$TILEGEN" check "$T/big.yaml"
rm -f "$T/big.yaml"
json() { exits 1 "$TILEGEN" check --diag=json "$T/tile.lua" && grep -q '"code": "E0405"' "$err"; }
check diagnostics_as_json json

# A full disk: no half-written bundle may stay. /dev/full cannot hold a staged file, a size limit can.
full() {
    mkdir -p "$T/full"
    (ulimit -f 4 && trap '' XFSZ && "$TILEGEN" build demo -o "$T/full") 2>"$T/err"
    [ $? -eq 3 ] && grep -q E0004 "$T/err" && [ -z "$(ls -A "$T/full")" ]
}
check disk_full_leaves_nothing full
read_only() {
    touch "$T/file"
    complains 3 "E0004" -- "$TILEGEN" build demo -o "$T/file/sub"
}
check folder_that_cannot_be_made read_only
finish
