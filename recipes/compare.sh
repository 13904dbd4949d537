#!/usr/bin/env bash
# The paper's comparison (arXiv 2403.09240): text only, concatenation, ControlNet, XReal two-pass and regional, on the
# same data, by the same judges, in one table: RUN/compare.md.
#
#   recipes/compare.sh RUN PREPARED...     PREPARED: X-rays with organ masks, train and val
#
#   PRESET=cxr-256  sizes and lengths of the stages        N=200       images per row
#   STEPS=          steps of backbone and concat           CONTROL_STEPS=STEPS  of controlnet and anatomy, if not the preset's
#   LAUNCH=xreal    or "torchrun --standalone --nproc_per_node 8 -m -- xreal.cli"
#
# All share one autoencoder. ControlNet and XReal share one backbone, which they leave as it is; concatenation trains its
# own for as many steps. NOT RUN TO THE END HERE: no duration and no score is known; a few steps of each stage were.
set -euo pipefail
run=$1
shift
data=()
for folder in "$@"; do data+=(--data "$folder"); done
real=("${data[@]/--data/--real}")
preset=(--preset "${PRESET:-cxr-256}")
steps=() control_steps=()
[ -z "${STEPS:-}" ] || steps=(--steps "$STEPS") control_steps=(--steps "${CONTROL_STEPS:-$STEPS}")
read -ra launch <<<"${LAUNCH:-xreal}"

train() { "${launch[@]}" train "$1" "${data[@]}" "${preset[@]}" "${@:2}"; }

train autoencoder --out "$run/xreal" "${steps[@]}"
train backbone --out "$run/xreal" "${steps[@]}"
train anatomy --out "$run/xreal" "${control_steps[@]}"
train concat --autoencoder "$run/xreal" --out "$run/concat" "${steps[@]}"
train controlnet --start "$run/xreal" --out "$run/controlnet" "${control_steps[@]}"

n=${N:-200}
xreal evaluate --model "$run/xreal" "${real[@]}" -n "$n" --two-pass-n "$n" --only fidelity,anatomy,pathology \
    --out "$run/reports/xreal"
for name in concat controlnet; do
  xreal evaluate --model "$run/$name" "${real[@]}" -n "$n" --two-pass-n 0 --only fidelity,anatomy,pathology \
      --out "$run/reports/$name"
done
python "$(dirname "$0")/compare.py" "$run/reports"
