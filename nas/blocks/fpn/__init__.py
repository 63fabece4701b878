"""EfficientViT's segmentation head (Cai et al., arXiv:2205.14756), which every family takes."""
