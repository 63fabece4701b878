"""SwiftFormer (Shaker et al., arXiv:2303.15446): convolutional encoders and efficient additive
attention."""
