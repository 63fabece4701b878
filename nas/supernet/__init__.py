"""The supernet of a space: trained once by Gumbel-softmax, then sliced into any member."""
