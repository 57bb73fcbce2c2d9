"""How deep in a network each of its weights is."""

from typing import Any

from torch import Tensor

from pipeline.networks.base import Network

Node = Any
"""Of PyTorch's record of a computation: an operation, with those whose results it took."""


def depths(network: Network, image: Tensor) -> dict[str, int]:
    """By the name of a weight: operations from the image to where it is first used, on the longest way there.

    Read off the record that PyTorch keeps of a computation for its gradient, so it needs no word of the
    network, and paths that run side by side are each counted from their own beginning.

    Args:
        network: on the device of the image; it is left in training.
        image: (1, in_channels, *form.input_size(output)).

    Returns:
        The shallowest first, of several as deep those first that the network names first.
    """
    given = image.detach().clone().requires_grad_()
    result: Tensor = network.eval()(given)
    network.train()
    nodes = _before(result.grad_fn)
    names = {weight: name for name, weight in network.named_parameters()}
    # Where the image has not come to, a node has only weights behind it: which ones.
    depth: dict[Node, int] = {}
    behind: dict[Node, set[str]] = {}
    found: dict[str, int] = {}
    for node in nodes:
        variable = getattr(node, "variable", None)
        parents = _parents(node)
        if variable is given:
            depth[node] = 0
        elif any(parent in depth for parent in parents):
            depth[node] = 1 + max(depth[parent] for parent in parents if parent in depth)
            for name in {name for parent in parents for name in behind.get(parent, ())}:
                found[name] = min(depth[node], found.get(name, depth[node]))
        else:
            own = {names[variable]} if variable in names else set()
            behind[node] = own.union(*(behind.get(parent, ()) for parent in parents))
    order = list(names.values())
    return dict(sorted(found.items(), key=lambda item: (item[1], order.index(item[0]))))


def _parents(node: Node) -> list[Node]:
    return [parent for parent, _ in node.next_functions if parent is not None]


def _before(last: Node) -> list[Node]:
    """All nodes that lead to the last, each after those whose results it took."""
    done: dict[Node, None] = {}
    waiting = [(last, False)]
    while waiting:
        node, ready = waiting.pop()
        if node in done:
            continue
        if ready:
            done[node] = None
        else:
            waiting.append((node, True))
            waiting += [(parent, False) for parent in _parents(node) if parent not in done]
    return list(done)
