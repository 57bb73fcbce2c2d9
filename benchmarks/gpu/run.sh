#!/usr/bin/env bash
# The checks and comparisons that need a GPU: one call of at most ten minutes on a machine without a network.
#
#     benchmarks/gpu/run.sh CARRIED OUT [tests] [steps] [accuracy] [inference]
#     benchmarks/gpu/run.sh CARRIED OUT small
#     benchmarks/gpu/run.sh CARRIED OUT head_and_neck
#
# CARRIED is what prepare.py made; head_and_neck needs only its archive, site and wheels. The machine has
# Python 3.12 with torch 2.11, pandas, pyarrow, scipy, scikit-image, matplotlib, typer, rich, safetensors and
# pytest. Models go to OUT.
set -uo pipefail
carried=$(realpath "$1") out=$(realpath "$2")
shift 2
work=${WORK:-$(mktemp -d)}
export PYTHONPATH=$PWD:$work/site PYTHONUNBUFFERED=1
if [ ! -e "$work/complete" ]; then
    python3 -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$work/site" \
        "$carried"/wheels/*.whl || exit
    cp -r "$carried"/site/. "$work/site/"
    for name in project held_out nnunet; do
        [ ! -e "$carried/$name.tar.xz" ] ||
            python3 benchmarks/gpu/volumes.py unpack "$carried/$name.tar.xz" "$work/$name" || exit
    done
    touch "$work/complete"
fi
# What was best on a CPU, where a small network reached 0.893 by it (docs/figures.md).
: "${ACCURACY=--set train.weight_decay=0.1 augment.rotation_degrees=30 augment.scale=[0.7,1.4]}"
for part in ${@:-tests steps accuracy inference}; do
    echo "== $part $(date +%T)"
    case $part in
    tests)
        timeout 120 python3 -m pytest -q --noconftest -p no:cacheprovider -o filterwarnings=default \
            tests/unit/augmentation/test_policy.py tests/unit/training/test_gpu.py
        ;;
    steps) timeout 240 python3 benchmarks/gpu/steps.py "$work" ${STEPS:-} ;;
    accuracy) timeout 400 python3 benchmarks/gpu/accuracy.py "$work" --out "$out" $ACCURACY ;;
    small) # the network of a CPU, three times, and their ensemble
        timeout 580 python3 benchmarks/gpu/accuracy.py "$work" --out "$out/small" --seeds 0 1 2 \
            ${ACCURACY:---set} train.profile=small train.steps=4000
        ;;
    head_and_neck)
        timeout 580 python3 benchmarks/head_and_neck.py "$carried/head_and_neck.tar.xz" "$work/head_and_neck" \
            --peer "$(command -v python3)" --mirror --set ingest.train_memory_gb=8 ${HEAD_AND_NECK:-}
        ;;
    inference) timeout 120 python3 benchmarks/gpu/inference.py "$work" ;;
    esac
done
echo "== end $(date +%T)"
