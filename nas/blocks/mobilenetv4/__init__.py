"""MobileNetV4 (Qin et al., arXiv:2404.10518): universal inverted bottlenecks and mobile multi-query
attention."""
