#!/usr/bin/env bash
# The bundled model: every stage in order, small enough for two CPU cores.
#
#   recipes/cxr-256.sh RAW RUN
#
# RAW holds jsrt/, nih/ and nih_normal/ (layouts: src/xreal/data/sources). RUN becomes a model folder.
# What it gave, on 2 cores (model card: src/xreal/weights/cxr-256/README.md). A: AVX2, float32; B: bfloat16 instructions:
#
#   stage        steps × batch          time                         val
#   segmenter     1,500 ×  8            24 min, one thread, A        Dice 0.977, 0.979 lungs, 0.946 heart (JSRT)
#   autoencoder     640 × 16 crops      16 min, both threads, A      PSNR 37.1 dB, SSIM 0.962 (not the bundled one)
#   backbone      3,000 × 16            75 min, two processes, A     docs/results.md
#   anatomy         400 ×  4            15 min, one thread, A        PSNR 15.1 dB, SSIM 0.60
#   variation    one pass               5 min, one thread, B        docs/log.md
#   adapter       2,400 × 32            44 min, two processes, B     v-loss with the mask 0.387
#   joint         3,000 × 32            89 min, two processes, B     v-loss with the mask 0.345
#   joint again   2,600 × 32            90 min, two processes, B     v-loss with the mask 0.330
#   and again     3,100 × 32            105 min, two processes, B    v-loss with the mask 0.327
#   and again     2,400 × 32            75 min, two processes, B     v-loss with the mask 0.318
#   transplants     420 × 32            13 min, two processes, B     v-loss with the mask 0.313, the mean below 0.311
#   findings      1,650 × 32            44 min, two processes, B     v-loss with the mask 0.317; docs/log.md
#   signal-leak  one pass               1 min, two threads, B        docs/log.md
#   decoder         700 × 16 crops      6 min, two processes, B      PSNR 36.8 dB, SSIM 0.958
#   detail        4,250 × 32 crops      8 min, NVIDIA H200           docs/log.md
#   texture         250 ×  8            6 min, two threads, B        bands within 0.2 dB
#   film         one pass               1 min, two threads, B        their means within 0.1, deviations within 0.3 dB
#   judges        1,300 × 32, 650 × 8   31 min, one thread, A        src/xreal/weights/judges/README.md
#
# The bundled model came by a detour (docs/log.md). A backbone of four latent channels: 34,000 images with min-SNR weights
# and without boxes, then by `--start` 800 × 16 as the preset now says, and 1,700 × 16 with RSNA's boxes for five more
# findings. Then four more channels beside the four,
#
#   python recipes/widen.py FOUR WIDE --channels 8 --data RUN/data/nih --data RUN/data/nih_normal
#   torchrun ... train backbone ... --autoencoder WIDE --start WIDE --steps 2400 --batch-size 32 --learning-rate 6e-4
#   xreal train decoder ... --autoencoder WIDE --steps 700, and once more from its own weights --steps 500: 37.1 dB
#   torchrun ... train backbone ... --autoencoder WIDE --start WIDE --steps 6400 --batch-size 32 --learning-rate 6e-4 --resume
#   python recipes/latent_errors.py RUN ...; torchrun ... train decoder ... --steps 750, train texture: 37.3 dB, the preset's
#   python recipes/average.py OUT (bundle before)=0.5 (after)=0.5: the mean of the two U-Nets is bundled, docs/log.md
#   torchrun ... train adapter ... --start (that bundle): organ masks go to the U-Net by an adapter
#   torchrun ... train joint ... --start (that bundle) --steps 3000: U-Net, text encoder and adapter on, with one augmented
#   copy of each X-ray; from what came of it once more with five: --steps 2600; and with eleven: --steps 3100. Those copies were
#   zoomed in and had lost the edges of the film; then once more as the preset says, with seven that keep them: --steps 2400
#   On an H200, with fifteen copies: --steps 2550 --batch-size 512 --learning-rate 1e-3, START the mean of before and after
#   xreal transplant RUN/data/nih RUN/data/nih_normal --out MORE; torchrun ... train joint ... --data MORE --start START
#   --steps 420 --learning-rate 3e-4; as trained then, two of five copies of each healthy X-ray held a transplant, which was one
#   draw in five, and images with boxes came three times as often
#   python recipes/average.py OUT (after)=0.7 START=0.3: bundled, with films learnt anew
#   xreal transplant RUN/data/nih RUN/data/nih_normal --out MORE -n 1800 --simulated 1200 --seed 1
#   torchrun ... train joint ... --data MORE --start (that bundle) --steps 1200 --learning-rate 3e-4 --copies 1; from what came of
#   it --steps 450 --learning-rate 2e-4, with small lesions weighing as much as large ones; names were still counted with those of
#   simulated findings, so that real effusions came a third as often
#   python recipes/average.py OUT (after)=0.4 (that bundle)=0.6; cp -r (after)/anatomy_adapter OUT: bundled, films learnt anew
#   torchrun ... train autoguidance ... --data MORE --start (that bundle) --weak (the bundle of commit c28ac6b)
#   --copies 7 --learning-rate 3e-4, from step 250 on --resume --learning-rate 1.2e-4, --steps 600: bundled, texture and films learnt anew;
#   then one mask in ten was left out, and X-rays without one were guided too
#
# `detail` was taught in an earlier form of the network, which dealt pixels out of channels (commit a0042d0). The lines that it
# draws without noise were then taught to the present form, from those weights: mean absolute difference, 1,250 × 8 crops of
# 128, and with that of log amplitudes in six bands, 2,400 × 8, at 1e-3 and 8e-4 falling to 0; 23 minutes on two cores.
#
# Before `joint`, the preset weighed boxes by 9 instead of 3 and drew images with boxes three times as often.
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
torchrun --standalone --nproc_per_node 2 -m -- xreal.cli train backbone "${data[@]}" --preset cxr-256 --out "$run"
xreal train anatomy "${data[@]}" --preset cxr-256 --out "$run"
xreal train variation "${data[@]}" --preset cxr-256 --out "$run"
torchrun --standalone --nproc_per_node 2 -m -- xreal.cli train adapter "${data[@]}" --preset cxr-256 --out "$run"
torchrun --standalone --nproc_per_node 2 -m -- xreal.cli train joint "${data[@]}" --preset cxr-256 --out "$run"
xreal train signal-leak "${data[@]}" --out "$run"
xreal train decoder "${data[@]}" --preset cxr-256 --out "$run"
# On a GPU: xreal train detail "${data[@]}" --preset cxr-256 --out "$run"; in hours of two cores it learns no lines
xreal train texture "${data[@]}" --preset cxr-256 --out "$run"
xreal train film "${data[@]}" --out "$run" --steps 10 # last: what it learns from is what the other networks draw

python "$(dirname "$0")/bundle.py" "$run" "$run/bundle" # half precision, as in the package

# The judges learn from real images alone, and judge.
xreal train encoder "${data[@]}" --data "$run/data/jsrt" --preset cxr-256 --out "$run/judges"
xreal train judge-segmenter --data "$run/data/jsrt" --preset cxr-256 --out "$run/judges"
xreal evaluate --model "$run/bundle" --judges "$run/judges" --real "$run/data/nih" --real "$run/data/nih_normal" \
    --n 100 --out "$run/report"
