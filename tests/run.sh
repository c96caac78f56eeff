#!/usr/bin/env bash
# Runs every test program and script, each its own process with a time limit, and counts their TAP lines:
# `ok NAME`, `not ok NAME: why`, `skip NAME: why`. Last line: N passed, N failed, N skipped.
set -u
build=$1
export TILEGEN=$PWD/$build/tilegen TILERUN=$PWD/$build/tilerun BUILD=$PWD/$build ROOT=$PWD
export TILEGEN_CACHE= # nothing is kept between tests
passed=0 failed=0 skipped=0
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

run_one() { # name command...
    local name=$1 log=$scratch/log start=$SECONDS
    shift
    mkdir -p "$scratch/tmp"
    TEST_TMP=$scratch/tmp timeout -k 5 "${TEST_LIMIT:-600}" "$@" >"$log" 2>"$log.err" </dev/null
    local status=$? ok not skip
    ok=$(grep -c '^ok ' "$log") not=$(grep -c '^not ok ' "$log") skip=$(grep -c '^skip ' "$log")
    rm -rf "$scratch/tmp"
    if [ $status -ne 0 ] && [ "$not" -eq 0 ]; then
        not=1
        echo "not ok $name: exit status $status$([ $status -eq 124 ] && echo ' (time limit)')"
        tail -n 20 "$log.err"
    fi
    if [ $((ok + not + skip)) -eq 0 ]; then
        not=1
        echo "not ok $name: it ran no test"
    fi
    grep -E '^(not ok|skip|#) ' "$log"
    [ "$not" -gt 0 ] && tail -n 20 "$log.err"
    printf '%-28s %4d passed %3d failed %3d skipped  %3d s\n' "$name" "$ok" "$not" "$skip" $((SECONDS - start))
    passed=$((passed + ok)) failed=$((failed + not)) skipped=$((skipped + skip))
}

for source in tests/test_*.c; do
    name=$(basename "$source" .c)
    [[ $name == ${ONLY:-*} ]] && run_one "$name" "$build/tests/$name"
done
for script in tests/cli/*.sh; do
    [ -e "$script" ] || continue
    name=$(basename "$script" .sh)
    [[ $name == ${ONLY:-*} ]] && run_one "$name" bash "$script"
done
for source in tests/fuzz/fuzz_*.c; do
    [ -e "$source" ] || continue
    name=$(basename "$source" .c)
    [[ $name == ${ONLY:-*} ]] && run_one "$name" "$build/replay/$name" "tests/fuzz/corpus/$name"
done
echo "$passed passed, $failed failed, $skipped skipped"
[ $failed -eq 0 ]
