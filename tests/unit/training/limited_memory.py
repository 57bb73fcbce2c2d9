"""A step in processes with less and less memory; test_micro_batches.py starts it.

    python limited_memory.py FOLDER

Each is forked from one state and may have so many bytes beside what it has. Prints as JSON, from the first
one that may have all to the first that has too little for a patch, how many patches it computed at once, or
the error; gradients are written into FOLDER.
"""

import json
import os
import resource
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from pipeline.errors import ResourceError
from pipeline.losses.supervised import supervised_loss
from pipeline.networks import build_network
from pipeline.params import LossParams, TrainParams
from pipeline.training.micro_batches import MicroBatches, gradient

BATCH, EDGE = 8, 32
LARGEST, SHRINKS = 3 * 2**27, 0.6


def main(folder):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = build_network("residual_unet", 1, 2, {"channels": (24, 32), "strides": [(1, 1, 1), (2, 2, 2)]})
    image = torch.randn(BATCH, 1, EDGE, EDGE, EDGE)
    label = (image[:, 0] > 1).long()
    # What the first step of a process loads and keeps.
    small = slice(0, 1), slice(0, 8), slice(0, 8), slice(0, 8)
    compute(network, image[:, 0][small][:, None], label[small])
    tries, allowed = [], LARGEST
    while not tries or "error" not in tries[-1]:
        tries.append(limited(network, image, label, allowed, folder / f"{len(tries)}"))
        allowed = int(allowed * SHRINKS)
    first = load_file(folder / "0")
    for number, found in enumerate(tries[:-1]):
        own = load_file(folder / f"{number}")
        found["off by"] = max(float((own[name] - one).norm() / one.norm()) for name, one in first.items())
    print(json.dumps(tries))


def compute(network, image, label):
    """The gradient of a step; the patches that were computed at once."""
    micro = MicroBatches(network, len(image), TrainParams())

    def step():
        network.zero_grad()
        with gradient():
            outputs = network(image) if micro.whole else micro.outputs(image)
            loss = supervised_loss(outputs, network.form.outputs, label, LossParams())
            loss.backward()
        return loss.detach()

    micro.fitting(step)
    return micro.size


def limited(network, image, label, allowed, path):
    """What a child finds that may have `allowed` bytes more than it has."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with open("/proc/self/status", encoding="utf-8") as status:
                has = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData"))
            soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
            resource.setrlimit(resource.RLIMIT_DATA, (has + allowed, hard))
            try:
                found = {"size": compute(network, image, label)}
            except ResourceError as error:
                found = {"error": str(error)}
            resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
            if "size" in found:
                save_file({name: weight.grad for name, weight in network.named_parameters()}, path)
            os.write(write, json.dumps(found).encode())
        finally:
            os._exit(0)
    os.close(write)
    with open(read, encoding="utf-8") as answer:
        found = json.loads(answer.read())
    os.waitpid(child, 0)
    return found


if __name__ == "__main__":
    main(Path(sys.argv[1]))
