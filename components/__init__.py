"""The stages as containers: images, their Kubeflow descriptions, and what builds and compiles them."""
