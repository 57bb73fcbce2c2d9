"""The networks that `train.network.name` may name: a file each, called as the network is.

A file holds its network as `NETWORK`, a subclass of `pipeline.networks.base.Network`.
"""
