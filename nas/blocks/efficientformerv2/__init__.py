"""EfficientFormerV2 (Li et al., arXiv:2212.08059): unified feed-forward blocks, attention with
stride, dual-path embeddings."""
