"""EfficientViT (Cai et al., arXiv:2205.14756): multi-scale linear attention, its stem and its head."""
