"""EfficientFormer (Li et al., arXiv:2206.01191): MB4D with a pooling mixer, MB3D with attention,
and its head."""
