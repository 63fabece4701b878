"""EMO (Zhang et al., arXiv:2301.01146): the inverted residual mobile block (iRMB) and its stem."""
