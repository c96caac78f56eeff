#!/usr/bin/env bash
# First light on a GPU: text against the host executor.
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
case $(nvidia-smi --query-gpu=name --format=csv,noheader | head -1) in *H200*) sku=h200 ;; *) sku=h100-sxm ;; esac
B=build/demo-$sku.bundle
P='def main():'
timeout 20 build/tilerun generate $B --weights models/demo --prompt "$P" --max-tokens 40 --host; echo
timeout 20 build/tilerun generate $B --weights models/demo --prompt "$P" --max-tokens 40 --json; echo "exit $?"
timeout 20 build/tilerun generate $B --weights models/demo --prompt "$P" --max-tokens 40 --no-draft; echo "exit $?"
