#!/usr/bin/env bash
# The paper's comparison (arXiv 2403.09240): text only, concatenation, ControlNet, XReal two-pass and regional, with the
# adapter and without, on the same data, by the same judges, in one table: RUN/compare.md.
#
#   recipes/compare.sh RUN PREPARED...     PREPARED: X-rays with organ masks, train and val
#
#   PRESET=cxr-256         sizes and lengths of the stages
#   STEPS=                 of autoencoder and backbone, if not the preset's
#   CONTROL_STEPS=STEPS    of anatomy, adapter, controlnet and concat
#   BATCH_SIZE=            of all stages
#   N=200 TWO_PASS_N=20    images per row, of the row two-pass
#   LAUNCH=xreal           or "torchrun --standalone --nproc_per_node 8 -m -- xreal.cli"
#   MODEL=                 an XReal model, such as cxr-256, to compare with instead of training one in RUN/xreal
#
# All share one autoencoder and one backbone; none is trained jointly with its adapter (`xreal train joint`). ControlNet and XReal leave it as it is; concatenation trains it on, for as
# many steps as ControlNet trains. Killed, it goes on where it was when it is started again. NOT RUN AT FULL LENGTH HERE:
# docs/comparison.md has scores after 1,200 × 32 (concat) and 1,000 × 32 (controlnet), on two cores.
set -euo pipefail
run=$1
shift
data=()
for folder in "$@"; do data+=(--data "$folder"); done
real=("${data[@]/--data/--real}")
preset=(--preset "${PRESET:-cxr-256}")
steps=() control_steps=()
CONTROL_STEPS=${CONTROL_STEPS:-${STEPS:-}}
[ -z "${STEPS:-}" ] || steps=(--steps "$STEPS")
[ -z "$CONTROL_STEPS" ] || control_steps=(--steps "$CONTROL_STEPS")
[ -z "${BATCH_SIZE:-}" ] || preset+=(--batch-size "$BATCH_SIZE")
read -ra launch <<<"${LAUNCH:-xreal}"

# train STAGE OUT OPTION...: begins, or goes on from the last checkpoint.
train() {
  local resume=() kept="$2/training/$1/checkpoint"
  if [ -d "$kept" ] || [ -d "$kept.old" ]; then resume=(--resume); fi
  "${launch[@]}" train "$1" --out "$2" "${data[@]}" "${preset[@]}" "${resume[@]}" "${@:3}"
}

model=${MODEL:-$run/xreal}
if [ -z "${MODEL:-}" ]; then
  train autoencoder "$model" "${steps[@]}"
  train backbone "$model" "${steps[@]}"
  train anatomy "$model" "${control_steps[@]}"
  train adapter "$model" "${control_steps[@]}"
fi
train concat "$run/concat" --autoencoder "$model" --start "$model" "${control_steps[@]}"
train controlnet "$run/controlnet" --start "$model" "${control_steps[@]}"

n=${N:-200}
xreal evaluate --model "$model" "${real[@]}" -n "$n" --two-pass-n "${TWO_PASS_N:-20}" --only fidelity,anatomy,pathology \
    --out "$run/reports/xreal"
for name in concat controlnet; do
  xreal evaluate --model "$run/$name" "${real[@]}" -n "$n" --rows regional --only fidelity,anatomy,pathology \
      --out "$run/reports/$name"
done
python "$(dirname "$0")/compare.py" "$run/reports"
