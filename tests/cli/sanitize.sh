# The host executor and the compiler under the sanitizers: built apart, run on the demo model.
. "$ROOT/tests/cli/tap.sh.inc"
cd "$ROOT"

# NAME BINARY-FOLDER command...: builds with a sanitizer, then runs tests of that build.
sanitized() {
    local sanitizer=$1
    make -s -j2 SANITIZER="$sanitizer" "build/$sanitizer/tilegen" "build/$sanitizer/tilerun"
}
generate() {
    local sanitizer=$1
    shift
    "build/$sanitizer/tilegen" build demo -o "$TEST_TMP" &&
        "build/$sanitizer/tilerun" generate "$TEST_TMP/demo.bundle" --weights models/demo --prompt 'import os' --max-tokens 24 "$@"
}
ranks() {
    "build/$1/tilegen" build demo/tp2 -o "$TEST_TMP" &&
        "build/$1/tilerun" generate "$TEST_TMP/demo-tp2.bundle" --weights models/demo --prompt 'import os' --max-tokens 16 --threads 4
}
export TSAN_OPTIONS="halt_on_error=1 exitcode=66" UBSAN_OPTIONS="halt_on_error=1 print_stacktrace=1" ASAN_OPTIONS="detect_leaks=1"
check thread_sanitizer_builds sanitized thread
check thread_sanitizer_4_workers generate thread --threads 4
check thread_sanitizer_2_ranks ranks thread
check address_sanitizer_builds sanitized address
check address_sanitizer_generates generate address --threads 2
address_checks() { "build/address/tilegen" check demo demo/tp2 demo/h200; }
check address_sanitizer_compiles address_checks
check undefined_sanitizer_builds sanitized undefined
check undefined_sanitizer_generates generate undefined --threads 2
finish
