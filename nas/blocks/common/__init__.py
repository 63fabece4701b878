"""Blocks that several families share: convolutional stems, embeddings, inverted residuals and
heads."""
