# Kernels: every target of build.lua for a GPU compiles, within its budgets and in time; the cache; what is said where
# there is no CUDA compiler. No GPU is needed.
. "$ROOT/tests/cli/tap.sh.inc"
cd "$ROOT"
T=$TEST_TMP
export TILEGEN_CACHE=$T/cache

targets=$("$TILEGEN" sku targets | awk 'NR > 1 && $3 != "host" { print $1 }')
check build_lua_has_gpu_targets test -n "$targets"

absent() { complains 3 "E0451" "make cuda" -- env TILEGEN_NVRTC=/nonexistent/libnvrtc.so "$TILEGEN" build demo/h200 -o "$T/absent"; [ ! -e "$T/absent" ]; }
check no_compiler_is_told absent
absent_explain() { exits 0 env TILEGEN_NVRTC=/nonexistent/libnvrtc.so "$TILEGEN" explain demo/h200 && grep -q 'not compiled: no CUDA compiler' "$out" && grep -q 'floor us' "$out"; }
check explain_without_a_compiler absent_explain
check check_without_a_compiler exits 0 env TILEGEN_NVRTC=/nonexistent/libnvrtc.so "$TILEGEN" check demo/h200
check host_targets_need_no_compiler exits 0 env TILEGEN_NVRTC=/nonexistent/libnvrtc.so "$TILEGEN" build demo -o "$T/absent"
check a_library_that_is_no_compiler complains 3 "E045" -- env TILEGEN_NVRTC=/proc/self/exe "$TILEGEN" build demo/h200 -o "$T/absent"
check cuda_text exits 0 "$TILEGEN" dump demo/h200 --after=cuda
check host_has_no_kernel complains 1 "E0441" -- "$TILEGEN" dump demo --after=cuda
check with_graph_of_a_host_target complains 1 "E0441" "no kernel" -- "$TILEGEN" build demo --with-graph -o "$T/absent"
check workers_out_of_range complains 1 "E0413" "132" -- "$TILEGEN" check demo/h200 --workers 133
check workers_that_are_no_number complains 2 "--workers wants" -- "$TILEGEN" check demo/h200 --workers 0
check fewer_workers exits 0 "$TILEGEN" check demo/h200 --workers 7
# A Prog edited by hand: refused by the proof, built without it; one of something else is told.
edited() {
    "$TILEGEN" dump demo --after=prog >"$T/own.prog" || return 1
    exits 0 "$TILEGEN" build demo --prog "$T/own.prog" -o "$T/own" || return 1
    sed '0,/ wait attn.w\[0\]>=8/s// wait attn.w[0]>=9/' "$T/own.prog" >"$T/never.prog"
    ! cmp -s "$T/own.prog" "$T/never.prog" || return 1
    complains 1 "E0603" -- "$TILEGEN" build demo --prog "$T/never.prog" -o "$T/own" || return 1
    exits 0 "$TILEGEN" build demo --prog "$T/never.prog" --no-prove -o "$T/own" || return 1
    complains 1 "E0414" -- "$TILEGEN" build demo/h200 --prog "$T/own.prog" -o "$T/own"
}
check a_prog_edited_by_hand edited

if "$TILEGEN" explain demo/h200 2>/dev/null | grep -q 'not compiled'; then
    for target in $targets; do echo "skip kernel_of_$target: no CUDA compiler here"; done
    for name in cache templates ptx nvcc; do echo "skip kernel_$name: no CUDA compiler here"; done
    finish
fi
# A driver whose kernel computes nothing: the first step of the prompt differs.
fake_diff() {
    complains 4 "E0918" -- env TILERUN_CUDA="$BUILD/tests/libfakecuda.so" "$TILEGEN" diff demo/h200 "$@" && grep -q "embed" "$out"
}
check diff_against_a_kernel_that_does_nothing fake_diff
check diff_as_json fake_diff --json
check diff_with_random_weights fake_diff --weights synthetic:1 --layers 2
seq 1 20 >"$T/ids"
check diff_of_other_tokens fake_diff --tokens "$T/ids"
echo "1 2 x" >"$T/ids"
check diff_of_tokens_that_are_none complains 1 "E0902" "ids:1:5" -- env TILERUN_CUDA="$BUILD/tests/libfakecuda.so" "$TILEGEN" diff demo/h200 --tokens "$T/ids"
check diff_of_an_op_that_is_not_run complains 2 'has no op "merge"' -- env TILERUN_CUDA="$BUILD/tests/libfakecuda.so" "$TILEGEN" diff demo/h200 --stop-after merge
rm -rf "$TILEGEN_CACHE"

# NVRTC's seconds of a target are printed (20 are the aim, on a quiet core); a spill or a budget overrun makes explain fail.
# Two at a time, those of one SKU first: targets that differ in nothing else share a kernel.
export T
explain_some() { xargs -P 2 -I{} sh -c '"$TILEGEN" explain {} >"$T/explain.$(echo {} | tr / -)" 2>&1'; }
printf '%s\n' $targets | grep h200 | explain_some
printf '%s\n' $targets | grep -v h200 | explain_some
compiles() {
    local explained="$T/explain.${1//\//-}" seconds
    cat "$explained" >"$out" # what is shown when it fails
    grep -q '0 bytes stored, 0 loaded; 0 bytes of stack' "$explained" || return 1
    grep -E '^  (registers|cubin) ' "$explained" | sed "s|^|# $1|" >&3
    seconds=$(sed -n 's/.*compiled in \([0-9.]*\) s$/\1/p' "$explained")
    # Targets may share a kernel: then it is in the cache already.
    [ -z "$seconds" ] || awk -v s="$seconds" 'BEGIN { exit !(s < 60) }'
}
same_again() { # from the cache: the same bytes, and fast
    local name=${1//\//-} start
    exits 0 "$TILEGEN" build "$1" -o "$T/a" || return 1
    start=$(date +%s%N)
    exits 0 "$TILEGEN" build "$1" -o "$T/b" || return 1
    local ms=$((($(date +%s%N) - start) / 1000000))
    echo "# $1: built again in $ms ms" >&3
    cmp "$T/a/$name.bundle" "$T/b/$name.bundle" && [ $ms -lt 1000 ]
}
exec 3>&1
for target in $targets; do
    check "kernel_of_$target" compiles "$target"
    check "kept_bundle_of_$target" same_again "$target"
done

# The graph arm: a second kernel, on request alone, within the same budgets; the engine's is the same with and without.
# Kernels without spills: both, or the engine's alone where that of the graph, a control, has a few words.
with_graph() {
    exits 0 "$TILEGEN" explain "$1" --with-graph || return 1
    [ "$(grep -c '0 bytes stored, 0 loaded; 0 bytes of stack' "$out")" -ge "$2" ] && grep -q '^kernel of the graph arm' "$out" || return 1
    local name=${1//\//-}
    exits 0 "$TILEGEN" build "$1" --with-graph -o "$T/g" --keep && ! cmp -s "$T/a/$name.bundle" "$T/g/$name.bundle" || return 1
    exits 0 "$TILEGEN" build "$1" -o "$T/h" --keep && cmp "$T/g/$name.cubin" "$T/h/$name.cubin" && cmp "$T/a/$name.bundle" "$T/h/$name.bundle" || return 1
    [ ! -e "$T/h/$name.graph.cubin" ] && grep -q 'graph_node<Model>' "$T/g/$name.graph.cu" && grep -aq tilegen_node "$T/g/$name.graph.cubin"
}
check graph_arm_of_demo with_graph demo/h200 2
check graph_arm_of_mimo with_graph mimo-v2.5-pro/h200-tp8 1

uncached() {
    exits 0 env TILEGEN_CACHE= "$TILEGEN" build demo/h200 -o "$T/c" --keep && cmp "$T/a/demo-h200.bundle" "$T/c/demo-h200.bundle" &&
        [ -s "$T/c/demo-h200.cu" ] && [ -s "$T/c/demo-h200.cubin" ] && [ -s "$T/c/demo-h200.prog" ]
}
check the_same_bytes_without_a_cache uncached
elsewhere() { (cd / && exits 0 env TILEGEN_CACHE= "$TILEGEN" build demo/h200 -o "$T/c") && cmp "$T/a/demo-h200.bundle" "$T/c/demo-h200.bundle"; }
check the_same_bytes_from_another_folder elsewhere
no_paths() { ! grep -aqF -e "$ROOT" -e "$T" "$T/a/demo-h200.bundle"; }
check no_path_of_the_machine_in_a_bundle no_paths
damaged() {
    local entry
    for entry in "$TILEGEN_CACHE"/*; do printf X | dd of="$entry" bs=1 seek=$(($(stat -c %s "$entry") - 9)) conv=notrunc status=none; done
    exits 0 "$TILEGEN" build demo/h200 -o "$T/d" && cmp "$T/a/demo-h200.bundle" "$T/d/demo-h200.bundle" || return 1
    for entry in "$TILEGEN_CACHE"/*; do : >"$entry"; done
    exits 0 "$TILEGEN" build demo/h200 -o "$T/d" && cmp "$T/a/demo-h200.bundle" "$T/d/demo-h200.bundle"
}
check damaged_entries_are_made_again damaged
unwritable() {
    touch "$T/file"
    exits 0 env TILEGEN_CACHE="$T/file/cache" "$TILEGEN" build demo/h200 -o "$T/e" && grep -q '^note: nothing is kept in the cache' "$err" &&
        cmp "$T/a/demo-h200.bundle" "$T/e/demo-h200.bundle"
}
check a_cache_that_cannot_be_written_is_a_note unwritable
at_once() {
    rm -rf "$TILEGEN_CACHE"
    local pids=() pid i
    for i in 1 2 3; do "$TILEGEN" build demo/h200 -o "$T/once$i" >/dev/null & pids+=($!); done
    for pid in "${pids[@]}"; do wait "$pid" || return 1; done
    for i in 1 2 3; do cmp "$T/a/demo-h200.bundle" "$T/once$i/demo-h200.bundle" || return 1; done
    [ -z "$(find "$TILEGEN_CACHE" -name '*.partial')" ]
}
check three_at_once at_once
keyed() { # what is set is part of the key
    exits 0 "$TILEGEN" build demo/h200 -o "$T/w" --workers 66 && grep -aq '"workers": 66' "$T/w/demo-h200.bundle" &&
        exits 0 "$TILEGEN" build demo/h200 -o "$T/w" && cmp "$T/a/demo-h200.bundle" "$T/w/demo-h200.bundle" &&
        exits 0 "$TILEGEN" build demo/h200 -o "$T/w" -D split=2 && ! cmp -s "$T/a/demo-h200.bundle" "$T/w/demo-h200.bundle"
}
check settings_are_part_of_the_key keyed
ptx() { exits 0 "$TILEGEN" dump demo/h200 --after=ptx && grep -q '^.target sm_90a' "$out" && grep -q tilegen_engine "$out"; }
check ptx ptx

# A home of its own, whose templates are spoilt.
mkdir -p "$T/home" && cp -r build.lua schedules models/*.yaml templates "$T/home/" && mkdir "$T/home/models" && mv "$T"/home/*.yaml "$T/home/models/"
pristine=$T/pristine.cuh && cp templates/engine.cuh "$pristine"
spoil() { { cat "$pristine" && printf '%s\n' "$1"; } >"$T/home/templates/engine.cuh"; }
in_home() { (cd "$T/home" && exec "$TILEGEN" build demo/h200 -o "$T/home/build"); }
broken() {
    spoil '__device__ int spoilt() { return mistake; }'
    complains 1 "templates/engine.cuh:$(($(wc -l <"$pristine") + 1)):34: error[E0453]" "mistake" "^^^^^^^" -- in_home && [ ! -e "$T/home/build/demo-h200.bundle" ]
}
check a_broken_template_has_line_and_column broken
warned() { # told every time, so nothing is kept
    spoil 'static __device__ int lazy() { int unused = 1; return 2; }'
    for i in 1 2; do exits 0 in_home && grep -q 'warning\[E0457\]' "$err" || return 1; done
}
check a_warning_comes_every_time warned
spilling() {
    spoil 'extern "C" __global__ void __launch_bounds__(1024, 2) spill(float *p, int n) {
    float a[64];
#pragma unroll
    for (int i = 0; i < 64; i++) a[i] = p[i * n];
    for (int j = 0; j < n; j++)
#pragma unroll
        for (int i = 0; i < 64; i++) a[i] += a[(i * 7 + 3) % 64] * p[j + i];
#pragma unroll
    for (int i = 0; i < 64; i++) p[i] = a[i];
}'
    complains 1 "E0454" -- in_home
}
check a_spill_is_refused spilling
greedy() { # 11 pages fill what a kernel as it should be leaves of 225280 bytes
    sed -i 's/232448/225280/' "$T/home/build.lua"
    spoil 'extern "C" __global__ void greedy(int *p) { __shared__ int s[12000]; s[threadIdx.x] = *p; __syncthreads(); *p = s[*p]; }'
    complains 1 "E0455" "shared memory" -- in_home
}
check too_much_shared_memory_is_refused greedy
no_templates() { rm -r "$T/home/templates" && complains 3 "E0458" -- in_home; }
check no_templates no_templates

nvcc=$(command -v nvcc || ls "${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" 2>/dev/null)
if [ -z "$nvcc" ]; then
    echo "skip nvcc: none here"
else
    for header in templates/*.cuh templates/*.h; do
        name=$(basename "$header")
        echo "#include \"$name\"" >"$T/alone.cu"
        check "nvcc_compiles_$name" "$nvcc" -std=c++17 -gencode=arch=compute_90a,code=sm_90a -I templates -cubin -o "$T/alone.cubin" "$T/alone.cu"
    done
fi
finish
