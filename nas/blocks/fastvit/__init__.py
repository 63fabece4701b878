"""FastViT (Vasu et al., arXiv:2303.14189): RepMixer blocks, softmax attention and convolutional
feed-forward networks, with branches that inference folds away."""
