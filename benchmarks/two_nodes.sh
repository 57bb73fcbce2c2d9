#!/usr/bin/env bash
# Two nodes train one network, and one of them dies: two network namespaces joined by a cable, torchrun in each.
#
#     benchmarks/two_nodes.sh FOLDER [STEPS]        as root; needs iproute2
#
# FOLDER is made: a clone of this repository, which the nodes share as they would a network file system; what
# they keep lies beside it. The phantom is trained by both undisturbed, then with everything on the second node
# killed (-9) in the midst and started again, then by one process alone. Says how far the weights of the three
# lie apart.
set -euo pipefail
folder=$1 steps=${2:-60}
git clone --quiet "$(dirname "$0")/.." "$folder"
folder=$(realpath "$folder")
cd "$folder"
export PYTHONPATH=$PWD OMP_NUM_THREADS=1
# With a shared store a node that is started anew never learns where the others meet.
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
git config user.name >/dev/null || git config user.name benchmark
git config user.email >/dev/null || git config user.email benchmark@localhost

id=$$
first=hounsfield-$id-1 second=hounsfield-$id-2
end() {
    ip netns pids "$first" | xargs --no-run-if-empty kill -9 || true
    ip netns pids "$second" | xargs --no-run-if-empty kill -9 || true
    ip netns delete "$first"
    ip netns delete "$second"
}
trap end EXIT
ip netns add "$first"
ip netns add "$second"
ip link add cable netns "$first" type veth peer name cable netns "$second"
number=1
for node in "$first" "$second"; do
    ip -n "$node" address add "10.77.0.$number/24" dev cable
    ip -n "$node" link set lo up
    ip -n "$node" link set cable up
    number=$((number + 1))
done

hounsfield phantom --patients 12 --size 0.5
python - "$steps" <<'END2'
import sys
from ruamel.yaml import YAML
yaml = YAML()
params = yaml.load(open("params.yaml"))
organ = params["organs"]["abdomen"]
organ["train"] |= {"steps": int(sys.argv[1]), "batch_size": 2, "checkpoint_every": 5, "validate_every": 20}
organ["train"]["precision"] = "float32"
organ["train"] |= {"network": {"channels": [8, 16]}, "inference": {"clean": "none"}}
organ["validate"] = {"spacing_range": [0.1, 30], "test_share": 0.2}
organ["patches"] = {"per_case": 8, "size": [16, 24, 24]}
yaml.dump(params, open("params.yaml", "w"))
END2
git add --all && git commit --quiet --message "phantom"
dvc repro --quiet augment@abdomen

# `train NODE HOST HOME`: HOST is 1 on the node that holds the meeting point.
train() {
    # gloo and torchrun would else use the address that the host's name leads to.
    HOUNSFIELD_HOME=$folder-$3 GLOO_SOCKET_IFNAME=cable ip netns exec "$1" \
        torchrun --nnodes 2 --nproc-per-node 1 --max-restarts 3 --rdzv-id "$3" --rdzv-backend c10d \
        --rdzv-endpoint 10.77.0.1:29500 --rdzv-conf "is_host=$2,join_timeout=300" \
        --local-addr "10.77.0.$((2 - $2))" -m pipeline train abdomen
}
# Moved, so that no training can leave the weights of the one before it.
keep() { mv models/abdomen/weights.safetensors "$folder-$1/"; }

echo "== both nodes, undisturbed"
train "$first" 1 undisturbed 2>&1 | sed -u 's/^/first:  /' &
one=$!
train "$second" 0 undisturbed 2>&1 | sed -u 's/^/second: /' &
wait $!
wait $one
keep undisturbed

echo "== both nodes, the second killed at half of the steps"
train "$first" 1 disturbed 2>&1 | sed -u 's/^/first:  /' &
one=$!
train "$second" 0 disturbed 2>&1 | sed -u 's/^/second: /' &
there() { find "$folder-disturbed" -name "$(printf 'step_%08d' "$1")*" 2>/dev/null; }
until [ -n "$(there $((steps / 2 / 5 * 5)))" ]; do sleep 0.05; done
ip netns pids "$second" | xargs kill -9
[ -z "$(there "$steps")" ] || { echo "it had ended already: give more steps" >&2; exit 1; }
sleep 5
echo "== the second started again"
train "$second" 0 disturbed 2>&1 | sed -u 's/^/second: /' &
wait $!
wait $one
keep disturbed

echo "== one process"
HOUNSFIELD_HOME=$folder-alone python -m pipeline train abdomen
keep alone
python - "$folder" <<'END2'
import sys
from safetensors.numpy import load_file

def weights(of):
    return load_file(f"{sys.argv[1]}-{of}/weights.safetensors")

undisturbed = weights("undisturbed")
for other in ("disturbed", "alone"):
    found = weights(other)
    furthest = max(abs(found[name] - weight).max() for name, weight in undisturbed.items())
    print(f"== weights of two undisturbed nodes and {other}: at most {furthest:.3g} apart")
END2
