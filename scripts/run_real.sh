#!/usr/bin/env bash
# Runs the whole pipeline on a real flight: prepare, cluster, report, train (joint and fomaml),
# evaluate, view; every job is published to the Kafka topic and run by a mediator.
#
#   scripts/run_real.sh DATA_DIR [NAME]
#
# DATA_DIR holds images/ and model/ (a COLMAP model in ECEF; ENU=1 for one in metres East, North,
# Up). NAME (default: real) names the prepared dataset data/NAME/out/prepared and starts the job
# ids. Settings: TRAIN_S=600 (seconds each training may take), TTO=0,16,64, VIEW=1 (0: no viewer),
# PORT=7070, DOWNSCALE=1.0, GRID="2 2". A mediator that already runs here is used.
set -euo pipefail

usage() { sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 2; }
[ $# -ge 1 ] && [ $# -le 2 ] || usage
data_dir=$(realpath "$1")
name=${2:-real}
cd "$(dirname "$0")/.."
python=.venv/bin/python
[ -x "$python" ] || make install
[ -d "$data_dir/images" ] && [ -d "$data_dir/model" ] ||
  { echo "$data_dir: holds no images/ and model/ folders; name the folder that does" >&2; exit 2; }

read -r rows columns <<<"${GRID:-2 2}"
dataset=data/$name/out/prepared
masks=g${rows}${columns}_grid_bm105_ss11
stamp=$(date -u +%Y%m%dT%H%M%S)
ecef=--ecef_to_enu
[ "${ENU:-0}" = 1 ] && ecef=

if [ -f "$dataset/dataset.json" ]; then
  echo "dataset: $dataset is there already (remove it to prepare it again)"
else
  # shellcheck disable=SC2086
  $python scripts/prepare_dataset.py --data_path "$data_dir" --output_path "$dataset" \
    $ecef --val_split 0.12
fi
if [ ! -f "$dataset/masks/$masks/partition.json" ]; then
  $python scripts/create_clusters.py --data_path "$dataset" --grid_dim "$rows" "$columns" \
    --cluster_2d --boundary_margin 1.05 --output "$masks"
  $python scripts/inspect_dataset.py "$dataset" --clusters "$masks"
fi

mediator_pid=
stop_mediator() { [ -z "$mediator_pid" ] || { kill -TERM "$mediator_pid" && wait "$mediator_pid" || true; }; }
trap stop_mediator EXIT
if ! flock --nonblock --conflict-exit-code 9 logs/ledger.lock true 2>/dev/null; then
  echo "mediator: using the one that already runs here"
else
  .venv/bin/mediator --topic nerfConfigs --grace-s 20 >logs/run_real.out 2>&1 &
  mediator_pid=$!
  $python - <<'PYTHON'
import sys
import time
from pathlib import Path

from kafka_utils.discovery import find_broker

deadline_s = time.monotonic() + 30
while find_broker(None, Path("logs/broker.json")) is None:
    if time.monotonic() > deadline_s:
        sys.exit("no broker within 30 s; logs/run_real.out and logs/mediator.log say why")
    time.sleep(0.1)
PYTHON
fi

send() { # send CONFIG [--set field=value ...]: publish a job and follow it to its end
  local config=$1
  shift
  $python scripts/send_config.py --configPath "$config" --wait "$@" \
    --set "data_path=data/$name/" --set data_dirname=prepared --set "mask_dirname=$masks" \
    --set "downscale=${DOWNSCALE:-1.0}"
}
experts=(--set "num_submodules=$((rows * columns))" --set "time_limit_s=${TRAIN_S:-600}")
for algo in joint fomaml; do
  config=configs/train.json
  [ "$algo" = joint ] || config=configs/train_fomaml.json
  send "$config" --set "job_id=$name-$algo-$stamp" "${experts[@]}"
  send configs/eval.json --set "job_id=$name-eval-$algo-$stamp" --set "tto=${TTO:-0,16,64}" \
    --set "checkpoint_path=$name-$algo-$stamp"
done

$python - "logs/$name-eval-joint-$stamp" "logs/$name-eval-fomaml-$stamp" <<'PYTHON'
import sys
from pathlib import Path

from nerfcore.evaluation import read_metrics, summarise

for folder in map(Path, sys.argv[1:]):
    print(f"\n{folder}\n{summarise(read_metrics(folder)).to_string(index=False)}")
    print(f"pictures: {folder}/comparison/*.png (truth, prediction, error)")
PYTHON

if [ "${VIEW:-1}" != 0 ]; then
  send configs/view.json --set "job_id=$name-view-$stamp" --set "viewer_port=${PORT:-7070}" \
    --set "checkpoint_path=$name-joint-$stamp"
  [ -z "$mediator_pid" ] || { echo "Ctrl-C ends the viewer and the mediator"; wait "$mediator_pid"; }
fi
