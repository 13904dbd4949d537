#!/usr/bin/env bash
# The paper's sizes (arXiv 2403.09240): U-Net of 518 M parameters, text encoder of 582 M, autoencoders of 55 M each.
#
#   recipes/paper.sh PREPARED RUN        PREPARED: frontal X-rays with organ masks, tens of thousands at least
#
# Needs GPUs; step counts are those of the "paper" preset. NOT RUN HERE: no durations and no scores are known. The
# segmenter is the bundled one; the masks in PREPARED come from `xreal prepare ... --segmenter cxr-256`.
set -euo pipefail
prepared=$1 run=$2

for stage in autoencoder backbone anatomy decoder; do
  xreal train "$stage" --data "$prepared" --preset paper --out "$run"
done
