#!/usr/bin/env bash
# The bundled model: every stage in order, small enough for two CPU cores.
#
#   recipes/cxr-256.sh RAW RUN
#
# RAW holds jsrt/, nih/ and nih_normal/ (layouts: src/xreal/data/sources). RUN becomes a model folder.
# What it gave, on 2 cores of an AVX2 processor without bfloat16 (model card: src/xreal/weights/cxr-256/README.md):
#
#   stage        steps × batch        time (one thread a stage)   val
#   segmenter     1,500 ×  8          24 min   Dice 0.977, 0.979 lungs, 0.946 heart (JSRT)
#   autoencoder     640 × 16 crops    22 min   PSNR 34.6 dB, SSIM 0.938 (both threads)
#   backbone      2,200 × 16          75 min   loss 0.0406, still falling
#   anatomy         400 ×  4          15 min   PSNR 15.1 dB, SSIM 0.60
#
# The bundled backbone saw the same number of images by a detour: 2,000 × 8 before the prompt reached the time
# embedding, then 250 × 8 and 1,000 × 16 with it (`--start`); docs/log.md. Its bundled numbers are of that run.
#
# Interrupted? Add --resume to the stage that was running and go on from there.
set -euo pipefail
raw=$1 run=$2
export OMP_WAIT_POLICY=passive

xreal prepare jsrt "$raw/jsrt" "$run/data/jsrt"
xreal train segmenter --data "$run/data/jsrt" --preset cxr-256 --out "$run"

# The other sources get their organ masks from that segmenter; implausible ones are left out.
xreal prepare nih-cxr14 "$raw/nih" "$run/data/nih" --segmenter "$run"
xreal prepare nih-cxr14 "$raw/nih_normal" "$run/data/nih_normal" --segmenter "$run"
data=(--data "$run/data/nih" --data "$run/data/nih_normal")

xreal train autoencoder "${data[@]}" --preset cxr-256 --out "$run"
xreal train backbone "${data[@]}" --preset cxr-256 --out "$run"
xreal train anatomy "${data[@]}" --preset cxr-256 --out "$run"

python "$(dirname "$0")/bundle.py" "$run" "$run/bundle" # half precision, as in the package
python "$(dirname "$0")/../benchmarks/control.py" --model "$run/bundle" --data "$run/data/nih" "$run/data/nih_normal"
