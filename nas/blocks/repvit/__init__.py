"""RepViT (Wang et al., arXiv:2307.09283): re-parameterised depthwise mixing, squeeze-and-excitation in
every second block, and feed-forward networks of 1x1 convolutions."""
