"""The supernet: the space's largest network, every position a choice, trained once by
Gumbel-softmax."""
