#!/usr/bin/env bash
# The paper's sizes (arXiv 2403.09240): U-Net of 518 M parameters, text encoder of 582 M, autoencoders of 55 M each.
#
#   recipes/paper.sh PREPARED RUN        PREPARED: frontal X-rays with organ masks, tens of thousands at least
#
#   GPUS=8          on this machine; the batch is shared by them
#
# MIMIC-CXR: xreal prepare mimic-cxr-jpg RAW PREPARED --segmenter cxr-256 --workers 8
#
# Needs GPUs; step counts are those of the "paper" preset. NOT RUN HERE: no durations and no scores are known. The
# segmenter is the bundled one. What `xreal train STAGE --preset paper --dry-run --processes 8` says, per GPU:
#
#   stage                 batch   on each   G FLOPs per image   weights, optimizer   activations
#   autoencoder, anatomy     16         2               2,841               1.1 GB        5.1 GB
#   backbone                 64         8               1,384              21.4 GB       13.4 GB
set -euo pipefail
prepared=$1 run=$2

for stage in autoencoder backbone anatomy adapter decoder; do
  torchrun --standalone --nproc_per_node "${GPUS:-8}" -m -- xreal.cli train "$stage" --data "$prepared" --preset paper \
      --out "$run"
done
