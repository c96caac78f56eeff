#!/usr/bin/env bash
# The main job: compile and prove a program for the demo model, then decode text with it.
set -eu
build=$1
here=$(dirname "$0")
prompt=${PROMPT:-$'def softmax(x, axis=-1):\n    """Compute the softmax of x along the given axis.\n\n    Parameters\n    ----------\n'}
echo "== tilegen build demo: model, schedule and SKU become a proved program" >&2
"$build/tilegen" build demo -o "$build" >&2
echo "== tilerun generate: the prompt, then what the model writes" >&2
printf '%s' "$prompt"
"$build/tilerun" generate "$build/demo.bundle" --weights "$here" --prompt "$prompt" --max-tokens "${MAX_TOKENS:-128}"
echo
